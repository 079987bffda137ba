package config

import (
	"testing"
)

func TestSmoke(t *testing.T) {
	for _, text := range []string{Minimal, Reference} {
		cfg, err := Parse([]File{{"agent.toml", []byte(text)}})
		t.Logf("%+v\n%v", cfg, err)
	}
}
