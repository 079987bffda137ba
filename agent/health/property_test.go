package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"multiroute/agent/config"
)

// Whatever happens, a leg that is probed only goes down if nothing was believed
// since its last rounds began, and if another leg was answered meanwhile.
func TestRandomEvents(t *testing.T) {
	t.Parallel()
	total := 0
	for seed := range uint64(300) {
		s := newSim(seed)
		random := rand.New(rand.NewPCG(seed, 3))
		var quality [3]struct {
			loss   float64
			rtt    time.Duration
			broken bool
		}
		for i, h := range []func(int) config.Health{settings, fast, settings} {
			q := &quality[i]
			q.rtt = rtt
			u := s.add(string(rune('a'+i)), h(1+int(seed)%3), func(int, time.Duration) (time.Duration, error) {
				switch {
				case random.Float64() < q.loss:
					return -1, nil
				case q.broken && random.IntN(2) == 0:
					return 0, errRefused
				}
				return q.rtt + time.Duration(random.Int64N(int64(q.rtt))), nil
			})
			if random.IntN(2) == 0 {
				u.traffic = flow(random.IntN(500), random.IntN(500), time.Duration(random.IntN(100))*time.Second)
			}
		}
		for s.at() < 3*time.Minute {
			i := random.IntN(3)
			u, q := s.legs[i], &quality[i]
			switch random.IntN(8) {
			case 0:
				q.loss = []float64{0, 0.05, 0.3, 0.7, 1}[random.IntN(5)]
			case 1:
				q.rtt = []time.Duration{time.Millisecond, rtt, 400 * time.Millisecond, 700 * time.Millisecond}[random.IntN(4)]
			case 2:
				q.broken = random.IntN(4) == 0
			case 3:
				s.stalls = append(s.stalls, [2]time.Duration{s.at(), s.at() + time.Duration(random.Int64N(int64(2*time.Second)))})
			case 4:
				if random.IntN(3) > 0 {
					break
				}
				u.lost(s.now, "no carrier")
				s.note()
				s.after(s.at()+time.Second, func() { u.found(s.now); u.start(s.now) })
				s.run(s.at() + 2*time.Second)
			case 5:
				r := Result{Token: random.Uint64N(u.flight.token + 3), RTT: time.Duration(random.Int64N(int64(2 * time.Second)))}
				if _, ok := u.result(s.now, r); ok { // it might have been this one
					u.answers = append(u.answers, s.at())
				}
			default:
				s.run(s.at() + time.Duration(random.Int64N(int64(3*time.Second))))
			}
		}
		for _, u := range s.legs {
			rounds := time.Duration(u.settings.DownAfter-1) * u.settings.SuspectInterval
			for i, d := range u.states {
				if d.state != Down || d.reason == "no carrier" || i == 0 {
					continue
				}
				total++
				for _, a := range u.answers {
					if a <= d.at && a > d.at-rounds {
						t.Fatalf("seed %d: %v went down at %v (%s), though it was answered at %v", seed, u.leg, d.at, d.reason, a)
					}
				}
			}
		}
	}
	t.Logf("%d times down", total)
	if total < 100 {
		t.Errorf("down only %d times: this proves nothing", total)
	}
}
