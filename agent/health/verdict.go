package health

import (
	"fmt"
	"strings"
	"time"

	"multiroute/routes"
)

// String returns the name of the leg as it stands in the memory's file: "dsl/4".
func (l Leg) String() string {
	if l.Family == routes.IPv4 {
		return l.Uplink + "/4"
	}
	return l.Uplink + "/6"
}

// MarshalText lets a Leg be a key in JSON.
func (l Leg) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what String wrote.
func (l *Leg) UnmarshalText(b []byte) error {
	name, family, _ := strings.Cut(string(b), "/")
	switch {
	case name != "" && family == "4":
		*l = Leg{name, routes.IPv4}
	case name != "" && family == "6":
		*l = Leg{name, routes.IPv6}
	default:
		return fmt.Errorf("%q is no leg of an uplink: it should be a name with /4 or /6 behind it", b)
	}
	return nil
}

// State is what a leg is good for.
type State int

// The states of a leg.
const (
	Up       State = iota
	Degraded       // carries what it has; new connections go elsewhere if they can
	Down
)

// String returns the state in the words of "agent status".
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Degraded:
		return "degraded"
	default:
		return "down"
	}
}

// MarshalText writes the state as String does.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String wrote.
func (s *State) UnmarshalText(b []byte) error {
	for _, known := range []State{Up, Degraded, Down} {
		if string(b) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("%q is no state of an uplink: it should be up, degraded or down", b)
}

// Trip is a round trip and its jitter, smoothed; 0: unknown.
type Trip struct{ RTT, Jitter time.Duration }

// Verdict is what is known of a leg. It is a value.
type Verdict struct {
	State  State
	Reason string        // why it is not up, or why it still is although nothing answers; else empty
	Since  time.Time     // of the state
	RTT    time.Duration // smoothed; 0: unknown
	Jitter time.Duration // smoothed; 0: unknown
	Usual  Trip          // as these, which one late answer may raise at once
	Loss   float64       // percent over the last 10 seconds
	// Suspect is true while nothing answers and it is not decided yet.
	Suspect bool
	// Missed is, while it is suspect or down because of that, when the first
	// answer was missing; zero: something else took it down.
	Missed time.Time
	// Until is, while the leg is down, the earliest time at which it is up
	// again; zero: as soon as it is well.
	Until time.Time

	Probes  uint64 // sent since the start
	Answers uint64 // believed
	Ignored uint64 // not believed: late, repeated, unknown
}
