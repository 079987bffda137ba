package health

import "time"

// Answers are collected, not waited for: what costs is being woken for each of
// them, and an uplink that is well is in no hurry. When they came the prober
// knows.
const (
	// beat is how often it is looked whether answers are there. Probes, too,
	// are sent on its strokes, and the packets are counted: one waking for all.
	beat = 100 * time.Millisecond
	// alertBeat is the same while a verdict depends on them.
	alertBeat = 10 * time.Millisecond
)

// onBeat returns the first stroke after now. All legs share them.
func onBeat(now, epoch time.Time) time.Time { return now.Add(beat - now.Sub(epoch)%beat) }

// collectAt returns when it should be looked for answers; zero: none can come.
func (j *judge) collectAt(now time.Time) time.Time {
	switch {
	case !j.flight.waits().After(now):
		return time.Time{}
	case j.suspicion.on && !j.suspicion.excused && !j.condemned():
		return now.Add(alertBeat)
	default:
		return onBeat(now, j.epoch)
	}
}
