package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFallback(t *testing.T) {
	t.Parallel()
	want := func(socket, group string, mask uint32) *Config {
		return &Config{Router: Router{MarkMask: mask, ManageSysctls: true}, API: API{Socket: socket, Group: group, HTTP: "127.0.0.1:9780"}}
	}
	const socket = "/run/multiroute/agent.sock"
	tests := []struct {
		name    string
		content map[string]string
		want    *Config
	}{
		{"nothing there", nil, want(socket, "multiroute", 0xff000000)},
		{"no uplink", map[string]string{"agent.toml": "[api]\nsocket = '/tmp/a'\n"}, want("/tmp/a", "multiroute", 0xff000000)},
		{"syntax error in one file", map[string]string{
			"agent.toml":     "router.mark_mask = '0xff00'\n",
			"agent.d/a.toml": "a = \n",
			"agent.d/b.toml": "[api]\ngroup = 'root'\n",
		}, want(socket, "root", 0xff00)},
		{"bad values", map[string]string{
			"agent.toml":     "[router]\nmark_mask = '0xff00'\n[api]\nsocket = '/tmp/a'\n",
			"agent.d/a.toml": "[router]\nmark_mask = '0xffffffff'\n[api]\nsocket = 'a'\ngroup = 3\n",
		}, want("/tmp/a", "multiroute", 0xff00)},
		{"nested without end", map[string]string{"agent.toml": "a = " + strings.Repeat("[", 8<<20-4)}, want(socket, "multiroute", 0xff000000)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Fallback(filepath.Join(folder(t, tt.content), "agent.toml"))
			if diff := cmp.Diff(tt.want, got, netipEqual...); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
