package config

import (
	"strconv"

	"github.com/BurntSushi/toml"
)

// The defaults that commands fall back to.
const (
	defaultSocket = "/run/multiroute/agent.sock"
	defaultMask   = 0xff000000
)

// Fallback is what can be said about where a daemon is and what it owns when
// the configuration cannot be used: every value that can be read, else the
// default. Only API and Router.MarkMask are set. It is for commands that must
// work all the same (purge, status).
func Fallback(path string) *Config {
	c := &Config{Router: Router{MarkMask: defaultMask}, API: API{Socket: defaultSocket}}
	for _, f := range read(path) {
		var part struct {
			API struct {
				Socket string `toml:"socket"`
				Group  string `toml:"group"`
			} `toml:"api"`
			Router struct {
				MarkMask string `toml:"mark_mask"`
			} `toml:"router"`
		}
		if _, err := toml.Decode(string(f.text), &part); err != nil {
			continue // the caller has reported it already, or need not know
		}
		if part.API.Socket != "" {
			c.API.Socket = part.API.Socket
		}
		if part.API.Group != "" {
			c.API.Group = part.API.Group
		}
		if mask, err := strconv.ParseUint(part.Router.MarkMask, 0, 32); err == nil && mask != 0 {
			c.Router.MarkMask = uint32(mask)
		}
	}
	return c
}
