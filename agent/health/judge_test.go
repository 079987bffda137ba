package health

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"multiroute/agent/config"
)

const rtt = 20 * time.Millisecond

func TestDegraded(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	random := rand.New(rand.NewPCG(1, 2))
	good := steady(rtt)
	bad := good.lossy(random, 0.35)
	u := s.add("dsl", settings(3), func(target int, at time.Duration) (time.Duration, error) {
		if at > time.Minute && at < 2*time.Minute {
			return bad(target, at)
		}
		return good(target, at)
	})
	s.add("lte", settings(3), good)
	s.run(5 * time.Minute)
	u.want(t, Up, Degraded, Up)
	if at := u.states[1].at; at > 78*time.Second {
		t.Errorf("degraded only at %v", at)
	}
	if at := u.states[2].at; at < 2*time.Minute+10*time.Second || at > 2*time.Minute+25*time.Second {
		t.Errorf("up again at %v, want 10 to 25 s after the loss", at)
	}
	if r := u.states[1].reason; !strings.Contains(r, "% of the probes were lost in 10 seconds") {
		t.Errorf("reason %q", r)
	}
}

func TestDegradedLatency(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	h := settings(3)
	h.DegradedLatency = 200 * time.Millisecond
	u := s.add("dsl", h, func(_ int, at time.Duration) (time.Duration, error) {
		switch {
		case at < time.Minute:
			return rtt, nil
		case at < 2*time.Minute:
			return 300 * time.Millisecond, nil
		default:
			return 180 * time.Millisecond, nil // less, but not by a fifth
		}
	})
	s.run(4 * time.Minute)
	u.want(t, Up, Degraded)
	if r := u.states[1].reason; !strings.Contains(r, "degraded_latency is 200ms") {
		t.Errorf("reason %q", r)
	}
	u.net = steady(rtt)
	s.run(5 * time.Minute)
	u.want(t, Up, Degraded, Up)
}

// A target that never answers is found out; it costs neither suspicion nor loss.
func TestSilentTarget(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).without(1))
	s.run(time.Minute)
	if !u.targets.list[1].silent() || u.targets.list[0].silent() {
		t.Fatalf("%+v", u.targets.list)
	}
	before := s.probes
	suspicions := 0
	for s.at() < 3*time.Minute {
		s.run(s.at() + 50*time.Millisecond)
		if u.suspicion.on {
			suspicions++
		}
	}
	if n := s.probes - before; n < 220 || n > 260 {
		t.Errorf("%d probes in 2 minutes, want one every 500 ms", n)
	}
	if v := u.verdict(s.now); v.Loss != 0 || suspicions > 0 {
		t.Errorf("loss %v%%, suspected %d times", v.Loss, suspicions)
	}
	u.net = steady(rtt)
	s.run(4 * time.Minute)
	if u.targets.list[1].silent() {
		t.Errorf("it is still silent although it answers")
	}
}

func TestGatewayIsAHint(t *testing.T) {
	t.Parallel()
	h := settings(2)
	h.Targets = append(h.Targets, config.Target{Text: "gateway", Scheme: config.GatewayTarget})
	s := newSim(1)
	far := steady(rtt).dead(10*time.Second, never)
	u := s.add("dsl", h, func(target int, at time.Duration) (time.Duration, error) {
		if target == 2 {
			return time.Millisecond, nil
		}
		return far(target, at)
	})
	s.add("lte", settings(3), steady(rtt))
	s.run(20 * time.Second)
	u.want(t, Up, Down)
	if r := u.verdict(s.now).Reason; !strings.HasPrefix(r, "no answer from 192.0.2.1, 192.0.2.2 for ") || !strings.HasSuffix(r, "; the gateway answers") {
		t.Errorf("reason %q", r)
	}

	h.Targets = h.Targets[2:] // alone it counts
	s = newSim(1)
	u = s.add("dsl", h, steady(rtt).dead(10*time.Second, never))
	s.add("lte", settings(3), steady(rtt))
	s.run(20 * time.Second)
	u.want(t, Up, Down)
}

// What fails for certain is not waited for.
func TestCertainFailure(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), func(_ int, at time.Duration) (time.Duration, error) {
		if at > 10*time.Second {
			return rtt, errRefused
		}
		return rtt, nil
	})
	u.traffic = flow(200, 200, never) // no excuse
	s.add("lte", settings(3), steady(rtt))
	s.run(20 * time.Second)
	u.want(t, Up, Down)
	if took := u.states[1].at - 10*time.Second; took > 1050*time.Millisecond {
		t.Errorf("down after %v", took)
	}
	if r := u.verdict(s.now).Reason; !strings.Contains(r, "192.0.2.1 (connection refused)") {
		t.Errorf("reason %q", r)
	}
}

func TestHoldDownDoublesAndDecays(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	dead := false
	u := s.add("dsl", settings(3), func(int, time.Duration) (time.Duration, error) {
		if dead {
			return -1, nil
		}
		return rtt, nil
	})
	s.add("lte", settings(3), steady(rtt))
	s.run(10 * time.Second)
	held := func() time.Duration {
		dead = true
		s.run(s.at() + 3*time.Second)
		dead = false
		n := len(u.states)
		for u.state == Down {
			s.run(s.at() + time.Second)
		}
		s.run(s.at() + time.Second)
		return (u.states[n].at - u.states[n-1].at).Round(time.Second)
	}
	want := 10 * time.Second
	for range 9 {
		if got := held(); got != want {
			t.Fatalf("held down for %v, want %v", got, want)
		}
		want = min(2*want, 10*time.Minute)
	}
	// Six flaps count: 10 s << 6 is more than the 10 minutes that are the most.
	s.run(s.at() + 31*time.Minute)
	if got, want := held(), 80*time.Second; got != want {
		t.Errorf("after half an hour of being up it is held down for %v, want %v", got, want)
	}
	s.run(s.at() + 2*time.Hour)
	if got, want := held(), 10*time.Second; got != want {
		t.Errorf("after two hours of being up it is held down for %v, want %v", got, want)
	}
}

// Good probes must come in a row.
func TestUpAfter(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	from := 20 * time.Second
	n := steady(rtt).dead(10*time.Second, from)
	u := s.add("dsl", settings(1), func(target int, at time.Duration) (time.Duration, error) {
		if at > from && at < 40*time.Second && int(at/(500*time.Millisecond))%4 == 0 {
			return -1, nil
		}
		return n(target, at)
	})
	s.add("lte", settings(3), steady(rtt))
	s.run(time.Minute)
	last := u.states[len(u.states)-1]
	if last.state != Up || last.at < 40*time.Second || last.at > 43*time.Second {
		t.Errorf("%v, want up at 40 s to 43 s", u.states)
	}
}

func TestLostAndFound(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.gone("dsl", settings(3), steady(rtt))
	u.lost(s.now, "no carrier on eth1")
	s.add("lte", settings(3), steady(rtt))
	s.run(time.Second)
	if v := u.verdict(s.now); v.State != Down || v.Reason != "no carrier on eth1" || !v.Until.IsZero() || v.Probes != 0 {
		t.Fatalf("%+v", v)
	}
	u.found(s.now)
	u.start(s.now)
	if u.state != Up {
		t.Fatal("not up when it appeared first")
	}
	s.run(5 * time.Second)
	u.lost(s.now, "no carrier on eth1")
	sent := u.flight.sent
	s.run(6 * time.Second)
	if v := u.verdict(s.now); v.State != Down || v.Probes != sent || v.RTT != 0 {
		t.Fatalf("%+v", v)
	}
	u.found(s.now)
	u.start(s.now)
	s.run(14 * time.Second)
	if v := u.verdict(s.now); v.State != Down || !strings.Contains(v.Reason, "no carrier on eth1") || !v.Until.Equal(s.start.Add(15*time.Second)) {
		t.Fatalf("%+v", v)
	}
	s.run(15500 * time.Millisecond)
	if v := u.verdict(s.now); v.State != Up || v.Reason != "" {
		t.Fatalf("%+v", v)
	}
}

// Without targets the path is all there is to know.
func TestWithoutTargets(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(0), nil)
	s.add("lte", settings(3), steady(rtt))
	s.run(time.Second)
	for range 5 {
		u.lost(s.now, "no carrier on eth1")
		if u.state != Down {
			t.Fatal("not down")
		}
		u.found(s.now)
		u.start(s.now)
		if v := u.verdict(s.now); v.State != Up || v.Probes != 0 {
			t.Fatalf("%+v", v)
		}
	}
	// A dead leg goes down while such a one can take over.
	s = newSim(1)
	u = s.add("dsl", settings(3), steady(rtt).dead(5*time.Second, never))
	s.add("lte", settings(0), nil)
	s.run(10 * time.Second)
	u.want(t, Up, Down)
}

// What the process itself slept through proves nothing.
func TestLateTimer(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		s := newSim(seed)
		from := 10*time.Second + time.Duration(s.random.Int64N(int64(time.Second)))
		// What was sent before is lost, as if the machine had been suspended, and
		// nothing answers for another moment.
		n := steady(rtt).dead(from-100*time.Millisecond, from+10300*time.Millisecond)
		u := s.add("dsl", settings(3), n)
		s.add("lte", settings(3), steady(50*time.Millisecond))
		s.stalls = [][2]time.Duration{{from, from + 10*time.Second}}
		s.run(time.Minute)
		u.want(t, Up)
	}
}

// A machine that is always slow still finds a dead uplink.
func TestAlwaysLate(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
	s.add("lte", settings(3), steady(50*time.Millisecond))
	for at := time.Duration(0); at < 40*time.Second; at += 130 * time.Millisecond {
		s.stalls = append(s.stalls, [2]time.Duration{at, at + 120*time.Millisecond})
	}
	s.run(40 * time.Second)
	if d := u.downs(); len(d) != 1 || d[0] < 20*time.Second || d[0] > 23*time.Second {
		t.Errorf("%v, want down at 20 s to 23 s", u.states)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.gone("dsl", settings(3), nil)
	u.found(s.now)
	u.start(s.now)
	p := u.tick(s.now, nil)[0]
	answer := func(r Result) { u.result(s.now, r) }
	answer(Result{Token: p.token + 1, RTT: rtt})
	answer(Result{Token: 0, RTT: rtt})
	answer(Result{Token: p.token, RTT: time.Hour})
	answer(Result{Token: p.token, RTT: -1})
	if v := u.verdict(s.now); v.Answers != 0 || v.Ignored != 4 {
		t.Fatalf("%+v", v)
	}
	for range 3 {
		answer(Result{Token: p.token, RTT: rtt})
	}
	answer(Result{Token: p.token, Err: errRefused})
	if v := u.verdict(s.now); v.Answers != 1 || v.Ignored != 7 || v.Suspect {
		t.Fatalf("%+v", v)
	}
	u.found(s.now) // by another way: the old probes are nobody's
	u.start(s.now)
	answer(Result{Token: p.token, RTT: rtt})
	if q := u.tick(s.now, nil)[0]; q.token <= p.token {
		t.Errorf("token %d came after %d", q.token, p.token)
	}
	if v := u.verdict(s.now); v.Answers != 1 || v.Ignored != 8 || v.Probes != 2 {
		t.Fatalf("%+v", v)
	}
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("sat", metered(3), steady(rtt).dead(20*time.Second, never))
	s.add("lte", settings(3), steady(rtt))
	s.run(19 * time.Second)
	if u.configure(fast(3), s.now) {
		t.Fatal("the targets are the same")
	}
	s.run(21 * time.Second)
	u.want(t, Up, Down)
	if !u.configure(settings(0), s.now) || u.state != Up {
		t.Errorf("%v without targets, want up", u.state)
	}
	s.run(30 * time.Second)
	if u.configure(settings(2), s.now); u.state != Up || len(u.targets.list) != 2 {
		t.Errorf("%v with %d targets", u.state, len(u.targets.list))
	}
}

// A late answer is no loss, and teaches how long to wait.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), jump(700*time.Millisecond, 0))
	s.run(12 * time.Second)
	if v := u.verdict(s.now); v.Loss != 0 || v.RTT != 700*time.Millisecond || v.Suspect {
		t.Errorf("%+v", v)
	}
}

// A link that hardly ever answers, and late, does not come and go.
func TestHardlyAlive(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		s := newSim(seed)
		u := s.add("dsl", settings(3), func(_ int, at time.Duration) (time.Duration, error) {
			switch {
			case at < 10*time.Second:
				return rtt, nil
			case s.random.IntN(20) == 0:
				return time.Duration(s.random.Int64N(int64(time.Second))), nil
			}
			return -1, nil
		})
		s.add("lte", settings(3), steady(rtt))
		s.run(time.Minute)
		if len(u.downs()) > 5 {
			t.Fatalf("seed %d: %v", seed, u.states)
		}
	}
}

// One target that is refused for certain shows that traffic is no excuse.
func TestCertainFailureVoidsExcuses(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	n := steady(rtt).dead(10*time.Second, never)
	u := s.add("dsl", settings(3), func(target int, at time.Duration) (time.Duration, error) {
		if target == 1 && at > 10*time.Second {
			return rtt, errRefused
		}
		return n(target, at)
	})
	u.traffic = flow(200, 200, never)
	s.add("lte", settings(3), steady(rtt))
	s.run(20 * time.Second)
	if d := u.downs(); len(d) != 1 || d[0] > 13*time.Second {
		t.Errorf("%v", u.states)
	}
}

// After a stop, what was in flight does not even raise a suspicion.
func TestStopProvesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		s := newSim(seed)
		from := 10*time.Second + time.Duration(s.random.Int64N(int64(time.Second)))
		u := s.add("dsl", settings(3), steady(rtt).dead(from-80*time.Millisecond, from+10*time.Second))
		s.stalls = [][2]time.Duration{{from, from + 10*time.Second}}
		s.run(from + 10*time.Second)
		if u.suspicion.on {
			t.Fatalf("seed %d: suspicion", seed)
		}
	}
}

// A target that dies is no loss of the uplink's.
func TestTargetDies(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).without(1))
	s.run(2 * time.Second)
	if v := u.verdict(s.now); v.Loss != 0 {
		t.Errorf("loss %v%% because of a target that never answered", v.Loss)
	}
	s = newSim(1)
	all := steady(rtt)
	u = s.add("dsl", settings(3), func(target int, at time.Duration) (time.Duration, error) {
		if at > 20*time.Second {
			return all.without(1)(target, at)
		}
		return rtt, nil
	})
	for !u.targets.list[1].silent() {
		s.run(s.at() + 100*time.Millisecond)
	}
	if v := u.verdict(s.now); v.Loss != 0 || s.at() > 30*time.Second {
		t.Errorf("at %v: loss %v%% because of a target that died", s.at(), v.Loss)
	}
	u.want(t, Up)
}

// A timer that is a little late: the answer that has its turn only after it was
// in time, and there is no suspicion.
func TestMildlyLateTimer(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), func(_ int, at time.Duration) (time.Duration, error) {
		if at > 10*time.Second && at < 10600*time.Millisecond {
			return 360 * time.Millisecond, nil
		}
		return rtt, nil
	})
	s.run(10 * time.Second)
	sent, before := u.next.Sub(s.start), s.probes
	s.stalls = [][2]time.Duration{{sent + 90*time.Millisecond, sent + 280*time.Millisecond}}
	s.run(sent + 390*time.Millisecond)
	if n := s.probes - before; n != 1 || u.suspicion.on || u.verdict(s.now).Loss > 0 {
		t.Errorf("%d probes instead of one, %+v", n, u.verdict(s.now))
	}
}

// A probe that is lost is no reason for suspicion if a later one was answered
// before its time was over.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	lost := 0
	h := settings(3)
	h.Interval = 200 * time.Millisecond
	u := s.add("dsl", h, func(_ int, at time.Duration) (time.Duration, error) {
		if at > 10*time.Second && lost == 0 {
			lost++
			return -1, nil
		}
		return 240 * time.Millisecond, nil
	})
	for s.at() < 15*time.Second {
		if s.run(s.at() + 10*time.Millisecond); u.suspicion.on {
			t.Fatalf("suspicion at %v", s.at())
		}
	}
	if lost != 1 || u.verdict(s.now).Loss == 0 {
		t.Errorf("%d lost, %+v", lost, u.verdict(s.now))
	}
}

// After a round that replies excused, rounds are counted anew.
func TestExcusedRoundsBreakTheRow(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).dead(10*time.Second, never))
	s.add("lte", settings(3), steady(rtt))
	for u.suspicion.failed < u.settings.DownAfter-1 {
		s.run(s.at() + time.Millisecond)
	}
	round := func(replies uint64) {
		b := batch{all: true, sent: s.now, based: true, base: u.judge.traffic.last}
		s.now = s.now.Add(200 * time.Millisecond)
		u.judge.traffic.last.In += replies
		u.judge.traffic.last.InBytes += 500 * replies
		u.judge.traffic.last.Out += replies
		u.judge.traffic.at = s.now
		u.roundFailed(s.now, &b)
	}
	round(100)
	if !u.suspicion.excused || u.suspicion.failed != 0 {
		t.Errorf("%+v", u.suspicion)
	}
	for range u.settings.DownAfter - 1 {
		round(0)
	}
	if u.condemned() {
		t.Errorf("rounds from before count: %+v", u.suspicion)
	}
}

// A down is taken back once in a hold-down.
func TestTakenBackOnce(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt))
	s.add("lte", settings(3), steady(rtt))
	s.run(10 * time.Second)
	// The answer to b comes when the leg has been down for a moment.
	late := func() {
		b := &batch{sent: s.now, timeout: 200 * time.Millisecond, judged: true, open: 2}
		s.now = s.now.Add(600 * time.Millisecond)
		u.condemn(s.now)
		s.now = s.now.Add(100 * time.Millisecond)
		u.believe(s.now, b, &shot{}, &u.targets.list[0], 700*time.Millisecond)
	}
	if late(); u.state != Up {
		t.Fatal("not taken back")
	}
	s.now = s.now.Add(5 * time.Second)
	if late(); u.state != Down {
		t.Error("taken back twice within the hold-down")
	}
	u.up(s.now)
	s.now = s.now.Add(5 * time.Second)
	if late(); u.state != Up {
		t.Error("not taken back after a hold-down")
	}
}

// While a leg is down its probes are waited for as long as at first: that some
// answers were quick says nothing yet.
func TestDownIsPatient(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	dead, n := steady(rtt).dead(10*time.Second, 40*time.Second), 0
	u := s.add("dsl", settings(3), func(target int, at time.Duration) (time.Duration, error) {
		if at > 40*time.Second {
			if n++; n == 5 {
				return 900 * time.Millisecond, nil
			}
		}
		return dead(target, at)
	})
	s.add("lte", settings(3), steady(rtt))
	s.run(44 * time.Second)
	u.want(t, Up, Down, Up)
}

// A gateway that does not answer is no target that is lost.
func TestSilentHint(t *testing.T) {
	t.Parallel()
	h := settings(2)
	h.Targets = append(h.Targets, config.Target{Text: "gateway", Scheme: config.GatewayTarget})
	s := newSim(1)
	u := s.add("dsl", h, steady(rtt).without(2).dead(10*time.Second, 10400*time.Millisecond))
	s.run(15 * time.Second)
	if g := &u.targets.list[2]; g.misses > 0 || !g.missedAt.IsZero() || g.tally != (tally{}) {
		t.Errorf("%+v", g)
	}
}

// Without hold-down flaps are counted all the same, but not for ever: a reload
// may bring one.
func TestFlapsAreBounded(t *testing.T) {
	t.Parallel()
	var h hold
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 100 {
		now = now.Add(time.Second)
		h.down(now, 0)
		h.up(now)
	}
	h.down(now, 10*time.Second)
	if held := h.until.Sub(now); held <= 0 || held > maxHold {
		t.Errorf("held for %v", held)
	}
}

// A line that its own traffic fills again whenever it has some is degraded for
// longer each time: it does not come and go for ever.
func TestDegradedAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	lossy := false
	u := s.add("dsl", settings(3), nil)
	u.net = func(_ int, at time.Duration) (time.Duration, error) {
		if u.state == Up {
			lossy = true // it has new connections
		} else if at-u.states[len(u.states)-1].at > 20*time.Second {
			lossy = false // they have ended
		}
		if lossy && s.random.Float64() < 0.4 {
			return -1, nil
		}
		return rtt, nil
	}
	s.add("lte", settings(3), steady(rtt))
	s.run(time.Hour)
	n := 0
	for _, x := range u.states {
		if x.state == Degraded {
			n++
		}
	}
	if n < 5 || n > 20 {
		t.Errorf("degraded %d times in an hour: %v", n, u.states)
	}
}
