// Package health decides which uplinks are alive. It sends nothing itself and
// looks at no kernel: probes leave by a Prober, whose answers, like the time
// and the packet counters, are passed in.
//
//	verdict.go    what is told of a leg: Leg, State, Verdict
//	prober.go     what probes must be sent with: Path, Prober, Result
//	judge.go      Judge, the pure state machine of one leg
//	probes.go     its probes and their answers
//	suspect.go    its suspicion: rounds of all targets at once
//	quality.go    round trip, loss, degraded
//	traffic.go    what the traffic of others says
//	hold.go       how long a leg that went down stays out
//	targets.go    whose turn it is, and who is silent
//	group.go      what legs say about each other
//	options.go    what a Monitor needs
//	monitor.go    Monitor: what is watched
//	run.go        its one goroutine with one timer
//	collect.go    when it looks for answers
//	inbox.go      where results wait for it
//	meter.go      our own packets in the counters
//	memory.go     what survives a restart
//
// A leg is one family of one uplink. Where their packets are not counted, both are
// suspected when one is:
//
//	             an answer is late         nothing answered for
//	             or replies stopped        down_after rounds, and
//	            +----------------+         another leg answered
//	up ---------+                +--> suspect ----------------> down
//	^  ^        +----------------+       |                       |
//	|  +------------- any answer --------+                       |
//	+---- up_after good probes in a row, and hold_down is over --+
//
// Where all targets fall silent on all uplinks at once, it is taken for the
// targets' fault and nothing changes. A single uplink never goes down because
// of its probes: there would be nothing better.
package health
