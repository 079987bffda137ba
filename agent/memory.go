package agent

import (
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/agent/keep"
	"multiroute/routes"
)

// memory is what the next agent should know: which uplinks are dead, so that
// it does not put connections on them before its own probes have found out,
// and which were taken out by hand.
type memory struct {
	Legs     map[string]health.Memory `json:"legs"` // by "NAME/4" and "NAME/6"
	Disabled map[string]time.Time     `json:"disabled"`
}

// parseLeg is the reverse of health.Leg.String.
func parseLeg(text string) (health.Leg, bool) {
	name, family, ok := strings.Cut(text, "/")
	switch {
	case ok && family == "4":
		return health.Leg{Uplink: name, Family: routes.IPv4}, true
	case ok && family == "6":
		return health.Leg{Uplink: name, Family: routes.IPv6}, true
	}
	return health.Leg{}, false
}

// memoryFile is where it is kept.
func memoryFile(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.API.Socket), "health.json")
}

// recall reads what a predecessor left.
func recall(path string) (map[health.Leg]health.Memory, disabled, error) {
	legs, out := map[health.Leg]health.Memory{}, disabled{}
	var m memory
	if ok, err := keep.Load(path, &m); !ok {
		return legs, out, err
	}
	for text, v := range m.Legs {
		if leg, ok := parseLeg(text); ok {
			legs[leg] = v
		}
	}
	for name, until := range m.Disabled {
		out[name] = until
	}
	return legs, out, nil
}

// remember leaves it for the next one, if it has changed.
func (d *daemon) remember() {
	m := memory{Legs: map[string]health.Memory{}, Disabled: map[string]time.Time{}}
	for leg, v := range d.monitor.Memories() {
		m.Legs[leg.String()] = v
	}
	for name, until := range d.disabled {
		m.Disabled[name] = until
	}
	if d.memoryFile == "" || reflect.DeepEqual(m, d.remembered) {
		return
	}
	if err := keep.Save(d.memoryFile, m); err != nil {
		d.Log.Warn("a restart would forget which uplinks are dead", "err", err)
	}
	d.remembered = m // also if that failed: said once
}
