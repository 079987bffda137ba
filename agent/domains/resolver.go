package domains

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Element is an address in a set, and how long it stays there.
type Element struct {
	Set     string
	Addr    netip.Addr
	Timeout time.Duration
}

// Options are what a Resolver works with.
type Options struct {
	Ask   func(ctx context.Context, q Question, servers []netip.Addr) ([]netip.Addr, time.Duration, error)
	Add   func([]Element) error // to one set; whatever timeouts the elements have by now, if they are there
	Empty func(sets []string) error
	Holds func(set string) ([]netip.Addr, error) // what is in a set now
	Room  int                                    // the elements that a set takes, of each family
	Rand  func() float64                         // 0 to below 1; for one goroutine
	Log   *slog.Logger
}

// Wanted is what a Resolver is to do.
type Wanted struct {
	Lists   []List
	Servers []netip.Addr // the best first; empty: the system's
}

// Bounds of a Resolver's work.
const (
	maxAsking = 16 // questions in flight
	perSecond = 50 // questions
	lookTime  = 8 * time.Second
	// period is how often the sets that dnsmasq fills are emptied, in turn. No
	// answer may be in use longer than that.
	period    = 48 * time.Hour
	turnCheck = time.Minute
)

// Resolver keeps the sets of lists filled with the addresses of their names.
type Resolver struct {
	Options
	wake chan struct{} // capacity 1
	news chan struct{} // likewise: Filled

	mu     sync.Mutex
	wanted Wanted
	refill bool
	wrong  []string
	told   map[string]bool // the sets that dnsmasq fills
	filled map[string]bool // those of them to which something came
}

// NewResolver prepares a resolver. It wants nothing yet.
func NewResolver(o Options) *Resolver {
	return &Resolver{Options: o, wake: make(chan struct{}, 1), news: make(chan struct{}, 1), filled: map[string]bool{}}
}

// Update changes what is wanted. The sets exist by now; refill: some of them may
// be empty. It never blocks.
func (r *Resolver) Update(w Wanted, refill bool) {
	r.mu.Lock()
	changed := refill || !same(r.wanted, w)
	r.wanted, r.refill = w, r.refill || refill
	if changed {
		r.told = map[string]bool{}
		for _, l := range w.Lists {
			for _, set := range l.Told() {
				r.told[set] = true
			}
		}
	}
	r.mu.Unlock()
	if !changed {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func same(a, b Wanted) bool {
	return slices.Equal(a.Servers, b.Servers) && slices.EqualFunc(a.Lists, b.Lists, func(x, y List) bool { return x.ID == y.ID && slices.Equal(x.Rules, y.Rules) })
}

// Warnings says what a person should look at, in a stable order.
func (r *Resolver) Warnings() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrong
}

// found is how a question ended.
type found struct {
	q     Question
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// running is what Run alone knows.
type running struct {
	*Resolver
	wanted  Wanted
	sched   Schedule
	limiter *rate.Limiter
	shelves map[string]*shelf // by ID of a list
	asking  int
	results chan found
	turn    int64 // the period in which the told sets were last looked at
	emptied time.Time
	copies  copies
	copied  time.Time
}

// Run works until ctx ends, and returns nil then.
func (r *Resolver) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	x := running{Resolver: r, limiter: rate.NewLimiter(perSecond, perSecond), results: make(chan found, maxAsking), turn: turnOf(time.Now())}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			x.update(time.Now())
		case <-r.news:
		case f := <-x.results:
			x.take(f, time.Now())
		case <-timer.C:
		}
		now := time.Now()
		x.maintain(now)
		free := min(maxAsking-x.asking, int(x.limiter.TokensAt(now)))
		for _, q := range x.sched.Due(now, free) {
			x.limiter.AllowN(now, 1)
			x.asking++
			servers := x.wanted.Servers
			tasks.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, lookTime)
				defer cancel()
				f := found{q: q}
				f.addrs, f.ttl, f.err = r.Ask(ctx, q, servers)
				x.results <- f // there is room for all in flight
			})
		}
		x.warn(now)
		timer.Reset(x.sleep(time.Now()))
	}
}

// update takes what is wanted now.
func (x *running) update(now time.Time) {
	x.mu.Lock()
	w, refill := x.Resolver.wanted, x.refill
	x.refill = false
	x.mu.Unlock()
	if !slices.Equal(w.Servers, x.wanted.Servers) {
		x.sched.Hurry(now)
	}
	lost, had := refill, x.wanted.Lists
	refill = refill || !same(w, x.wanted)
	x.wanted = w
	var names []string
	for _, l := range w.Lists {
		names = append(names, l.Names()...)
	}
	x.sched.Want(names, now)
	old := x.shelves
	x.shelves = map[string]*shelf{}
	for _, l := range w.Lists {
		if x.shelves[l.ID] = old[l.ID]; x.shelves[l.ID] == nil {
			x.shelves[l.ID] = newShelf()
		}
		if refill {
			x.fill(l, now)
		}
	}
	x.tell(had, lost)
}

// take takes the end of a question.
func (x *running) take(f found, now time.Time) {
	x.asking--
	if f.err != nil {
		x.Log.Debug("a name of a rule could not be resolved", "name", f.q.Name, "family", f.q.Family, "err", f.err)
		x.sched.Failed(f.q, now, x.Rand())
		return
	}
	x.Log.Debug("resolved a name of a rule", "name", f.q.Name, "addresses", f.addrs, "ttl", f.ttl)
	x.write(x.sched.Answered(f.q, f.addrs, f.ttl, now, x.Rand()), now)
}

// write puts addresses into the sets of the lists that have their names.
func (x *running) write(holds []Hold, now time.Time) {
	for _, l := range x.wanted.Lists {
		s := x.shelves[l.ID]
		if !s.again.IsZero() {
			continue
		}
		var own []Hold
		for _, h := range holds {
			if !l.contains(h.Name) {
				continue
			}
			if h.Until.Before(s.until(h.Addr)) { // for this name; others may have it for longer
				h.Until = x.sched.Until(h.Addr, l)
			}
			own = append(own, h)
		}
		s.wrote(x.put(l, own, now), now)
	}
}

// put puts addresses into a list's set.
func (x *running) put(l List, holds []Hold, now time.Time) error {
	var elements []Element
	done := map[netip.Addr]bool{}
	for _, h := range holds {
		if done[h.Addr] {
			continue
		}
		done[h.Addr] = true
		if h.Until.Before(now) {
			h.Until = now
		}
		if x.shelves[l.ID].place(h.Addr, h.Until, now, x.Room) {
			elements = append(elements, Element{Set: l.Asked(), Addr: h.Addr, Timeout: h.Until.Sub(now)})
		}
	}
	if len(elements) == 0 {
		return nil
	}
	return x.Add(elements)
}

// fill puts all of a list into its set. If that was full although there is room
// by our count, an agent before this one left addresses there that its names do
// not have now; they serve until each name has been asked for, and no longer.
func (x *running) fill(l List, now time.Time) {
	s := x.shelves[l.ID]
	var err error
	if errors.Is(s.err, syscall.ENFILE) {
		if !x.sched.Asked(l) {
			s.postpone(now)
			return
		}
		err = x.Empty([]string{l.Asked()})
	}
	addrs := s.taken(now) // also what no name has any more
	for _, h := range x.sched.Held(l, now) {
		addrs = append(addrs, h.Addr)
	}
	all := make([]Hold, 0, len(addrs))
	done := map[netip.Addr]bool{}
	for _, a := range addrs {
		if !done[a] {
			done[a] = true
			all = append(all, Hold{Addr: a, Until: x.sched.Until(a, l)})
		}
	}
	s.wrote(errors.Join(err, x.put(l, all, now)), now)
}

// warn notes what is wrong, and logs what was not before.
func (x *running) warn(now time.Time) {
	var wrong []string
	for _, l := range x.wanted.Lists {
		wrong = append(wrong, x.shelves[l.ID].wrong(l, now, x.Room)...)
	}
	if x.sched.Full(now) {
		wrong = append(wrong, fmt.Sprintf("the domains of all rules have more than %d addresses: the others are not known; name fewer domains", maxHeld))
	}
	x.mu.Lock()
	old := x.wrong
	x.wrong = wrong
	x.mu.Unlock()
	for _, w := range wrong {
		if !slices.Contains(old, w) {
			x.Log.Warn(w)
		}
	}
}

// maintain writes again what could not be written, copies what dnsmasq wrote, and
// empties sets in their turn.
func (x *running) maintain(now time.Time) {
	x.copy(now)
	for _, l := range x.wanted.Lists {
		if s := x.shelves[l.ID]; !s.again.IsZero() && !now.Before(s.again) {
			x.fill(l, now)
		}
	}
	turn := turnOf(now)
	if turn == x.turn {
		return
	}
	x.turn = turn
	if !x.emptied.IsZero() && now.Sub(x.emptied) < period*9/10 {
		return // somebody set the clock
	}
	x.emptied = now
	for _, l := range x.wanted.Lists {
		set := l.Told()[turn&1]
		clear(x.copies[set])
		if err := x.Empty([]string{set}); err != nil {
			x.Log.Warn("addresses of a rule's domains could not be taken out; they stay for another two days", "err", err)
		}
	}
}

// turnOf is the number of the period by the clock on the wall, so that it takes
// no memory to keep to it over a restart: who was not running at the end of one
// leaves the set as it is until its next turn.
func turnOf(now time.Time) int64 { return now.Unix() / int64(period/time.Second) }

// sleep is how long there is nothing to do.
func (x *running) sleep(now time.Time) time.Duration {
	wait := turnCheck
	if next := x.sched.Next(); !next.IsZero() && x.asking < maxAsking {
		wait = min(wait, next.Sub(now))
		if x.limiter.TokensAt(now) < 1 {
			wait = max(wait, time.Second/perSecond)
		}
	}
	if due := x.copying(); !due.IsZero() {
		wait = min(wait, due.Sub(now))
	}
	for _, s := range x.shelves {
		if !s.again.IsZero() {
			wait = min(wait, s.again.Sub(now))
		}
	}
	return max(wait, 0)
}
