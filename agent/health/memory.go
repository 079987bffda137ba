package health

import "time"

// Memory is what is kept of a leg over a restart. It is a value that encodes to
// JSON, as does a map by Leg; the owner writes it to a file.
type Memory struct {
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"`   // not up before
	Flaps   int       `json:"flaps,omitempty"`  // how often it went down of late
	Decayed time.Time `json:"decayed,omitzero"` // when Flaps was last taken back by one
}

// remember returns what should be kept.
func (j *judge) remember() Memory {
	return Memory{State: j.state, Reason: j.reason, Since: j.since.Round(0), Until: j.hold.until.Round(0),
		Flaps: j.hold.flaps, Decayed: j.hold.decayed.Round(0)}
}

// recall takes in what was kept, before the first found or lost. The clock may
// have been set since then: no time is believed that cannot be. It may be set
// again: from now on the times are on the clock that nobody sets.
func (j *judge) recall(m Memory, now time.Time) {
	for _, t := range []*time.Time{&m.Since, &m.Until, &m.Decayed} {
		if !t.IsZero() {
			*t = now.Add(t.Sub(now))
		}
	}
	j.fresh = false
	j.state, j.reason, j.since = m.State, m.Reason, m.Since
	if m.Since.After(now) || m.Since.IsZero() {
		j.since = now
	}
	j.hold = hold{until: m.Until, flaps: min(max(m.Flaps, 0), maxFlaps), decayed: m.Decayed}
	if limit := now.Add(max(maxHold, j.settings.HoldDown)); m.Until.After(limit) {
		j.hold.until = limit
	}
	if m.Decayed.After(now) || m.Decayed.IsZero() {
		j.hold.decayed = now
	}
	j.byProbes = m.State == Down
}
