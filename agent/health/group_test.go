package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"multiroute/agent/config"
)

// A single uplink stays, whatever its targets do.
func TestSingleUplink(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, 5*time.Minute))
	s.run(4 * time.Minute)
	u.want(t, Up)
	if v := u.verdict(s.now); !v.Suspect || v.Reason != "nothing answers, and there is no other uplink to take over" {
		t.Errorf("%+v", v)
	}
	if s.probes > 20+3*(4*60*2+20) {
		t.Errorf("%d probes", s.probes)
	}
	s.run(6 * time.Minute)
	u.want(t, Up)
	if v := u.verdict(s.now); v.Suspect || v.Reason != "" || v.Loss > 0 {
		t.Errorf("%+v", v)
	}
}

// Where all targets are dead on all uplinks it is their fault. When one uplink
// has answers again, the other one is really dead.
func TestAllTargetsDead(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		s := newSim(seed)
		slow := 20*time.Millisecond + time.Duration(s.random.Int64N(int64(500*time.Millisecond)))
		a := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
		b := s.add("lte", settings(3), steady(slow).dead(20*time.Second, time.Minute))
		s.run(time.Minute)
		a.want(t, Up)
		b.want(t, Up)
		for _, u := range s.legs {
			if v := u.verdict(s.now); v.Reason != "no target answers on any uplink: taken for the targets' fault" {
				t.Fatalf("%+v", v)
			}
		}
		s.run(63 * time.Second)
		a.want(t, Up, Down)
		b.want(t, Up)
	}
}

// The other families' legs are no witnesses, and an uplink that is probed
// rarely is asked at once.
func TestWitness(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		s := newSim(seed)
		a := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
		s.add("lte", metered(3), steady(100*time.Millisecond))
		s.run(30 * time.Second)
		a.want(t, Up, Down)
		if took := a.downs()[0] - 20*time.Second; took > 1350*time.Millisecond {
			t.Fatalf("seed %d: down after %v", seed, took)
		}
	}
	s := newSim(1)
	a := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
	b := s.gone("lte", settings(3), steady(rtt))
	b.leg.Family = 10
	b.settings.Targets6 = b.settings.Targets
	b.found(s.now)
	b.start(s.now)
	s.run(30 * time.Second)
	a.want(t, Up)
}

// With nobody else to carry anything, nobody waits for a hold-down.
func TestNoHoldDownWhenAlone(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	a := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, 40*time.Second))
	b := s.add("lte", settings(3), steady(rtt))
	s.run(40 * time.Second)
	a.want(t, Up, Down)
	b.lost(s.now, "no carrier on wwan0")
	s.run(41 * time.Second)
	a.want(t, Up, Down, Up)
	b.found(s.now)
	b.start(s.now)
	s.run(45 * time.Second)
	if b.state != Down {
		t.Errorf("lte is back without a hold-down, though dsl is up")
	}
	a.lost(s.now, "no carrier on eth1")
	s.run(46 * time.Second)
	if b.state != Up {
		t.Errorf("lte waits for its hold-down, though dsl is gone")
	}
	b.lost(s.now, "no carrier on wwan0")
	a.net = steady(rtt).dead(0, never) // its targets never answered
	a.found(s.now)
	a.start(s.now)
	s.group.settle(s.now)
	if a.state != Up {
		t.Errorf("the only link that is there is not used")
	}
}

// While it is taken for the targets' fault nothing counts as the uplink's loss.
func TestTargetsFaultIsNoLoss(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), steady(350*time.Millisecond).dead(20*time.Second, 25*time.Second))
		s.run(time.Minute)
		u.want(t, Up)
	}
}

// A link that returns is used at once where nothing answers on the other.
func TestLinkReturnsBesideADeadOne(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
	b := s.add("lte", settings(3), steady(rtt))
	s.run(19 * time.Second)
	b.lost(s.now, "no carrier on wwan0")
	s.run(22 * time.Second)
	b.found(s.now)
	s.group.settle(s.now)
	if b.state != Up {
		t.Errorf("%v", b.state)
	}
}

// Targets that were dead for everybody answer again: not in the same moment on
// each uplink, and the first one to hear of it does not condemn the others.
func TestAllTargetsReturn(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		s := newSim(seed)
		back := time.Minute + time.Duration(s.random.Int64N(int64(time.Second)))
		for _, name := range []string{"cable", "dsl", "lte"} {
			slow := rtt + time.Duration(s.random.Int64N(int64(300*time.Millisecond)))
			s.add(name, settings(3), steady(slow).dead(20*time.Second, back))
		}
		s.run(2 * time.Minute)
		for _, u := range s.legs {
			u.want(t, Up)
			if v := u.verdict(s.now); v.Reason != "" {
				t.Fatalf("%+v", v)
			}
		}
	}
}

// Who saw that targets live does not count when it is gone itself.
func TestWitnessGoes(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	a := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, never))
	b := s.add("lte", settings(3), steady(rtt))
	for a.suspicion.witness == nil {
		s.run(s.at() + time.Millisecond)
	}
	b.lost(s.now, "no carrier on wwan0")
	s.run(20 * time.Second)
	a.want(t, Up)
	if v := a.verdict(s.now); v.Reason != "nothing answers, and there is no other uplink to take over" {
		t.Errorf("%+v", v)
	}
}

// Outages of all targets at once, of any length, take no uplink down, whoever
// hears first that they are over.
func TestSharedOutages(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		s := newSim(seed)
		profiles := []func(int) config.Health{settings, fast, metered, settings}
		nets := make([]network, len(profiles))
		for i := range nets {
			nets[i] = steady(time.Duration(5+s.random.IntN(400)) * time.Millisecond)
		}
		end := 10 * time.Second
		for range 8 {
			from := end + 10*time.Second + time.Duration(s.random.Int64N(int64(20*time.Second)))
			end = from + time.Duration(s.random.Int64N(int64(8*time.Second)))
			for i := range nets {
				nets[i] = nets[i].dead(from, end)
			}
		}
		for i, p := range profiles {
			s.add(string(rune('a'+i)), p(3), nets[i])
		}
		s.run(end + 10*time.Second)
		for _, u := range s.legs {
			if len(u.downs()) > 0 {
				t.Fatalf("seed %d: %v: %v", seed, u.leg, u.states)
			}
		}
	}
}

// The last leg that carries anything stays while nothing answers it, unless
// something speaks for one that is down, of late.
func TestLastLegStays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		bad, good network
		settings  config.Health // of the good one
	}{
		{"the other one answers now and then", steady(rtt).dead(10*time.Second, 20*time.Second).lossy(rand.New(rand.NewPCG(1, 1)), 0.5),
			steady(rtt).dead(30*time.Second, 31200*time.Millisecond), settings(3)},
		{"the other one answered a moment", steady(rtt).dead(10*time.Second, 30200*time.Millisecond).dead(30800*time.Millisecond, never),
			steady(rtt).dead(30*time.Second, 36*time.Second), metered(3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(50) {
				s := newSim(seed)
				h := settings(3)
				h.HoldDown = 10 * time.Minute
				bad, good := s.add("dsl", h, c.bad), s.add("lte", c.settings, c.good)
				for s.at() < time.Minute {
					if s.run(s.at() + 10*time.Millisecond); good.state == Down && bad.state == Down {
						t.Fatalf("nothing is left at %v: %v, %v", s.at(), bad.states, good.states)
					}
				}
			}
		})
	}
}
