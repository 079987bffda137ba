package health

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Monitor watches legs.
type Monitor struct {
	options Options
	inbox   inbox

	mu     sync.Mutex
	legs   map[Leg]*watch
	order  []*watch // by leg
	group  group    // their judges
	closed []Prober // to be closed by Run
	memory map[Leg]kept
	meter  meter
	held   bool // probers are not opened now
	epoch  time.Time
}

// kept is what is remembered of a leg that is not watched.
type kept struct {
	Memory
	last time.Time // when it was watched, or when it was recalled
}

// watch is a leg with what belongs to it.
type watch struct {
	*judge
	want   Watched
	prober Prober
	number uint64    // of the prober: results of an earlier one are nobody's
	retry  time.Time // when to open the prober; zero: it is open, or not wanted
	told   told
}

// forgetTime is how long a leg that is not watched any more is remembered.
const forgetTime = time.Hour

// NewMonitor returns a Monitor that watches nothing yet.
func NewMonitor(o Options) *Monitor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = func() float64 { return 0.5 }
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	m := &Monitor{options: o, legs: map[Leg]*watch{}, memory: map[Leg]kept{}, meter: meter{own: map[int]Counter{}}}
	now := time.Now()
	m.epoch = now
	for l, k := range o.Memory {
		m.memory[l] = kept{k, now}
	}
	m.inbox.alarm = o.Alarm
	return m
}

// Watch replaces what is watched. Legs that stay keep what is known of them. It
// does not wait for anything: probers are opened and closed by Run. When it
// returns, Verdicts says of every leg whether its path is there.
func (m *Monitor) Watch(legs []Watched) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := maps.Clone(m.legs)
	for _, w := range legs {
		delete(gone, w.Leg)
		m.watch(w, now)
	}
	for l, w := range gone {
		m.memory[l] = kept{w.remember(), now}
		m.close(w)
		delete(m.legs, l)
	}
	m.order = slices.SortedFunc(maps.Values(m.legs), func(a, b *watch) int {
		return cmp.Or(cmp.Compare(a.leg.Uplink, b.leg.Uplink), cmp.Compare(a.leg.Family, b.leg.Family))
	})
	m.group = m.group[:0]
	for i, w := range m.order {
		m.group = append(m.group, w.judge)
		w.twin, w.beside = nil, nil
		if i > 0 {
			if o := m.order[i-1]; o.leg.Uplink == w.leg.Uplink {
				w.twins(o.judge, w.want.Traffic != 0)
			}
		}
	}
	m.meter.keep(legs)
	m.group.settle(now)
	m.tell()
	m.inbox.poke()
}

// watch takes in what is wanted of one leg.
func (m *Monitor) watch(want Watched, now time.Time) {
	if want.Path != nil {
		p := *want.Path
		p.DNS = slices.Clone(p.DNS)
		want.Path = &p
	}
	w := m.legs[want.Leg]
	if w == nil {
		w = &watch{judge: newJudge(want.Leg, want.Settings, m.options.Rand, m.epoch, now)}
		if k, ok := m.memory[want.Leg]; ok {
			w.recall(k.Memory, now)
			delete(m.memory, want.Leg)
		}
		w.told = told{w.state, w.why(), false}
		m.legs[want.Leg] = w
	}
	before := w.want
	others := w.configure(want.Settings, now)
	w.want = want
	m.follow(w, before.Path, others, now)
	if want.Path != nil && want.Gone != "" && (before.Path == nil || before.Gone == "") {
		w.unmet(now, want.Gone)
	}
}

// follow probes by the path that is wanted now. had is the one before; others
// is true if the targets have changed.
func (m *Monitor) follow(w *watch, had *Path, others bool, now time.Time) {
	switch {
	case w.want.Path == nil:
		m.close(w)
		w.retry = time.Time{}
		w.lost(now, w.want.Gone)
		return
	case !samePath(had, w.want.Path):
		w.found(now)
	case !others:
		return
	}
	m.close(w)
	w.retry = time.Time{}
	if len(w.targets.list) > 0 {
		w.retry = now
	}
}

// Hold keeps new probers from being opened, until it is called with false. What
// is found by Watch is not ready at once: its probes would leave by wrong rules
// while the kernel does not hold what is planned with it.
func (m *Monitor) Hold(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = on
	if !on {
		m.inbox.poke()
	}
}

// close lets go of a leg's prober; Run closes it.
func (m *Monitor) close(w *watch) {
	if w.prober != nil {
		m.closed = append(m.closed, w.prober)
		w.prober = nil
	}
}

// Verdicts returns what is known of every watched leg, as a copy.
func (m *Monitor) Verdicts() map[Leg]Verdict {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	v := make(map[Leg]Verdict, len(m.legs))
	for l, w := range m.legs {
		v[l] = w.judged(now)
	}
	return v
}

// judged is the judge's verdict with what the prober did not believe.
func (w *watch) judged(now time.Time) Verdict {
	v := w.verdict(now)
	if p, ok := w.prober.(interface{ Ignored() uint64 }); ok {
		v.Ignored += p.Ignored()
	}
	return v
}

// Memories returns what should be kept over a restart, as a copy. It keeps legs
// that were watched within the hour, too.
func (m *Monitor) Memories() map[Leg]Memory {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.memory, func(_ Leg, k kept) bool { return now.Sub(k.last) > forgetTime })
	all := make(map[Leg]Memory, len(m.memory)+len(m.legs))
	for l, k := range m.memory {
		all[l] = k.Memory
	}
	for l, w := range m.legs {
		all[l] = w.remember()
	}
	return all
}
