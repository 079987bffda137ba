package health

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"multiroute/agent/config"
)

// detection returns how long it takes until a dead uplink is down, in many runs
// with the outage at another moment each, sorted. twin is true if it has another
// family, which dies with it.
func detection(t *testing.T, h config.Health, traffic, twin bool) []time.Duration {
	t.Helper()
	var took []time.Duration
	for seed := range uint64(400) {
		s := newSim(seed)
		end := 20*time.Second + time.Duration(s.random.Int64N(int64(2*h.Interval)))
		u := s.add("dsl", h, steady(20*time.Millisecond).dead(end, never))
		if traffic {
			u.traffic = flow(200, 200, end)
		}
		if twin {
			s.twin(u, u.net, false)
		}
		s.add("lte", settings(3), steady(50*time.Millisecond))
		s.run(end + 20*time.Second)
		if len(u.downs()) != 1 {
			t.Fatalf("seed %d: %v", seed, u.states)
		}
		took = append(took, u.downs()[0]-end)
	}
	slices.Sort(took)
	return took
}

func TestDetectionTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		settings    config.Health
		traffic     bool
		twin        bool
		median, max time.Duration
	}{
		{"normal, idle", settings(3), false, false, 960 * time.Millisecond, 1210 * time.Millisecond},
		{"normal, one target", settings(1), false, false, 960 * time.Millisecond, 1210 * time.Millisecond},
		{"normal, traffic", settings(3), true, false, 760 * time.Millisecond, 810 * time.Millisecond},
		{"normal, both families", settings(3), false, true, 880 * time.Millisecond, 1210 * time.Millisecond},
		{"fast, idle", fast(3), false, false, 320 * time.Millisecond, 360 * time.Millisecond},
		{"fast, traffic", fast(3), true, false, 320 * time.Millisecond, 360 * time.Millisecond},
		{"metered, traffic", metered(3), true, false, 4500 * time.Millisecond, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			took := detection(t, c.settings, c.traffic, c.twin)
			median, longest := took[len(took)/2], took[len(took)-1]
			t.Logf("shortest %v, median %v, longest %v", took[0], median, longest)
			if median > c.median || longest > c.max {
				t.Errorf("median %v, longest %v; want at most %v and %v", median, longest, c.median, c.max)
			}
		})
	}
}

// The suspicion that the families of an uplink share condemns none of them: one
// that is well answers at once, and is asked not much more for the other.
func TestTwinIsWell(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		for _, dying := range []network{
			steady(20*time.Millisecond).dead(20*time.Second, never),
			steady(20*time.Millisecond).lossy(rand.New(rand.NewPCG(seed, 2)), 0.1),
			steady(20*time.Millisecond).lossy(rand.New(rand.NewPCG(seed, 3)), 0.4),
			steady(20*time.Millisecond).dead(20*time.Second, 20300*time.Millisecond),
		} {
			s := newSim(seed)
			u := s.add("dsl", settings(3), steady(20*time.Millisecond))
			s.twin(u, dying, false)
			s.add("lte", settings(3), steady(50*time.Millisecond))
			s.run(time.Minute)
			u.want(t, Up)
			if v := u.verdict(s.now); v.Loss > 0 || v.Probes > 60*2*18/10 {
				t.Fatalf("seed %d: %+v", seed, v)
			}
		}
	}
}

// Loss that leaves something through is no outage, even with a dead target.
func TestRandomLoss(t *testing.T) {
	t.Parallel()
	changes := 0
	for seed := range uint64(100) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), steady(20*time.Millisecond).lossy(rand.New(rand.NewPCG(seed, 2)), 0.05).without(int(seed%3)))
		s.add("lte", settings(3), steady(50*time.Millisecond))
		s.run(10 * time.Minute)
		if len(u.downs()) > 0 {
			t.Fatalf("seed %d: %v", seed, u.states)
		}
		changes += len(u.states) - 1
		if !u.targets.list[seed%3].silent() {
			t.Fatalf("seed %d: the dead target is not seen to be dead", seed)
		}
		if s.probes > 2*20*60*15/10 {
			t.Fatalf("seed %d: %d probes for two uplinks in 10 minutes at 2 a second", seed, s.probes)
		}
	}
	t.Logf("%d changes to degraded and back in 1000 minutes", changes)
	if changes > 200 {
		t.Errorf("%d changes to degraded and back in 1000 minutes", changes)
	}
}

func TestShortOutages(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{50, 150, 300} {
		for seed := range uint64(100) {
			s := newSim(seed)
			n := steady(20 * time.Millisecond)
			for i := range 60 {
				from := 10*time.Second + time.Duration(i)*7*time.Second + time.Duration(s.random.Int64N(int64(time.Second)))
				n = n.dead(from, from+length*time.Millisecond)
			}
			u := s.add("dsl", settings(3), n)
			s.add("lte", settings(3), steady(50*time.Millisecond))
			s.run(8 * time.Minute)
			u.want(t, Up)
		}
	}
}

func TestSatellite(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := newSim(seed)
		u := s.add("sat", settings(3), func(int, time.Duration) (time.Duration, error) {
			return 700*time.Millisecond + time.Duration(s.random.Int64N(int64(200*time.Millisecond))), nil
		})
		s.add("lte", settings(3), steady(50*time.Millisecond))
		s.run(10 * time.Minute)
		u.want(t, Up)
		if v := u.verdict(s.now); v.Loss != 0 || v.RTT < 750*time.Millisecond || v.RTT > 850*time.Millisecond {
			t.Fatalf("loss %v, round trip %v", v.Loss, v.RTT)
		}
	}
}

// jump returns a network whose round trip grows from 10 ms at 10 s on, for as
// long as ramp says.
func jump(to, ramp time.Duration) network {
	return func(_ int, at time.Duration) (time.Duration, error) {
		const low, from = 10 * time.Millisecond, 10 * time.Second
		switch {
		case at < from:
			return low, nil
		case at >= from+ramp:
			return to, nil
		default:
			return low + time.Duration(float64(to-low)*float64(at-from)/float64(ramp)), nil
		}
	}
}

func TestRoundTripGrows(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		for _, c := range []struct {
			name    string
			net     network
			traffic bool
		}{
			{"to 650 ms at once", jump(650*time.Millisecond, 0), false},
			{"to 900 ms in 2 s", jump(900*time.Millisecond, 2*time.Second), false},
			{"to 900 ms in a second, with traffic", jump(900*time.Millisecond, time.Second), true},
		} {
			s := newSim(seed)
			u := s.add("dsl", settings(3), c.net)
			if c.traffic {
				u.traffic = flow(100, 100, never)
			}
			s.add("lte", settings(3), steady(50*time.Millisecond))
			s.run(time.Minute)
			if len(u.downs()) > 0 {
				t.Fatalf("seed %d, %s: %v", seed, c.name, u.states)
			}
		}
	}
}

// Within a second nobody can tell an outage from answers that suddenly take
// 900 ms. The first of them shows what it was; then it does not happen again.
func TestRoundTripJumps(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), jump(900*time.Millisecond, 0))
		s.add("lte", settings(3), steady(50*time.Millisecond))
		s.run(5 * time.Minute)
		u.want(t, Up, Down, Up)
		if took := u.states[2].at - u.states[1].at; took > 220*time.Millisecond {
			t.Fatalf("seed %d: down for %v", seed, took)
		}
		if u.hold.flaps != 0 {
			t.Fatalf("seed %d: it counts as a flap", seed)
		}
	}
}
