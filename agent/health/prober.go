package health

import (
	"net/netip"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// Leg is one family of one uplink. The families live and die apart.
type Leg struct {
	Uplink string
	Family routes.Family
}

// Path is where a leg's probes leave. A leg whose link, address or gateway is
// gone has none.
type Path struct {
	Interface string
	Index     int    // of the interface
	Mark      uint32 // of the sockets: it chooses the uplink's routing table
	Source    netip.Addr
	Gateway   netip.Addr   // invalid: point to point
	DNS       []netip.Addr // resolve the names of targets; empty: those of resolv.conf
}

// Prober sends the probes of one leg. What comes of them is told to the
// function it was opened with, from any goroutine and from within Collect, but
// never from within Send or Close.
type Prober interface {
	// Send probes a target, by its index among those the Prober was opened
	// with. It never blocks. The token comes back with the result; an answer
	// that takes longer than timeout is dropped.
	Send(target int, token uint64, timeout time.Duration)
	// Collect tells what came of probes for which nobody waits. It never blocks.
	// Its owner calls it before it judges, and often enough meanwhile: the round
	// trip times are right all the same.
	Collect()
	// Close lets go of the sockets and waits for nothing slow. A result that is
	// just being told may still arrive.
	Close()
}

// Result is what came of a probe. A probe that is not answered has none.
type Result struct {
	Token uint64
	RTT   time.Duration // 0 if Err is set
	// Err is nil if the target answered as it should. Otherwise it is what is
	// known for certain: refused, unreachable, a wrong status.
	Err error
}

// Open opens the Prober of a leg. The function is called with each result; it
// must not block.
type Open func(Leg, Path, []config.Target, func(Result)) (Prober, error)
