package health

import (
	"testing"
	"time"
)

// While replies come in, lost probes are excused; the loss still shows.
func TestRepliesExcuse(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, 30*time.Second))
		u.traffic = flow(100, 100, never)
		s.add("lte", settings(3), steady(rtt))
		s.run(time.Minute)
		u.want(t, Up, Degraded, Up)
		if s.probes > 800 {
			t.Fatalf("%d probes", s.probes)
		}
	}
}

// downWithin asserts that a line with some traffic is down so soon after it died.
func downWithin(t *testing.T, name string, traffic func(time.Duration) Counter, limit time.Duration) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(50) {
			s := newSim(seed)
			u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, never))
			u.traffic = traffic
			s.add("lte", settings(3), steady(rtt))
			s.run(time.Minute)
			if d := u.downs(); len(d) != 1 || d[0]-10*time.Second > limit {
				t.Fatalf("%v", u.states)
			}
		}
	})
}

// What comes in may be noise: it does not excuse for ever, and not at all if
// nothing goes out or much more does.
func TestNoiseDoesNotExcuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		traffic func(time.Duration) Counter
		after   time.Duration
	}{
		{"both ways", flow(100, 100, never), 33 * time.Second},
		{"only in", flow(0, 100, never), 1350 * time.Millisecond},
		{"mostly out", flow(2000, 100, never), 1350 * time.Millisecond},
		{"hardly any", flow(100, 4, never), 2500 * time.Millisecond},
	} {
		downWithin(t, c.name, c.traffic, c.after)
	}
}

// Where the replies end while it is excused, it is down soon.
func TestExcuseEnds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, never))
		u.traffic = flow(200, 200, 20*time.Second)
		s.add("lte", settings(3), steady(rtt))
		s.run(time.Minute)
		if d := u.downs(); len(d) != 1 || d[0] < 20*time.Second || d[0] > 21500*time.Millisecond {
			t.Fatalf("%v", u.states)
		}
	}
}

// One-way traffic is no reason for a storm of probes.
func TestOneWayTraffic(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt))
	u.traffic = flow(1000, 0, never)
	s.run(5 * time.Minute)
	u.want(t, Up)
	if s.probes > 5*60*2+50 {
		t.Errorf("%d probes in 5 minutes", s.probes)
	}
	// Traffic that pauses again and again: a round for each false alarm, and not many.
	s = newSim(1)
	u = s.add("dsl", settings(3), steady(rtt))
	u.traffic = func(at time.Duration) Counter {
		in := uint64(at/(500*time.Millisecond)) * 10
		return Counter{In: in, Out: uint64(at / (10 * time.Millisecond))}
	}
	s.run(5 * time.Minute)
	u.want(t, Up)
	if s.probes > 5*60*2+5*60/5*3+50 {
		t.Errorf("%d probes in 5 minutes", s.probes)
	}
}

func TestCountersStartAgain(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt))
	u.traffic = func(at time.Duration) Counter {
		if at > 10*time.Second {
			at -= 10 * time.Second
		}
		return flow(1000, 1000, never)(at)
	}
	s.add("lte", settings(3), steady(rtt))
	s.run(20 * time.Second)
	u.want(t, Up)
}

// sized gives packets of a flow so many bytes.
func sized(f func(time.Duration) Counter, in, out uint64) func(time.Duration) Counter {
	return func(at time.Duration) Counter {
		c := f(at)
		c.InBytes, c.OutBytes = in*c.In, out*c.Out
		return c
	}
}

// An upload has small answers only; they excuse as well.
func TestUploadExcuses(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, 30*time.Second))
		u.traffic = sized(flow(1000, 500, never), 66, 1400)
		s.add("lte", settings(3), steady(rtt))
		s.run(time.Minute)
		u.want(t, Up, Degraded, Up)
	}
}

// What is always on the wire of a dead line is no excuse: the ARP of a cable
// segment, with clients that try to connect; nor when an upload goes on that
// nobody acknowledges any more.
func TestDeadLineIsNotSilent(t *testing.T) {
	t.Parallel()
	acks := sized(flow(1000, 500, 10*time.Second), 66, 1400)
	arp := sized(flow(0, 100, never), 60, 0)
	for _, c := range []struct {
		name    string
		traffic func(time.Duration) Counter
	}{
		{"tries to connect", sized(flow(20, 50, never), 60, 74)},
		{"many of them", sized(flow(500, 50, never), 60, 74)},
		{"an upload", func(at time.Duration) Counter {
			c, noise := acks(at), arp(at)
			return Counter{In: c.In + noise.In, InBytes: c.InBytes + noise.InBytes, Out: c.Out, OutBytes: c.OutBytes}
		}},
	} {
		downWithin(t, c.name, c.traffic, 1350*time.Millisecond)
	}
}

// The packets of both families are counted together. Those of one do not hide
// that the other one is dead, but speak for both where both lose probes.
func TestFamiliesExcuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		six, four network // of the uplink
		dead      bool    // its IPv4 is, from 10 s on
	}{
		{"IPv4 dead, IPv6 busy", steady(rtt), steady(rtt).dead(10*time.Second, never), true},
		{"full line", steady(rtt).dead(10*time.Second, 30*time.Second), steady(rtt).dead(10*time.Second, 30*time.Second), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(50) {
				s := newSim(seed)
				four := s.add("dsl", settings(3), c.four)
				six := s.twin(four, c.six, true)
				four.traffic = flow(300, 300, never)
				six.traffic = four.traffic
				s.add("lte", settings(3), steady(rtt))
				s.run(30 * time.Second)
				d := four.downs()
				if c.dead && (len(d) != 1 || d[0]-10*time.Second > 1350*time.Millisecond) || !c.dead && len(d) != 0 || len(six.downs()) != 0 {
					t.Fatalf("%v, %v", four.states, six.states)
				}
			}
		})
	}
}

// A dead family goes down in time also where the other one, whose packets are
// counted with its own, takes long for its answers.
func TestSlowTwinIsNoExcuse(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{20, 220, 300, 400, 700} {
		var longest time.Duration
		for seed := range uint64(60) {
			s := newSim(seed)
			u := s.add("dsl", settings(3), steady(20*time.Millisecond).dead(20*time.Second, never))
			twin := s.twin(u, steady(slow*time.Millisecond), true)
			u.traffic = flow(300, 300, never)
			twin.traffic = u.traffic
			s.add("lte", settings(3), steady(50*time.Millisecond))
			s.run(55 * time.Second)
			d := u.downs()
			if len(d) != 1 || len(twin.downs()) != 0 {
				t.Fatalf("%v: seed %d: %v, %v", slow*time.Millisecond, seed, u.states, twin.states)
			}
			longest = max(longest, d[0]-20*time.Second)
		}
		t.Logf("the other family answers after %v: at most %v", slow*time.Millisecond, longest)
		if longest > 1300*time.Millisecond {
			t.Errorf("the other family answers after %v: down after %v", slow*time.Millisecond, longest)
		}
	}
}
