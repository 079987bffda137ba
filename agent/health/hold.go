package health

import "time"

const (
	maxHold   = 10 * time.Minute // unless hold_down is longer
	decayTime = 10 * time.Minute // of being up, takes one flap back
	maxFlaps  = 20               // more are more than any hold-down can double
)

// hold is how long a leg that went down, or was degraded, stays so. The more
// often it was of late, the longer.
type hold struct {
	until   time.Time
	flaps   int
	decayed time.Time // when flaps was last taken back by one, or the leg came up
	counted bool      // the last down was counted in flaps
}

// down begins a hold-down; base is the first one's length.
func (h *hold) down(now time.Time, base time.Duration) {
	h.decay(now)
	limit := max(base, maxHold)
	length := base << h.flaps
	h.counted = length < limit && h.flaps < maxFlaps // more would only take longer to decay
	if h.counted {
		h.flaps++
	}
	h.until = now.Add(min(length, limit))
}

// up ends it.
func (h *hold) up(now time.Time) { h.until, h.decayed = time.Time{}, now }

// undo takes the last down back.
func (h *hold) undo() {
	if h.counted {
		h.flaps--
		h.counted = false
	}
}

// decay forgets flaps for the time that the leg was up.
func (h *hold) decay(now time.Time) {
	for h.flaps > 0 && now.Sub(h.decayed) >= decayTime {
		h.flaps--
		h.decayed = h.decayed.Add(decayTime)
	}
}
