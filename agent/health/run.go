package health

import (
	"context"
	"slices"
	"time"

	"multiroute/routes"
)

// openRetry is how long after a prober could not be opened it is tried again.
const openRetry = time.Second

// work is what one step of Run leaves to do without the lock. It is used again,
// so that a step allocates nothing.
type work struct {
	letters []letter
	probes  []probe
	out     []outgoing
	open    []Prober
	changed bool
}

// outgoing is a probe with the one who sends it.
type outgoing struct {
	Prober
	probe
}

// Run probes until ctx is done, and returns nil then. It is called once.
func (m *Monitor) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, m.inbox.poke)()
	defer m.shut()
	var w work
	for due := time.Now(); ; {
		if err := m.inbox.sleep(time.Until(due)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		m.openAll(ctx)
		counters := m.count()
		m.collect(&w)
		due = m.step(&w, counters)
		for _, o := range w.out {
			o.Send(o.target, o.token, o.timeout)
		}
		if w.changed {
			m.options.Changed()
		}
	}
}

// step takes in what arrived and then judges what is due. It returns when the
// next step is due.
func (m *Monitor) step(w *work, counters map[int]routes.Counter) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.letters = m.inbox.take(w.letters[:0])
	now := time.Now() // after that: nobody is judged late by what arrived in time
	for _, l := range w.letters {
		if l.to.prober == nil || l.to.number != l.number {
			continue
		}
		if t, ok := l.to.result(now, l.Result); ok {
			m.meter.answered(l.to.want.Traffic, t.Scheme)
		}
	}
	if counters != nil {
		for _, l := range m.order {
			if c, ok := counters[l.want.Traffic]; ok && l.want.Traffic != 0 {
				before := l.traffic.last
				l.sample(now, m.meter.others(l.want.Traffic, Counter(c)))
				m.meter.looked(now, before, l.traffic.last)
			}
		}
	}
	w.out = w.out[:0]
	for _, l := range m.order {
		if l.prober == nil {
			continue
		}
		w.probes = l.tick(now, w.probes[:0])
		for _, p := range w.probes {
			m.meter.sent(l.want.Traffic, l.targets.list[p.target].Scheme)
			w.out = append(w.out, outgoing{l.prober, p})
		}
	}
	m.group.settle(now)
	w.changed = m.tell()
	return m.due(now)
}

// collect has the probers that wait for something tell what has arrived. They put
// it into the inbox, which the step that follows empties: nobody needs to be
// woken for it.
func (m *Monitor) collect(w *work) {
	m.mu.Lock()
	w.open = w.open[:0]
	for _, l := range m.order {
		if l.prober != nil && !l.flight.waits().IsZero() {
			w.open = append(w.open, l.prober)
		}
	}
	m.mu.Unlock()
	for _, p := range w.open {
		p.Collect()
	}
	m.inbox.calm()
}

// due returns when the next step has something to do, if only to collect
// answers.
func (m *Monitor) due(now time.Time) time.Time {
	if len(m.closed) > 0 { // collect may have taken back that we are to be woken for them
		return now
	}
	due := now.Add(time.Hour)
	for _, w := range m.order {
		due = earlier(due, w.due())
		if w.prober != nil {
			due = earlier(due, w.collectAt(now))
		}
		if w.prober == nil && !m.held {
			due = earlier(due, w.retry)
		}
	}
	return earlier(due, m.meter.next)
}

// told is what the log was told of a leg.
type told struct {
	state   State
	reason  string
	suspect bool
}

// tell logs what changed, and reports whether a state or a reason did.
func (m *Monitor) tell() bool {
	changed := false
	for _, w := range m.order {
		is := told{w.state, w.why(), w.suspicion.on}
		if is == w.told {
			continue
		}
		if is.suspect != w.told.suspect {
			m.options.Log.Debug("suspicion", "uplink", w.leg.Uplink, "family", familyName(w.leg), "suspect", is.suspect)
		}
		if is.state != w.told.state || is.reason != w.told.reason {
			changed = true
			m.options.Log.Info("uplink judged", "uplink", w.leg.Uplink, "family", familyName(w.leg),
				"state", is.state.String(), "was", w.told.state.String(), "reason", is.reason)
		}
		w.told = is
	}
	return changed
}

func familyName(l Leg) string {
	if l.Family == routes.IPv4 {
		return "ipv4"
	}
	return "ipv6"
}

// openAll closes the probers that are not wanted any more, and opens those that
// are. It does so without the lock: it takes system calls.
func (m *Monitor) openAll(ctx context.Context) {
	now := time.Now()
	m.mu.Lock()
	closed := m.closed
	m.closed = nil
	var open []*watch
	for _, w := range m.order {
		if w.prober == nil && !m.held && !w.retry.IsZero() && !w.retry.After(now) {
			open = append(open, w)
		}
	}
	m.mu.Unlock()
	for _, p := range closed {
		p.Close()
	}
	for _, w := range open {
		if ctx.Err() != nil {
			return
		}
		m.open(w)
	}
}

// open opens the prober of a leg, unless the leg is wanted otherwise meanwhile.
// While there is none, nothing is said against the leg; its reason says so.
func (m *Monitor) open(w *watch) {
	m.mu.Lock()
	w.number++
	number, leg, path, list := w.number, w.leg, w.want.Path, slices.Clone(w.list())
	m.mu.Unlock()
	if path == nil {
		return
	}
	p, err := m.options.Open(leg, *path, list, func(r Result) { m.inbox.put(letter{w, number, r}) })
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.legs[leg] != w || w.want.Path != path && !samePath(w.want.Path, path) || !slices.Equal(w.list(), list):
		if err == nil {
			m.closed = append(m.closed, p)
			m.inbox.poke()
		}
	case err != nil:
		w.retry = now.Add(openRetry)
		if blind := "it cannot be probed: " + err.Error(); blind != w.blind {
			w.blind = blind
			m.options.Log.Warn("cannot probe", "uplink", leg.Uplink, "family", familyName(leg), "err", err)
		}
	default:
		w.prober, w.retry = p, time.Time{}
		w.start(now)
	}
}

// samePath reports whether probes leave in the same way.
func samePath(a, b *Path) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Interface == b.Interface && a.Index == b.Index && a.Mark == b.Mark && a.Source == b.Source &&
		a.Gateway == b.Gateway && slices.Equal(a.DNS, b.DNS)
}

// shut closes every prober.
func (m *Monitor) shut() {
	m.mu.Lock()
	for _, w := range m.order {
		w.stop()
		m.close(w)
	}
	closed := m.closed
	m.closed = nil
	m.mu.Unlock()
	for _, p := range closed {
		p.Close()
	}
}
