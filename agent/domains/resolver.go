package domains

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
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
	Add   func([]Element) error // whatever timeouts the elements have by now, if they are there
	Empty func(sets []string) error
	Rand  func() float64 // 0 to below 1; for one goroutine
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
	period = 48 * time.Hour
	// againAfter is the wait after elements could not be written.
	againAfter = time.Second
	turnCheck  = time.Minute
)

// Resolver keeps the sets of lists filled with the addresses of their names.
type Resolver struct {
	Options
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	wanted Wanted
	refill bool
}

// NewResolver prepares a resolver. It wants nothing yet.
func NewResolver(o Options) *Resolver {
	return &Resolver{Options: o, wake: make(chan struct{}, 1)}
}

// Update changes what is wanted. The sets exist by now; refill: some of them may
// be empty. It never blocks.
func (r *Resolver) Update(w Wanted, refill bool) {
	r.mu.Lock()
	changed := refill || !same(r.wanted, w)
	r.wanted, r.refill = w, r.refill || refill
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
	return slices.Equal(a.Servers, b.Servers) && slices.EqualFunc(a.Lists, b.Lists, func(x, y List) bool { return x.ID == y.ID })
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
	asking  int
	again   time.Time // when all is to be written again; zero: not at all
	failure string    // the last one of a write, so that it is logged once
	results chan found
	turn    int64 // the period in which the told sets were last looked at
	emptied time.Time
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
	refill = refill || !same(w, x.wanted)
	x.wanted = w
	var names []string
	for _, l := range w.Lists {
		names = append(names, l.Names()...)
	}
	x.sched.Want(names, now)
	if refill {
		x.write(x.sched.Held(now), now)
	}
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

// write puts addresses into the sets of the lists that have their names, for as
// long as one of these has them.
func (x *running) write(holds []Hold, now time.Time) {
	var elements []Element
	done := map[Element]bool{}
	for _, h := range holds {
		for _, l := range x.wanted.Lists {
			if !l.contains(h.Name) {
				continue
			}
			e := Element{Set: l.Asked(), Addr: h.Addr}
			if done[e] {
				continue
			}
			done[e] = true
			e.Timeout = max(x.sched.Until(h.Addr, l).Sub(now), 0)
			elements = append(elements, e)
		}
	}
	if len(elements) == 0 {
		return
	}
	if x.failed(x.Add(elements), now) {
		x.again = now.Add(againAfter)
	}
}

// failed logs an error of a write, once.
func (x *running) failed(err error, now time.Time) bool {
	if err == nil {
		x.failure = ""
		return false
	}
	if x.failure != err.Error() {
		x.failure = err.Error()
		x.Log.Warn("addresses of a rule's domains could not be written; it is tried again", "err", err)
	}
	return true
}

// maintain writes again what could not be written, and empties sets in their
// turn.
func (x *running) maintain(now time.Time) {
	if !x.again.IsZero() && !now.Before(x.again) {
		x.again = time.Time{}
		x.write(x.sched.Held(now), now)
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
	var sets []string
	for _, l := range x.wanted.Lists {
		sets = append(sets, l.Told()[turn&1])
	}
	if len(sets) > 0 {
		x.failed(x.Empty(sets), now)
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
	if !x.again.IsZero() {
		wait = min(wait, x.again.Sub(now))
	}
	return max(wait, 0)
}
