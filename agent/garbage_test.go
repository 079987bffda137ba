package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"multiroute/agent/config"
)

// TestSpare: a long configuration is read with little garbage, an ordinary one
// with little collecting.
func TestSpare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, want int }{{100, garbageShort}, {longConfig, garbageShort}, {longConfig + 1, garbageLong}} {
		file := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(file, []byte(strings.Repeat("#", c.size)), 0o600); err != nil {
			t.Fatal(err)
		}
		var got int
		Options{Garbage: func(percent int) { got = percent }}.spare(config.Read(file))
		if got != c.want {
			t.Errorf("%d bytes: %d %%, want %d", c.size, got, c.want)
		}
	}
	Options{}.spare(config.Read("nowhere"))
}
