package balance

import (
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
	// What moved within the last minute goes back only if it is off by so much.
	back float64
}

// calmness of each method. What is free may change in no time, and small lines
// matter there; how quick a line is should not change at all.
var calmness = [...]calm{
	Capacity: {start: 0.01, part: 0.2, stop: 0.005, step: 0.25},
	Latency:  {start: 0.1, stop: 0.02, step: 0.15, back: 0.4},
}

// memory is how long a move is remembered.
const memory = time.Minute

// mover is the shares of a group, on their way.
type mover struct {
	share   map[string]float64
	at      time.Time // of the last step
	moving  bool
	heading map[string]float64 // of the newest move
	moved   time.Time          // when that last went on; zero: never
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
	way, most, off, back := map[string]float64{}, 0.0, false, false
	for name, t := range target {
		s := m.share[name]
		way[name] = t - s
		most = max(most, math.Abs(t-s))
		off = off || math.Abs(t-s) >= max(c.start, c.part*max(t, s))
		back = back || math.Abs(t-s) > c.stop/2 && way[name]*m.heading[name] < 0
	}
	switch {
	case m.moving:
		m.moving = most > c.stop && !back
	case back && c.back > 0 && now.Sub(m.moved) < memory:
		m.moving = most >= c.back
	default:
		m.moving = off
	}
	if !m.moving || dt <= 0 {
		return
	}
	length := min(1, c.step*min(dt.Seconds(), 2)/most)
	share := make(map[string]float64, len(way))
	for name, w := range way {
		share[name] = m.share[name] + length*w
	}
	m.share, m.heading, m.moved = share, way, now
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
