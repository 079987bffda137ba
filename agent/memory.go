package agent

import (
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/agent/keep"
	"multiroute/agent/plan"
	"multiroute/routes"
)

// memory is what the next agent should know: which uplinks are dead, so that
// it does not put connections on them before its own probes have found out,
// which were taken out by hand, and since when they all are what they are.
type memory struct {
	Legs     map[string]health.Memory `json:"legs"` // by "NAME/4" and "NAME/6"
	Disabled map[string]time.Time     `json:"disabled"`
	Uplinks  map[string]lasting       `json:"uplinks"`
}

// lasting is since when an uplink is in a state.
type lasting struct {
	State plan.State `json:"state"`
	Since time.Time  `json:"since"`
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
func recall(path string) (memory, error) {
	var m memory
	if ok, err := keep.Load(path, &m); !ok {
		return memory{}, err // not the half of it
	}
	return m, nil
}

// legs is what the probes said.
func (m memory) legs() map[health.Leg]health.Memory {
	legs := map[health.Leg]health.Memory{}
	for text, v := range m.Legs {
		if leg, ok := parseLeg(text); ok {
			legs[leg] = v
		}
	}
	return legs
}

// since returns since when an uplink is in a state that it is found in now.
func (m memory) since(name string, s plan.State, now time.Time) time.Time {
	if u := m.Uplinks[name]; u.State == s && u.Since.Before(now) {
		return u.Since
	}
	return now
}

// remember leaves it for the next one, if it has changed.
func (d *daemon) remember() {
	m := memory{Legs: map[string]health.Memory{}, Disabled: map[string]time.Time{}, Uplinks: map[string]lasting{}}
	for leg, v := range d.monitor.Memories() {
		m.Legs[leg.String()] = v
	}
	for name, until := range d.disabled {
		m.Disabled[name] = until
	}
	for name, s := range d.states {
		m.Uplinks[name] = lasting{s.state, s.since.Round(0)}
	}
	if d.memoryFile == "" || reflect.DeepEqual(m, d.remembered) {
		return
	}
	if err := keep.Save(d.memoryFile, m); err != nil {
		d.Log.Warn("a restart would forget which uplinks are dead", "err", err)
	}
	d.remembered = m // also if that failed: said once
}
