package web

import (
	"time"

	"multiroute/agent/api"
)

// Snapshot is everything that is shown of one moment. It is a value: nobody
// writes to it after it was published.
type Snapshot struct {
	Time        time.Time
	Status      api.Status
	Legs        []Leg              // in the order of the uplinks, IPv4 first
	Traffic     map[string]Traffic // by uplink
	Connections map[string]int     // by uplink; nil: not counted
	Conntrack   *Conntrack         // nil: the kernel does not say
	Events      []api.Event        // the newest, oldest first
	Transitions map[Transition]uint64
	Failovers   Histogram
	Writes      Writes
	Reloads     Reloads
}

// Leg is what the probes of one family of an uplink say.
type Leg struct {
	Uplink  string
	Family  string        // ipv4 or ipv6
	Up      bool          // probes are answered
	RTT     time.Duration // 0: unknown
	Jitter  time.Duration // 0: unknown
	Loss    float64       // percent
	Sent    uint64
	Answers uint64
	Ignored uint64
}

// Traffic is what an uplink received and sent since its interface was made, or,
// where it shares one, since its counters were.
type Traffic struct{ InPackets, OutPackets, InBytes, OutBytes uint64 }

// Conntrack is how full the kernel's table of connections is, and what found no
// place in it since the kernel started.
type Conntrack struct {
	Entries, Limit                      uint64 // Limit 0: unknown
	InsertFailed, Dropped, EarlyDropped uint64
}

// Transition is a kind of event.
type Transition struct {
	Uplink string
	To     api.State
	Cause  api.Cause
}

// Writes counts what was written to the kernel since the start.
type Writes struct {
	Routes   uint64 // routes and rules
	NFTables uint64 // transactions
	Sysctls  uint64
}

// Reloads counts how reloads ended since the start.
type Reloads struct {
	Applied uint64
	Invalid uint64 // the configuration was wrong
	Refused uint64 // the kernel did not take it, or the disk no copy for a trial
}

// Histogram counts durations. Its zero value is empty, and a copy of it is a
// value.
type Histogram struct {
	Counts [len(bounds) + 1]uint64 // the last one: above all bounds
	Sum    time.Duration
}

// bounds are the upper ends of a Histogram's buckets, in milliseconds.
var bounds = [...]int{2, 5, 10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000}

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > time.Duration(bounds[i])*time.Millisecond {
		i++
	}
	h.Counts[i]++
	h.Sum += d
}
