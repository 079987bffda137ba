package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"multiroute/agent/health"
	"multiroute/agent/web"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// How often what is shown is looked at.
const (
	// sampleEvery is enough for the charts. What happens to an uplink is shown at
	// once, but no more often than sampleSoon.
	sampleEvery = 2 * time.Second
	sampleSoon  = 250 * time.Millisecond
	// statsEvery is how often the kernel is asked how full its table is.
	statsEvery = 5 * time.Second
	// countEvery is how often connections are counted. It takes time in proportion
	// to the size of the kernel's table, of which it may use one part in countShare.
	countEvery = 10 * time.Second
	countShare = 1000
	// listenEvery is how often it is tried to listen where that failed.
	listenEvery = 5 * time.Second
)

// sampler looks, every two seconds and when something happens, at everything that metrics and
// status page show, however many clients they have.
type sampler struct {
	h        *handler
	counters func() (map[int]routes.Counter, error)
	rules    func() (map[string]nat.Count, error) // for uplinks without an interface of their own
	stats    func() (conntrack.Stats, error)
	publish  func(*web.Snapshot)

	news <-chan struct{} // something happened to an uplink

	counts  map[uint32]int // connections by mark; nil: not counted
	counted time.Time
	cost    time.Duration // of counting them

	full  *web.Conntrack // the newest
	asked time.Time      // when it was asked for
}

// run samples until ctx ends.
func (s *sampler) run(ctx context.Context) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for next := time.Now(); ; {
		if now := time.Now(); now.Sub(next) > sampleEvery {
			next = now // late: what was missed is missed
		}
		next = next.Add(sampleEvery)
		tick.Reset(time.Until(next))
		began := time.Now()
		if err := s.sample(ctx); err != nil {
			return nil // the agent ends
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			continue
		case <-s.news:
		}
		next = time.Now()
		tick.Reset(time.Until(began.Add(sampleSoon)))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sample makes one snapshot. Only what the owner knows is asked of the owner.
func (s *sampler) sample(ctx context.Context) error {
	n := web.Snapshot{Time: time.Now()}
	var mask uint32
	own := map[string]int{} // interfaces, by uplink
	var uplinks []nat.Uplink
	var verdicts map[health.Leg]health.Verdict
	if err := s.h.ask(ctx, func() {
		d := s.h.d
		n.Status = d.describe(nil)
		n.Events = slices.Clone(d.events.newest)
		n.Transitions = maps.Clone(d.events.total)
		n.Failovers, n.Writes, n.Reloads = d.events.durations, d.writes, d.reloads
		mask, verdicts = d.cfg.Router.MarkMask, d.monitor.Verdicts()
		uplinks = slices.Clone(d.plan.NAT.Uplinks)
		for name, l := range d.ownLinks(d.seen) {
			own[name] = l.Index
		}
	}); err != nil {
		return err
	}
	counters, err := s.counters()
	if err != nil {
		n.Status.Warnings = append(n.Status.Warnings, err.Error())
	}
	n.Traffic = map[string]web.Traffic{}
	if counting(uplinks) {
		rules, err := s.rules()
		if err != nil {
			n.Status.Warnings = append(n.Status.Warnings, err.Error())
		}
		n.Traffic = byRules(uplinks, rules)
	}
	s.count(mask, n.Time)
	if s.counts != nil {
		n.Connections = map[string]int{}
	}
	for i := range n.Status.Uplinks {
		u := &n.Status.Uplinks[i]
		for _, f := range families {
			if v, ok := verdicts[health.Leg{Uplink: u.Name, Family: f}]; ok {
				n.Legs = append(n.Legs, legOf(u.Name, f, v))
			}
		}
		if c, ok := counters[own[u.Name]]; ok {
			n.Traffic[u.Name] = web.Traffic{InPackets: c.In, OutPackets: c.Out, InBytes: c.InBytes, OutBytes: c.OutBytes}
		}
		if c, ok := n.Traffic[u.Name]; ok {
			u.RxBytes, u.TxBytes = &c.InBytes, &c.OutBytes
		}
		if s.counts != nil {
			count := s.counts[u.Mark]
			n.Connections[u.Name], u.Connections = count, &count
		}
	}
	if n.Time.Sub(s.asked) >= statsEvery-sampleEvery/4 {
		s.asked, s.full = n.Time, nil
		if t, err := s.stats(); err == nil {
			s.full = &web.Conntrack{Entries: t.Entries, Limit: t.Limit, InsertFailed: t.InsertFailed, Dropped: t.Dropped, EarlyDropped: t.EarlyDropped}
		}
	}
	n.Conntrack = s.full
	s.publish(&n)
	return nil
}

// count counts connections if it is time.
func (s *sampler) count(mask uint32, now time.Time) {
	if !s.counted.IsZero() && now.Sub(s.counted) < max(countEvery, countShare*s.cost)-sampleEvery/4 {
		return
	}
	counts, err := s.h.d.counter.CountByMark(mask)
	if err != nil {
		counts = nil
	}
	s.counts, s.counted, s.cost = counts, now, time.Since(now)
}

func legOf(uplink string, f routes.Family, v health.Verdict) web.Leg {
	return web.Leg{Uplink: uplink, Family: familyName(f), Up: v.State != health.Down, RTT: v.RTT, Jitter: v.Jitter, Loss: v.Loss, Sent: v.Probes, Answers: v.Answers, Ignored: v.Ignored}
}

// window is the agent's HTTP server, as a task. Where it cannot listen it says so
// and tries again: nothing else depends on it.
type window struct {
	address netip.AddrPort
	server  *web.Server
	d       *daemon
	problem *atomic.Pointer[string] // why it is shut, for the status; nil: it is open
	again   time.Duration           // after which it tries again
}

// run serves until ctx ends.
func (w *window) run(ctx context.Context) error {
	for {
		var listening net.ListenConfig
		l, err := listening.Listen(ctx, "tcp", w.address.String())
		if err == nil {
			w.d.Log.Info("metrics and status page", "url", fmt.Sprintf("http://%s/", w.address))
			w.problem.Store(nil)
			err = w.server.Serve(ctx, l)
		}
		if ctx.Err() != nil {
			return nil
		}
		text := fmt.Sprintf("no metrics and status page: %v", err)
		if old := w.problem.Swap(&text); old == nil || *old != text {
			w.d.Log.Warn(text, "again_in", w.again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.again):
		}
	}
}

// openWarning says who may look, where that is not this machine alone.
func openWarning(address string) string {
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Addr().IsLoopback() {
		return ""
	}
	return fmt.Sprintf("[api] http = %q: metrics and status page are open to everybody who reaches this address; let only those whom you trust through", a)
}

// show prepares metrics and status page; without an address there are none.
func (d *daemon) show(ctx context.Context, h *handler, counters func() (map[int]routes.Counter, error), rules func() (map[string]nat.Count, error), stats func() (conntrack.Stats, error)) ([]func() error, error) {
	if d.cfg.API.HTTP == "" {
		return nil, nil
	}
	address := netip.MustParseAddrPort(d.cfg.API.HTTP)
	server, err := web.New(web.Options{Address: address, Version: d.Version, Explain: h.Explain, Log: d.Log})
	if err != nil {
		return nil, err
	}
	d.news = make(chan struct{}, 1)
	s := &sampler{h: h, counters: counters, rules: rules, stats: stats, publish: server.Publish, news: d.news}
	w := &window{address: address, server: server, d: d, problem: &d.shut, again: listenEvery}
	return []func() error{func() error { return s.run(ctx) }, func() error { return w.run(ctx) }}, nil
}
