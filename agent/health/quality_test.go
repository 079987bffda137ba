package health

import (
	"testing"
	"time"
)

// TestUsual: an answer that was too late for the timeout raises the round trip
// at once, and the usual one as any other; a line that is slow from now on shows
// in both.
func TestUsual(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	var q quality
	tests := []struct {
		answers    int
		rtt        time.Duration
		slow       bool
		low, high  time.Duration // of the round trip
		usual      time.Duration
		sway, near time.Duration
	}{
		{20, 40 * ms, false, 40 * ms, 40 * ms, 40 * ms, 0, 0},
		{1, 440 * ms, true, 440 * ms, 440 * ms, 90 * ms, 50 * ms, 0},
		{10, 40 * ms, false, 100 * ms, 200 * ms, 53 * ms, 30 * ms, 5 * ms},
		{30, 440 * ms, true, 400 * ms, 440 * ms, 433 * ms, 28 * ms, 10 * ms},
	}
	for i, tt := range tests {
		for range tt.answers {
			q.learn(tt.rtt, tt.slow)
		}
		off := func(got, want time.Duration) bool { return max(got-want, want-got) > tt.near }
		if q.rtt < tt.low || q.rtt > tt.high || off(q.usual.RTT, tt.usual) || off(q.usual.Jitter, tt.sway) {
			t.Errorf("step %d: round trip %v, usual %v", i, q.rtt, q.usual)
		}
	}
	if q.forget(); q != (quality{}) {
		t.Errorf("forgotten: %+v", q)
	}
}
