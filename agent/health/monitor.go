package health

import (
	"context"
	"log/slog"

	"multiroute/agent/config"
)

// Watched is one leg as its owner wants it watched.
type Watched struct {
	Leg      Leg
	Path     *Path         // nil: there is none, see Gone
	Gone     string        // why there is no path: "no carrier on eth1"
	Settings config.Health // of the uplink; the targets of the leg's family count
	// Traffic is the index of the interface whose counters are this uplink's
	// alone; 0: there is none.
	Traffic int
}

// Counter is how many packets passed an interface. It may start again at 0.
type Counter struct{ In, Out uint64 }

// Options is what a Monitor needs.
type Options struct {
	Open Open // needed
	// Counters returns the packets by interface index; nil: the traffic of
	// others is not looked at. It is called from one goroutine, ten times a
	// second, and should not take longer than a few milliseconds.
	Counters func() (map[int]Counter, error)
	// Changed is called after a state or a reason changed by itself, not for
	// what Watch changed. It must not block; it may call Verdicts. nil: nobody
	// is told.
	Changed func()
	Log     *slog.Logger   // nil: discard
	Rand    func() float64 // at least 0, less than 1, for the jitter of probes; nil: none
	Memory  map[Leg]Memory // from before the start
}

// Monitor watches legs.
type Monitor struct {
	Options
}

// NewMonitor returns a Monitor that watches nothing yet.
func NewMonitor(o Options) *Monitor { return &Monitor{Options: o} }

// Watch replaces what is watched. Legs that stay keep what is known of them. It
// does not wait for anything: probers are opened and closed by Run. When it
// returns, Verdicts says of every leg whether its path is there.
func (m *Monitor) Watch([]Watched) {}

// Verdicts returns what is known of every watched leg, as a copy.
func (m *Monitor) Verdicts() map[Leg]Verdict { return nil }

// Memories returns what should be kept over a restart, as a copy.
func (m *Monitor) Memories() map[Leg]Memory { return nil }

// Run probes until ctx is done, and returns nil then. It is called once.
func (m *Monitor) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
