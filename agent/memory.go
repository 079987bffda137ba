package agent

import (
	"maps"
	"reflect"
	"time"

	"multiroute/agent/health"
	"multiroute/agent/hooks"
	"multiroute/agent/keep"
	"multiroute/agent/plan"
)

// memory is what the next agent should know: which uplinks are dead, so that
// it does not put connections on them before its own probes have found out,
// which were taken out by hand, since when they all are what they are, what hooks
// have not heard of that, and everybody's ids, should our table be gone that has
// them in it.
type memory struct {
	Legs     map[health.Leg]health.Memory `json:"legs"`
	Disabled map[string]time.Time         `json:"disabled"`
	Uplinks  map[string]lasting           `json:"uplinks"`
	Hooks    []hooks.Job                  `json:"hooks"`
	IDs      plan.IDs                     `json:"ids"`
}

// lasting is since when an uplink is in a state.
type lasting struct {
	State plan.State `json:"state"`
	Since time.Time  `json:"since"`
}

// recall reads what a predecessor left.
func recall(path string) (memory, error) {
	var m memory
	if ok, err := keep.Load(path, &m); !ok {
		return memory{}, err // not the half of it
	}
	return m, nil
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
	m := memory{Legs: d.monitor.Memories(), Disabled: maps.Clone(d.disabled), Uplinks: map[string]lasting{}, Hooks: d.untold(), IDs: d.ids}
	for name, s := range d.states {
		m.Uplinks[name] = lasting{s.state, s.since.Round(0)}
	}
	if d.memoryFile == "" || reflect.DeepEqual(m, d.remembered) {
		return
	}
	if err := keep.Save(d.memoryFile, m); err != nil {
		d.Log.Warn("a restart would forget which uplinks are dead, and what hooks were not told", "err", err)
	}
	d.remembered = m // also if that failed: said once
}
