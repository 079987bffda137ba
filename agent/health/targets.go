package health

import (
	"slices"
	"time"

	"multiroute/agent/config"
)

const (
	silentAfter = 5  // misses in a row while others answered
	silentTurn  = 10 // a silent target is probed every so many turns
)

// targets is what a leg probes.
type targets struct {
	list []target
	last int // whose turn it was
}

// target is one of them.
type target struct {
	config.Target
	// hint is set for a gateway beside other targets: that it answers does not
	// mean that the internet does. It is only asked, and told of, in rounds.
	hint     bool
	misses   int       // in a row, while others answered
	missedAt time.Time // when it missed last
	answered time.Time // when it answered last
	err      error     // why its last probe failed for certain
	skipped  int       // turns, while silent
	tally    tally
}

func newTargets(list []config.Target) targets {
	others := slices.ContainsFunc(list, func(t config.Target) bool { return t.Scheme != config.GatewayTarget })
	t := targets{last: len(list) - 1}
	for _, l := range list {
		t.list = append(t.list, target{Target: l, hint: others && l.Scheme == config.GatewayTarget})
	}
	return t
}

// turn returns whose turn it is. It ends because of every list at least one
// target counts, and every silent one gets its turn.
func (t *targets) turn() int {
	for {
		t.last = (t.last + 1) % len(t.list)
		switch l := &t.list[t.last]; {
		case l.hint:
		case l.silent():
			if l.skipped++; l.skipped%silentTurn == 0 {
				return t.last
			}
		default:
			return t.last
		}
	}
}

// silent reports whether the target is dead, rather than the uplink.
func (t *target) silent() bool { return t.misses >= silentAfter }

// missed takes in that a probe was lost. It only counts against the target if
// another one answered since the last time; alive is when one did.
func (t *target) missed(now, alive time.Time) {
	if alive.After(t.missedAt) {
		t.misses++
	}
	t.missedAt = now
	if t.misses == silentAfter {
		t.skipped = 0
	}
}
