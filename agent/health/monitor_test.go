package health

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// fakeProber has answers after a round trip, by the clock of the bubble, and tells
// them when they are collected.
type fakeProber struct {
	report  func(Result)
	net     *fakeNet
	closed  bool
	answers []arrival
}

// arrival is an answer and when it arrives.
type arrival struct {
	token uint64
	at    time.Time
}

// fakeNet opens probers, and is what they probe.
type fakeNet struct {
	t *testing.T

	mu      sync.Mutex
	dead    map[string]bool
	refuse  error // what Open returns
	opened  int
	probers map[Leg]*fakeProber
	sent    int
	wakings map[time.Time]bool // when something was collected
}

func (n *fakeNet) open(l Leg, p Path, list []config.Target, report func(Result)) (Prober, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opened++
	if n.refuse != nil {
		return nil, n.refuse
	}
	if len(list) == 0 || p.Mark == 0 {
		n.t.Errorf("opened %v with %v, %v", l, p, list)
	}
	f := &fakeProber{report: report, net: n}
	n.probers[l] = f
	report(Result{Token: 1, RTT: rtt}) // nobody asked for that
	return &namedProber{f, l}, nil
}

// namedProber knows its leg.
type namedProber struct {
	*fakeProber
	leg Leg
}

func (p *namedProber) Send(_ int, token uint64, _ time.Duration) {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	if p.closed {
		n.t.Errorf("%v: sent after it was closed", p.leg)
	}
	if !n.dead[p.leg.Uplink] {
		p.answers = append(p.answers, arrival{token, time.Now().Add(rtt)})
	}
}

func (p *namedProber) Collect() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	now := time.Now()
	p.net.wakings[now] = true
	for len(p.answers) > 0 && !p.answers[0].at.After(now) {
		p.report(Result{Token: p.answers[0].token, RTT: rtt})
		p.answers = p.answers[1:]
	}
}

func (p *namedProber) Ignored() uint64 { return 1000 }

func (p *namedProber) Close() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.closed {
		p.net.t.Errorf("%v: closed twice", p.leg)
	}
	p.closed = true
}

func (n *fakeNet) kill(name string, dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[name] = dead
}

func (n *fakeNet) counts() (opened, sent int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opened, n.sent
}

// text is a log that may be read while it is written.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func newFakeNet(t *testing.T) *fakeNet {
	return &fakeNet{t: t, dead: map[string]bool{}, probers: map[Leg]*fakeProber{}, wakings: map[time.Time]bool{}}
}

// fakeAlarm is one by the bubble's clock.
type fakeAlarm struct{ *time.Timer }

func (a fakeAlarm) Set(d time.Duration) { a.Reset(d) }

func (a fakeAlarm) Wait() error {
	<-a.C
	return nil
}

// running starts a Monitor; stop ends it and returns when it has ended.
func running(t *testing.T, o Options) (m *Monitor, stop func()) {
	t.Helper()
	o.Alarm = fakeAlarm{time.NewTimer(time.Hour)}
	m = NewMonitor(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run returned %v", err)
		}
	}()
	return m, func() { cancel(); <-done }
}

func leg(name string) Leg { return Leg{name, routes.IPv4} }

func watched(name string, index int) Watched {
	return Watched{Leg: leg(name), Settings: settings(3), Path: &Path{Interface: name, Index: index, Mark: 1, Source: netip.MustParseAddr("192.0.2.1")}}
}

func TestMonitor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		var changed atomic.Int32
		var log text
		m, stop := running(t, Options{Open: n.open, Changed: func() { changed.Add(1) }, Rand: rand.New(rand.NewPCG(1, 1)).Float64,
			Log: slog.New(slog.NewTextHandler(&log, nil))})
		dsl, lte := watched("dsl", 1), watched("lte", 2)
		m.Watch([]Watched{dsl, lte})
		if v := m.Verdicts(); len(v) != 2 || v[leg("dsl")].State != Up || v[leg("lte")].State != Up {
			t.Fatalf("at once: %+v", v)
		}
		time.Sleep(10 * time.Second) // of the bubble's clock
		if v := m.Verdicts()[leg("dsl")]; v.RTT != rtt || v.Probes < 18 || v.Answers < v.Probes-1 || v.Ignored != 1001 {
			t.Fatalf("%+v", v)
		}
		if changed.Load() > 0 {
			t.Error("told of a change that Watch made")
		}

		n.kill("dsl", true)
		time.Sleep(1400 * time.Millisecond)
		v := m.Verdicts()[leg("dsl")]
		if v.State != Down || v.Until.IsZero() || !strings.HasPrefix(v.Reason, "no answer from 192.0.2.1, 192.0.2.2, 192.0.2.3 for ") || changed.Load() != 1 {
			t.Fatalf("%+v, changed %d times", v, changed.Load())
		}
		if !strings.Contains(log.String(), `msg="uplink judged" uplink=dsl family=ipv4 state=down was=up reason="no answer from`) {
			t.Errorf("log:\n%s", log.String())
		}
		n.kill("dsl", false)
		time.Sleep(15 * time.Second)
		if v := m.Verdicts()[leg("dsl")]; v.State != Up || changed.Load() != 2 {
			t.Fatalf("%+v, changed %d times", v, changed.Load())
		}

		// The link goes: at once, and nothing is sent any more.
		lost := lte
		lost.Path, lost.Gone = nil, "no carrier on lte"
		m.Watch([]Watched{dsl, lost})
		if v := m.Verdicts()[leg("lte")]; v.State != Down || v.Reason != "no carrier on lte" {
			t.Fatalf("%+v", v)
		}
		time.Sleep(time.Second)
		n.mu.Lock()
		if !n.probers[leg("lte")].closed {
			t.Error("its prober is still open")
		}
		n.mu.Unlock()
		m.Watch([]Watched{dsl}) // not wanted at all
		if kept := m.Memories(); len(kept) != 2 || kept[leg("lte")].Flaps != 1 {
			t.Errorf("%+v", kept)
		}
		m.Watch([]Watched{dsl, lte})
		if v := m.Verdicts()[leg("lte")]; v.State != Down || v.Until.IsZero() {
			t.Errorf("the hold-down is forgotten: %+v", v)
		}
		time.Sleep(30 * time.Second)
		if v := m.Verdicts()[leg("lte")]; v.State != Up {
			t.Errorf("%+v", v)
		}
		stop()
		for l, p := range n.probers {
			if !p.closed {
				t.Errorf("%v: not closed", l)
			}
		}
	})
}

// A prober is opened anew for another path or other targets, and only then.
func TestMonitorReopens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open})
		defer stop()
		dsl := watched("dsl", 1)
		step := func(what string, want int) {
			t.Helper()
			m.Watch([]Watched{dsl})
			time.Sleep(5 * time.Second)
			if opened, _ := n.counts(); opened != want {
				t.Errorf("%s: opened %d times, want %d", what, opened, want)
			}
			if v := m.Verdicts()[leg("dsl")]; v.State != Up {
				t.Errorf("%s: %+v", what, v)
			}
		}
		step("at first", 1)
		same := *dsl.Path
		dsl.Path = &same
		step("the same", 1)
		dsl.Settings.Interval = 300 * time.Millisecond
		step("another interval", 1)
		dsl.Path.DNS = append(dsl.Path.DNS, netip.MustParseAddr("192.0.2.53"))
		step("another DNS server", 2)
		dsl.Path.Source = netip.MustParseAddr("192.0.2.77")
		step("another address", 3)
		dsl.Settings = settings(2)
		step("other targets", 4)
		dsl.Settings = settings(0)
		step("no targets", 4)
		_, before := n.counts()
		time.Sleep(5 * time.Second)
		if _, sent := n.counts(); before == 0 || sent != before {
			t.Errorf("%d probes sent with targets, %d without", before, sent-before)
		}
	})
}

// Nothing is said against an uplink that cannot be probed; it is tried again.
func TestMonitorCannotOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		n.refuse = errors.New("operation not permitted")
		n.kill("dsl", true)
		var log text
		m, stop := running(t, Options{Open: n.open, Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer stop()
		m.Watch([]Watched{watched("dsl", 1)})
		time.Sleep(5 * time.Second)
		opened, _ := n.counts()
		if v := m.Verdicts()[leg("dsl")]; v.State != Up || opened < 3 || opened > 6 || !strings.Contains(log.String(), "operation not permitted") {
			t.Fatalf("%+v, tried %d times, log:\n%s", v, opened, log.String())
		}
		if v := m.Verdicts()[leg("dsl")]; v.Reason != "it cannot be probed: operation not permitted" || strings.Count(log.String(), "WARN") != 1 {
			t.Errorf("reason %q, log:\n%s", v.Reason, log.String())
		}
		n.mu.Lock()
		n.refuse = nil
		n.mu.Unlock()
		time.Sleep(2 * time.Second)
		if _, sent := n.counts(); sent == 0 {
			t.Error("not probed")
		}
		if v := m.Verdicts()[leg("dsl")]; strings.Contains(v.Reason, "cannot be probed") {
			t.Errorf("reason %q although it is probed", v.Reason)
		}
	})
}

// The probes' own packets are no traffic: they neither excuse nor alarm.
func TestMonitorCounters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		start := time.Now()
		var reads atomic.Int32
		var fail atomic.Bool
		counters := func() (map[int]routes.Counter, error) {
			reads.Add(1)
			if fail.Load() {
				return nil, errors.New("no buffer space")
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			one := flow(50, 0, 0)(time.Since(start)) // a stream that gets no replies
			answers := one
			answers.In += uint64(n.sent)
			answers.Out += uint64(n.sent)
			return map[int]routes.Counter{1: {In: answers.In, Out: answers.Out}}, nil
		}
		m, stop := running(t, Options{Open: n.open, Counters: counters})
		defer stop()
		dsl := watched("dsl", 1)
		dsl.Traffic = 1
		m.Watch([]Watched{dsl})
		time.Sleep(time.Minute)
		if r := reads.Load(); r < 590 || r > 610 {
			t.Errorf("counters read %d times a minute", r)
		}
		if _, sent := n.counts(); sent > 140 {
			t.Errorf("%d probes: the stream is taken for more than it is", sent)
		}
		fail.Store(true)
		reads.Store(0)
		time.Sleep(time.Minute)
		if r := reads.Load(); r > 7 {
			t.Errorf("counters that cannot be read were read %d times a minute", r)
		}
	})
}

// suspected reports whether a leg is under suspicion.
func suspected(m *Monitor, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.legs[leg(name)].suspicion.on
}

// Counters are read rarely where nobody sends, and often while an uplink is
// suspected.
func TestMonitorCountersAtRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		var reads atomic.Int32
		counters := func() (map[int]routes.Counter, error) {
			reads.Add(1)
			n.mu.Lock()
			defer n.mu.Unlock()
			return map[int]routes.Counter{1: {In: uint64(n.sent), Out: uint64(n.sent)}}, nil
		}
		m, stop := running(t, Options{Open: n.open, Counters: counters})
		defer stop()
		dsl := watched("dsl", 1)
		dsl.Traffic = 1
		m.Watch([]Watched{dsl})
		time.Sleep(5 * time.Second)
		reads.Store(0)
		time.Sleep(time.Minute)
		if r := reads.Load(); r < 118 || r > 122 {
			t.Errorf("counters read %d times a minute", r)
		}
		n.kill("dsl", true)
		for !suspected(m, "dsl") {
			time.Sleep(10 * time.Millisecond)
		}
		reads.Store(0)
		time.Sleep(350 * time.Millisecond) // not just until a stroke
		if r := reads.Load(); r < 3 || r > 4 {
			t.Errorf("counters read %d times in 350 ms of suspicion", r)
		}
	})
}

func TestMonitorMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		kept := map[Leg]Memory{
			leg("dsl"): {State: Down, Reason: "no answer", Since: now.Add(-time.Minute), Until: now.Add(time.Minute), Flaps: 3, Decayed: now},
			leg("old"): {State: Up, Since: now.Add(-2 * time.Hour)},
		}
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open, Memory: kept})
		defer stop()
		m.Watch([]Watched{watched("dsl", 1), watched("lte", 2)})
		time.Sleep(59 * time.Second)
		if v := m.Verdicts(); v[leg("dsl")].State != Down || v[leg("lte")].State != Up {
			t.Errorf("%+v", v)
		}
		time.Sleep(2 * time.Second)
		if v := m.Verdicts(); v[leg("dsl")].State != Up {
			t.Errorf("%+v", v)
		}
		if all := m.Memories(); len(all) != 3 {
			t.Errorf("%+v", all)
		}
		time.Sleep(time.Hour)
		if all := m.Memories(); len(all) != 2 {
			t.Errorf("one that is not watched any more is not forgotten: %+v", all)
		}
	})
}

// A leg that is not watched for a while, because somebody took it out, is still
// as dead as it was before, however long it has been.
func TestMonitorTakenOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open})
		defer stop()
		both := []Watched{watched("dsl", 1), watched("lte", 2)}
		m.Watch(both)
		time.Sleep(5 * time.Second)
		n.kill("dsl", true)
		time.Sleep(2 * time.Hour)
		before := m.Verdicts()[leg("dsl")]
		m.Watch(both[1:])
		if all := m.Memories(); len(all) != 2 {
			t.Errorf("remembered: %+v", all)
		}
		time.Sleep(10 * time.Minute)
		m.Memories()
		m.Watch(both)
		if v := m.Verdicts()[leg("dsl")]; v.State != Down || !v.Since.Equal(before.Since) {
			t.Errorf("%+v, was %+v", v, before)
		}
	})
}

// A link whose index is another one each time costs no memory.
func TestMonitorForgetsInterfaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open, Counters: func() (map[int]routes.Counter, error) { return nil, nil }})
		for i := range 20 {
			ppp := watched("dsl", i+1)
			ppp.Traffic = i + 1
			m.Watch([]Watched{ppp})
			time.Sleep(time.Second)
		}
		stop()
		if len(m.meter.own) != 1 {
			t.Errorf("own packets are counted of %d interfaces", len(m.meter.own))
		}
	})
}

// The kernel says that the gateway does not answer: down at once, and probed
// all the same, because that is what makes the kernel ask again.
func TestMonitorGatewayFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open, Changed: func() {}, Rand: rand.New(rand.NewPCG(1, 1)).Float64, Log: slog.New(slog.DiscardHandler)})
		defer stop()
		dsl, lte := watched("dsl", 1), watched("lte", 2)
		m.Watch([]Watched{dsl, lte})
		time.Sleep(5 * time.Second)
		failed := dsl
		failed.Gone = "gateway does not answer"
		n.kill("dsl", true)
		m.Watch([]Watched{failed, lte})
		if v := m.Verdicts()[leg("dsl")]; v.State != Down || v.Reason != failed.Gone {
			t.Fatalf("%+v", v)
		}
		before := m.Verdicts()[leg("dsl")].Probes
		time.Sleep(5 * time.Second)
		if v := m.Verdicts()[leg("dsl")]; v.Probes < before+8 || v.State != Down {
			t.Fatalf("not probed any more: %+v, %d before", v, before)
		}
		n.kill("dsl", false)
		m.Watch([]Watched{dsl, lte})
		if v := m.Verdicts()[leg("dsl")]; v.State != Down {
			t.Fatalf("back without a probe: %+v", v)
		}
		time.Sleep(15 * time.Second)
		if v := m.Verdicts()[leg("dsl")]; v.State != Up {
			t.Fatalf("%+v", v)
		}
	})
}

// Probes of a new path wait until the kernel is ready for them.
func TestMonitorHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open, Rand: rand.New(rand.NewPCG(1, 1)).Float64})
		defer stop()
		m.Hold(true)
		m.Watch([]Watched{watched("dsl", 1)})
		if v := m.Verdicts()[leg("dsl")]; v.State != Up {
			t.Errorf("%+v", v)
		}
		time.Sleep(5 * time.Second)
		if opened, sent := n.counts(); opened+sent > 0 {
			t.Errorf("%d opened, %d sent", opened, sent)
		}
		m.Hold(false)
		time.Sleep(time.Second)
		if _, sent := n.counts(); sent < 2 {
			t.Errorf("%d sent", sent)
		}
	})
}
