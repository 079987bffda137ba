package balance

import (
	"maps"
	"math"
	"time"
)

// calm says how calmly shares follow their targets. All numbers are shares, so 1
// is all connections.
type calm struct {
	// Shares that rest begin to move when one of them is off by so much, and by
	// this part of itself.
	start, part float64
	// They stop when all are this close.
	stop float64
	// In a second no share moves by more.
	step float64
	// For so long a share that moved does not go back, unless one is off by so much,
	// or by the factor much: then something has happened.
	memory time.Duration
	back   float64
}

// much is a factor that noise does not make.
const much = 3

// calmness of each method. What is free may change in no time, and small lines
// matter there; how quick a line is should not change at all.
var calmness = [...]calm{
	Capacity: {start: 0.01, part: 0.2, stop: 0.005, step: 0.25},
	Latency:  {start: 0.1, stop: 0.02, step: 0.15, memory: time.Minute, back: 0.4},
}

// event reports whether a share is so far from its target that something has
// happened, and nothing is to be calm about.
func (c calm) event(share, target float64) bool {
	off := math.Abs(target - share)
	return c.back > 0 && (off >= c.back || off >= c.start && max(share, target) >= much*min(share, target))
}

// mover is the shares of a group, on their way.
type mover struct {
	share   map[string]float64
	at      time.Time // of the last step
	moving  bool
	heading map[string]heading // of those that moved lately, or in this move
}

// heading is where a share went last: up if way is positive, and when.
type heading struct {
	way float64
	at  time.Time
}

// among reports whether the shares are those of the same members.
func (m *mover) among(target map[string]float64) bool {
	for name := range target {
		if _, ok := m.share[name]; !ok {
			return false
		}
	}
	return len(target) == len(m.share)
}

// step moves the shares towards target, if they are to move.
func (m *mover) step(now time.Time, target map[string]float64, c calm) {
	dt := now.Sub(m.at)
	if m.at.IsZero() {
		dt = time.Second
	}
	m.at = now
	maps.DeleteFunc(m.heading, func(_ string, h heading) bool { return !m.moving && now.Sub(h.at) >= c.memory })
	way := m.way(target)
	for name, t := range target {
		if _, free := way[name]; c.event(m.share[name], t) && (!free || !m.moving) {
			m.heading = nil
			way = m.way(target)
			break
		}
	}
	most, off := 0.0, false
	for name, w := range way {
		most = max(most, math.Abs(w))
		off = off || math.Abs(w) >= max(c.start, c.part*(m.share[name]+max(w, 0)))
	}
	if m.moving {
		m.moving = most > c.stop
	} else {
		m.moving = off
	}
	if !m.moving || dt <= 0 {
		return
	}
	length := min(1, c.step*min(dt.Seconds(), 2)/most)
	share := make(map[string]float64, len(way))
	for name, s := range m.share {
		share[name] = s + length*way[name]
		if math.Abs(way[name]) > c.stop/4 { // less is no move
			if m.heading == nil {
				m.heading = map[string]heading{}
			}
			m.heading[name] = heading{way[name], now}
		}
	}
	m.share = share
}

// way is how far each share has to go. One that would go back stays, and the
// others share what it leaves.
func (m *mover) way(target map[string]float64) map[string]float64 {
	way := maps.Clone(target) // of those that may go
	for held := true; held; {
		held = false
		left, wanted := 0.0, 0.0
		for name := range way {
			left += m.share[name]
			wanted += target[name]
		}
		for name := range way {
			way[name] = target[name]*left/wanted - m.share[name]
			if way[name]*m.heading[name].way < 0 {
				delete(way, name)
				held = true
			}
		}
	}
	return way
}

// weights are the shares as the kernel takes them: the largest is 256, and
// nobody gets nothing.
func (m *mover) weights() map[string]int {
	most := 0.0
	for _, s := range m.share {
		most = max(most, s)
	}
	all := make(map[string]int, len(m.share))
	for name, s := range m.share {
		all[name] = max(1, int(math.Round(256*s/most)))
	}
	return all
}
