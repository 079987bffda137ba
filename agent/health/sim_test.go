package health

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// settings are those of the profile "normal", with targets that count targets.
func settings(count int) config.Health {
	h := config.Health{Interval: 500 * time.Millisecond, Timeout: time.Second, Floor: 200 * time.Millisecond, SuspectInterval: 100 * time.Millisecond,
		DownAfter: 5, UpAfter: 5, HoldDown: 10 * time.Second, DegradedLoss: 20}
	for i := range count {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		h.Targets = append(h.Targets, config.Target{Text: "icmp://" + a.String(), Addr: a, Host: a.String()})
	}
	return h
}

// fast are those of the profile "fast".
func fast(count int) config.Health {
	h := settings(count)
	h.Interval, h.Timeout, h.Floor, h.SuspectInterval = 100*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond, 40*time.Millisecond
	h.DownAfter, h.HoldDown = 4, 5*time.Second
	return h
}

// metered are those of the profile "metered".
func metered(count int) config.Health {
	h := settings(count)
	h.Interval, h.Timeout, h.SuspectInterval, h.UpAfter = 5*time.Second, 2*time.Second, 500*time.Millisecond, 3
	return h
}

// network says what becomes of a probe that is sent at a time since the start.
// A negative round trip is none.
type network func(target int, at time.Duration) (time.Duration, error)

// steady answers everything after rtt.
func steady(rtt time.Duration) network {
	return func(int, time.Duration) (time.Duration, error) { return rtt, nil }
}

// dead answers nothing between from and to; both ways must be open.
func (n network) dead(from, to time.Duration) network {
	return func(target int, at time.Duration) (time.Duration, error) {
		rtt, err := n(target, at)
		if at+rtt >= from && at < to {
			return -1, nil
		}
		return rtt, err
	}
}

// without never answers for one target.
func (n network) without(dead int) network {
	return func(target int, at time.Duration) (time.Duration, error) {
		if target == dead {
			return -1, nil
		}
		return n(target, at)
	}
}

// lossy loses a part of the probes.
func (n network) lossy(random *rand.Rand, part float64) network {
	return func(target int, at time.Duration) (time.Duration, error) {
		if random.Float64() < part {
			return -1, nil
		}
		return n(target, at)
	}
}

var never = time.Duration(1<<63 - 1)

// flow returns counters of traffic with so many packets a second both ways,
// until it gets no replies any more from stop on.
func flow(out, in int, stop time.Duration) func(time.Duration) Counter {
	return func(at time.Duration) Counter {
		n := func(rate int, t time.Duration) uint64 { return uint64(rate) * uint64(t/time.Millisecond) / 1000 }
		c := Counter{In: n(in, min(at, stop)), Out: n(out, at)}
		c.InBytes, c.OutBytes = 500*c.In, 500*c.Out
		return c
	}
}

// uplink is a leg in the simulation.
type uplink struct {
	*judge
	net     network
	traffic func(time.Duration) Counter
	states  []transition
	answers []time.Duration // when they were believed
}

type transition struct {
	at     time.Duration
	state  State
	reason string
}

// sim is a virtual clock with everything that happens on it. Nothing sleeps.
type sim struct {
	start, now time.Time
	random     *rand.Rand
	legs       []*uplink
	group      group
	events     []event // sorted
	probes     int
	stalls     [][2]time.Duration // the process does not run in between
}

type event struct {
	at time.Duration
	do func()
}

func newSim(seed uint64) *sim {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &sim{start: start, now: start, random: rand.New(rand.NewPCG(seed, 1))}
}

// add adds a leg that is there from now on, and probed.
func (s *sim) add(name string, h config.Health, n network) *uplink {
	u := s.gone(name, h, n)
	u.found(s.now)
	u.start(s.now)
	s.note()
	return u
}

// gone adds a leg that is not there.
func (s *sim) gone(name string, h config.Health, n network) *uplink {
	u := &uplink{judge: newJudge(Leg{name, routes.IPv4}, h, s.random.Float64, s.now, s.now), net: n}
	s.legs = append(s.legs, u)
	s.group = append(s.group, u.judge)
	return u
}

// twin adds the other family of a leg. counted is true if the packets of both are
// counted, together.
func (s *sim) twin(u *uplink, n network, counted bool) *uplink {
	h := u.settings
	h.Targets6 = h.Targets
	o := &uplink{judge: newJudge(Leg{u.leg.Uplink, routes.IPv6}, h, s.random.Float64, s.now, s.now), net: n}
	o.twins(u.judge, counted)
	s.legs = append(s.legs, o)
	s.group = append(s.group, o.judge)
	o.found(s.now)
	o.start(s.now)
	s.note()
	return o
}

func (s *sim) at() time.Duration { return s.now.Sub(s.start) }

// after has something happen at a time since the start.
func (s *sim) after(at time.Duration, do func()) {
	i, _ := slices.BinarySearchFunc(s.events, at, func(e event, t time.Duration) int { return cmp.Or(cmp.Compare(e.at, t), -1) })
	s.events = slices.Insert(s.events, i, event{at, do})
}

// run runs until a time since the start.
func (s *sim) run(until time.Duration) {
	sample := s.at()
	for {
		next := until
		for _, u := range s.legs {
			if d := u.due(); !d.IsZero() {
				next = min(next, d.Sub(s.start))
			}
			if u.traffic != nil {
				next = min(next, sample)
			}
		}
		if len(s.events) > 0 {
			next = min(next, s.events[0].at)
		}
		next = max(next, s.at())
		for _, stall := range s.stalls {
			if next >= stall[0] && next < stall[1] {
				next = stall[1]
			}
		}
		s.now = s.start.Add(next)
		for len(s.events) > 0 && s.events[0].at <= next {
			do := s.events[0].do
			s.events = s.events[1:]
			do()
		}
		for _, u := range s.legs {
			if u.traffic != nil && sample <= next {
				u.judge.sample(s.now, u.traffic(next))
			}
		}
		if sample <= next {
			sample = next + sampleTime
		}
		for _, u := range s.legs {
			for _, p := range u.tick(s.now, nil) {
				s.send(u, p)
			}
		}
		s.group.settle(s.now)
		s.note()
		if next >= until {
			return
		}
	}
}

// send does what a prober and the network do.
func (s *sim) send(u *uplink, p probe) {
	s.probes++
	rtt, err := u.net(p.target, s.at())
	if rtt < 0 || rtt > p.timeout {
		return
	}
	s.after(s.at()+rtt, func() {
		r := Result{Token: p.token, RTT: rtt, Err: err}
		if _, ok := u.result(s.now, r); ok {
			u.answers = append(u.answers, s.at())
		}
	})
}

// note writes down what changed.
func (s *sim) note() {
	for _, u := range s.legs {
		v := u.verdict(s.now)
		if n := len(u.states); n == 0 || u.states[n-1].state != v.State {
			u.states = append(u.states, transition{s.at(), v.State, v.Reason})
		}
	}
}

// downs returns when the leg went down, but for the time before it was there.
func (u *uplink) downs() []time.Duration {
	var at []time.Duration
	for i, t := range u.states {
		if t.state == Down && i > 0 {
			at = append(at, t.at)
		}
	}
	return at
}

// want fails the test unless the leg went through these states.
func (u *uplink) want(t *testing.T, states ...State) {
	t.Helper()
	var got []State
	for _, s := range u.states {
		got = append(got, s.state)
	}
	if !slices.Equal(got, states) {
		t.Fatalf("%v went through %v, want %v", u.leg, u.states, states)
	}
}

var errRefused = errors.New("connection refused")
