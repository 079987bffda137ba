package health

import (
	"log/slog"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// Watched is one leg as its owner wants it watched.
type Watched struct {
	Leg  Leg
	Path *Path // nil: there is none, see Gone
	// Gone says why there is no path: "no carrier on eth1". Where there is one, it
	// says why nothing can be reached by it now: the gateway's neighbour entry
	// has failed. Then the leg is down, and probed all the same: only packets
	// make the kernel look for the gateway again.
	Gone     string
	Settings config.Health // of the uplink; the targets of the leg's family count
	// Traffic is the index of the interface whose counters are this uplink's
	// alone; 0: there is none.
	Traffic int
}

// Counter is how many packets and bytes passed an interface. It may start again
// at 0.
type Counter struct{ In, Out, InBytes, OutBytes uint64 }

// Alarm wakes Run. Set has it go off after a time, and not when it was set to
// before; Wait waits for that.
type Alarm interface {
	Set(time.Duration)
	Wait() error
}

// Options is what a Monitor needs.
type Options struct {
	Open  Open  // needed
	Alarm Alarm // needed; Run's alone
	// Counters returns the packets by interface index, in a map that the next
	// call may use again; nil: the traffic of others is not looked at. It is called
	// from one goroutine, at most ten times a second, and should not take longer
	// than a few milliseconds.
	Counters func() (map[int]routes.Counter, error)
	// Changed is called after a state or a reason changed by itself, not for
	// what Watch changed. It must not block; it may call Verdicts. nil: nobody
	// is told.
	Changed func()
	Log     *slog.Logger   // nil: discard
	Rand    func() float64 // at least 0, less than 1, for the jitter of probes; nil: none
	Memory  map[Leg]Memory // from before the start
}
