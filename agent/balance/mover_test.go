package balance

import (
	"math"
	"testing"
	"time"
)

// TestMover: what moved within a minute stays where it is, and the others share
// the rest; unless one is so far off that something has happened.
func TestMover(t *testing.T) {
	t.Parallel()
	type shares = map[string]float64
	const soon, later = 20 * time.Second, 61 * time.Second
	tests := []struct {
		name        string
		after       time.Duration // since a moved up and b down
		share, want shares
		target      shares
	}{
		{"on", soon, shares{"a": 0.4, "b": 0.3, "c": 0.3}, shares{"a": 0.52, "b": 0.2, "c": 0.28}, shares{"a": 0.52, "b": 0.2, "c": 0.28}},
		{"back", soon, shares{"a": 0.6, "b": 0.4}, shares{"a": 0.6, "b": 0.4}, shares{"a": 0.45, "b": 0.55}},
		{"back, later", later, shares{"a": 0.6, "b": 0.4}, shares{"a": 0.45, "b": 0.55}, shares{"a": 0.45, "b": 0.55}},
		{"back by much", soon, shares{"a": 0.7, "b": 0.3}, shares{"a": 0.55, "b": 0.45}, shares{"a": 0.29, "b": 0.71}},
		{"a stays", soon, shares{"a": 0.4, "b": 0.4, "c": 0.2}, shares{"a": 0.4, "b": 0.3, "c": 0.3}, shares{"a": 0.34, "b": 0.33, "c": 0.33}},
		{"a stays for a hair, too", soon, shares{"a": 0.4, "b": 0.4, "c": 0.2}, shares{"a": 0.4, "b": 0.3, "c": 0.3}, shares{"a": 0.392, "b": 0.304, "c": 0.304}},
		{"b stays", soon, shares{"a": 0.4, "b": 0.2, "c": 0.4}, shares{"a": 0.5, "b": 0.2, "c": 0.3}, shares{"a": 0.46875, "b": 0.25, "c": 0.28125}},
		{"both stay", soon, shares{"a": 0.5, "b": 0.25, "c": 0.25}, shares{"a": 0.5, "b": 0.25, "c": 0.25}, shares{"a": 0.3, "b": 0.4, "c": 0.3}},
		{"a to a third", soon, shares{"a": 0.36, "b": 0.32, "c": 0.32}, shares{"a": 0.21, "b": 0.395, "c": 0.395}, shares{"a": 0.12, "b": 0.44, "c": 0.44}},
		{"b to a third", soon, shares{"a": 0.3, "b": 0.5, "c": 0.2}, shares{"a": 0.3 - 0.15*3/11, "b": 0.5 - 0.15*8/11, "c": 0.35}, shares{"a": 0.15, "b": 0.1, "c": 0.75}},
		{"a small one to a third", soon, shares{"a": 0.09, "b": 0.5, "c": 0.41}, shares{"a": 0.09, "b": 0.5, "c": 0.41}, shares{"a": 0.03, "b": 0.53, "c": 0.44}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := mover{share: tt.share, at: epoch.Add(tt.after - time.Second), heading: map[string]heading{"a": {0.1, epoch}, "b": {-0.1, epoch}}}
			m.step(epoch.Add(tt.after), tt.target, calmness[Latency])
			for name, want := range tt.want {
				if math.Abs(m.share[name]-want) > 1e-9 {
					t.Errorf("%s: %.4f, want %.4f", name, m.share[name], want)
				}
			}
		})
	}
}
