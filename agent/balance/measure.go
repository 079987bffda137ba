package balance

import (
	"math"
	"time"
)

// Times over which measurements are smoothed: their changes are seen to two
// thirds after so long.
const (
	rateTime   = 2 * time.Second
	rttTime    = 2 * time.Second
	jitterTime = 30 * time.Second
)

// weightOf is how much a new measurement counts, dt after the one before.
func weightOf(dt, smoothing time.Duration) float64 {
	return 1 - math.Exp(-dt.Seconds()/smoothing.Seconds())
}

// rates are bits a second.
type rates struct{ down, up float64 }

// meter turns counters into rates.
type meter struct {
	last  Bytes
	at    time.Time // zero: nothing was counted yet
	rates rates     // smoothed
}

// count takes in the counters. Where they go backwards, they are others than
// before, and say nothing this time.
func (m *meter) count(now time.Time, c Bytes) {
	dt := now.Sub(m.at)
	if !m.at.IsZero() && dt <= 0 {
		return
	}
	if !m.at.IsZero() && c.Down >= m.last.Down && c.Up >= m.last.Up {
		w, bits := weightOf(dt, rateTime), 8/dt.Seconds()
		m.rates.down += w * (float64(c.Down-m.last.Down)*bits - m.rates.down)
		m.rates.up += w * (float64(c.Up-m.last.Up)*bits - m.rates.up)
	}
	m.last, m.at = c, now
}

// quickness is an uplink's round trip, calmer than the probes give it.
type quickness struct {
	rtt    float64 // nanoseconds, smoothed
	jitter float64 // the usual one
	at     time.Time
}

// learn takes in what the probes say. A single late answer raises the round
// trip and its jitter by the same, so jitter that is not usual is no round trip;
// a line that is slower from now on shows within 2 seconds all the same.
func (q *quickness) learn(now time.Time, rtt, jitter time.Duration) {
	j := float64(jitter)
	if q.at.IsZero() {
		q.rtt, q.jitter, q.at = float64(rtt), j, now
		return
	}
	dt := max(now.Sub(q.at), 0)
	seen := float64(rtt)
	if seen > q.rtt {
		seen = max(seen-max(j-q.jitter, 0), q.rtt)
	}
	q.rtt += weightOf(dt, rttTime) * (seen - q.rtt)
	q.jitter += weightOf(dt, jitterTime) * (j - q.jitter)
	q.at = now
}
