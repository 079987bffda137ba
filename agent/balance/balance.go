package balance

import (
	"maps"
	"math"
	"time"
)

// Method is by what a group shares.
type Method int

// The methods.
const (
	Capacity Method = iota // the bandwidth that is free
	Latency                // most to the quickest
)

// Group is those who share the new connections of a policy: its usable uplinks
// in one tier.
type Group struct {
	Policy  string
	Tier    int
	Method  Method
	Members []Member
}

// Member is an uplink in a group.
type Member struct {
	Uplink   string
	Weight   int           // as configured; multiplies the share
	Down, Up int64         // what the line carries, in bits a second; Capacity only
	RTT      time.Duration // smoothed; 0: unknown; Latency only
	Jitter   time.Duration // smoothed; Latency only
}

// Bytes is what an uplink has carried since some time in the past.
type Bytes struct{ Down, Up uint64 }

// Weights are those in force: by policy, then by uplink, 1 to 256. A policy or
// an uplink that is not in it has the weight that is configured. Nobody writes
// to one.
type Weights map[string]map[string]int

// Balancer remembers what it takes to be calm. The zero value knows nothing: it
// takes all uplinks for idle. It is used by one goroutine at a time.
type Balancer struct {
	meters  map[string]*meter
	pings   map[string]*quickness
	movers  map[place]*mover
	weights Weights
}

type place struct {
	policy string
	tier   int
}

// Weights returns the weights in force.
func (b *Balancer) Weights() Weights { return b.weights }

// Count takes in the uplinks' counters. Of an uplink that is not in it nothing
// is known any more.
func (b *Balancer) Count(now time.Time, counters map[string]Bytes) {
	old := b.meters
	b.meters = map[string]*meter{}
	for name, c := range counters {
		m := old[name]
		if m == nil {
			m = &meter{}
		}
		m.count(now, c)
		b.meters[name] = m
	}
}

// Step moves the shares of groups towards what they should be now, and reports
// whether weights changed. It is meant to be called about once a second.
func (b *Balancer) Step(now time.Time, groups []Group) bool { return b.update(now, groups, true) }

// Join gives shares to groups whose members are others than before, at once,
// and takes them from groups that are gone; the others' stay. It reports whether
// weights changed.
func (b *Balancer) Join(now time.Time, groups []Group) bool { return b.update(now, groups, false) }

func (b *Balancer) update(now time.Time, groups []Group, move bool) bool {
	b.listen(now, groups)
	old := b.movers
	b.movers = map[place]*mover{}
	weights := Weights{}
	for _, g := range groups {
		target := b.targets(g)
		if target == nil {
			continue
		}
		at := place{g.Policy, g.Tier}
		m := old[at]
		switch {
		case m == nil || !m.among(target):
			m = &mover{share: target} // others than before: nothing to be calm about
		case move:
			m.step(now, target, calmness[g.Method])
		}
		b.movers[at] = m
		if weights[g.Policy] == nil {
			weights[g.Policy] = map[string]int{}
		}
		maps.Copy(weights[g.Policy], m.weights())
	}
	if maps.EqualFunc(b.weights, weights, maps.Equal) {
		return false
	}
	b.weights = weights
	return true
}

// listen takes in round trips.
func (b *Balancer) listen(now time.Time, groups []Group) {
	old := b.pings
	b.pings = map[string]*quickness{}
	for _, g := range groups {
		for _, m := range g.Members {
			if g.Method != Latency || m.RTT <= 0 || b.pings[m.Uplink] != nil {
				continue
			}
			q := old[m.Uplink]
			if q == nil {
				q = &quickness{}
			}
			q.learn(now, m.RTT, m.Jitter)
			b.pings[m.Uplink] = q
		}
	}
}

// targets returns the share that each member should have, all together 1; nil
// if the configured weights are to decide.
func (b *Balancer) targets(g Group) map[string]float64 {
	if len(g.Members) < 2 {
		return nil
	}
	score := b.free(g.Members)
	if g.Method == Latency {
		score = b.quick(g.Members)
	}
	if score == nil {
		return nil
	}
	sum := 0.0
	for i, m := range g.Members {
		score[i] *= float64(m.Weight)
		sum += score[i]
	}
	target := make(map[string]float64, len(score))
	for i, m := range g.Members {
		target[m.Uplink] = score[i] / sum
	}
	return target
}

// least is the part of its bandwidth that a full line counts as free: it gets a
// connection now and then, and the bandwidth decides where all are full.
const least = 1. / 32

// free returns each member's free part of what all can carry, in the direction
// in which it has less of that.
func (b *Balancer) free(members []Member) []float64 {
	var down, up float64
	for _, m := range members {
		down += float64(m.Down)
		up += float64(m.Up)
	}
	score := make([]float64, len(members))
	for i, m := range members {
		var used rates
		if meter := b.meters[m.Uplink]; meter != nil {
			used = meter.rates
		}
		left := func(can int64, used float64) float64 { return max(float64(can)-used, float64(can)*least) }
		score[i] = min(left(m.Down, used.down)/down, left(m.Up, used.up)/up)
	}
	return score
}

// quick returns how quick each member is: four times as much for half the round
// trip. Some milliseconds more or less do not matter to anybody. A member
// without answers is taken for as quick as the others are on average. It
// returns nil if nobody has answers.
func (b *Balancer) quick(members []Member) []float64 {
	const unfelt = float64(5 * time.Millisecond)
	score := make([]float64, len(members))
	sum, known := 0.0, 0
	for i, m := range members {
		if q := b.pings[m.Uplink]; q != nil {
			score[i] = 1 / math.Pow(q.rtt+unfelt, 2)
			sum += score[i]
			known++
		}
	}
	if known == 0 {
		return nil
	}
	for i := range score {
		if score[i] == 0 {
			score[i] = sum / float64(known)
		}
	}
	return score
}
