package domains

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/routes"
)

// world is servers, and the kernel's sets.
type world struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr // by name
	ttl     time.Duration
	dead    bool
	refuse  bool // the kernel does
	slow    time.Duration
	asked   int
	asking  int
	most    int
	sets    map[Element]time.Time // without timeouts, and until when
	emptied []string
}

func (w *world) ask(ctx context.Context, q Question, _ []netip.Addr) ([]netip.Addr, time.Duration, error) {
	w.mu.Lock()
	w.asked++
	w.asking++
	w.most = max(w.most, w.asking)
	w.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(w.slow):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking--
	if w.dead || ctx.Err() != nil {
		return nil, 0, errors.New("nobody answers")
	}
	if q.Family == routes.IPv6 {
		return nil, 0, nil
	}
	return w.answers[q.Name], w.ttl, nil
}

func (w *world) add(all []Element) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse {
		return errors.New("there is no such set")
	}
	for _, e := range all {
		until := time.Now().Add(e.Timeout)
		e.Timeout = 0
		w.sets[e] = until
	}
	return nil
}

func (w *world) empty(sets []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.emptied = append(w.emptied, sets...)
	return nil
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) has(l List, a netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sets[Element{Set: l.Asked(), Addr: a}].After(time.Now())
}

// inWorld runs a test beside a resolver, in a time of its own.
func inWorld(t *testing.T, test func(*world, *Resolver)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{answers: map[string][]netip.Addr{"a.org": {one}, "b.org": {two}}, ttl: time.Minute, slow: 10 * time.Millisecond, sets: map[Element]time.Time{}}
		r := NewResolver(Options{Ask: w.ask, Add: w.add, Empty: w.empty, Rand: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		test(w, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func TestResolverLife(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		a, both := NewList([]string{"a.org"}), NewList([]string{"a.org", "b.org", "*.c.org"})
		wanted := Wanted{Lists: []List{a, both}}
		r.Update(wanted, false)
		after(time.Second)
		if !w.has(a, one) || !w.has(both, one) || !w.has(both, two) || w.has(a, two) || w.asked != 4 {
			t.Fatalf("%d questions, %v", w.asked, w.sets)
		}
		for range 600 {
			after(time.Second)
			if !w.has(both, two) {
				t.Fatal("an address was lost although it is answered")
			}
		}
		if w.asked > 60 {
			t.Errorf("%d questions in ten minutes", w.asked)
		}
		w.set(func() { w.answers["a.org"] = []netip.Addr{two} })
		after(2 * time.Minute)
		if w.has(a, one) || !w.has(a, two) {
			t.Error("the addresses are not the newest")
		}
		w.set(func() { clear(w.sets) })
		r.Update(wanted, true)
		after(time.Millisecond)
		if !w.has(a, two) || !w.has(both, two) {
			t.Error("sets that were made anew are empty")
		}
		w.set(func() { w.dead = true })
		after(30 * time.Minute)
		if !w.has(a, two) {
			t.Error("without servers, addresses are gone")
		}
		after(2 * time.Hour)
		if w.has(a, two) {
			t.Error("addresses stay for ever")
		}
		w.set(func() { w.dead = false })
		r.Update(Wanted{Lists: wanted.Lists, Servers: []netip.Addr{one}}, false)
		after(time.Second)
		if !w.has(a, two) {
			t.Error("with new servers, it is not asked at once")
		}
	})
}

// TestResolverMany: of names too many to be asked for in time, no address is lost
// that is answered.
func TestResolverMany(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		var names []string
		w.set(func() {
			w.ttl = 2 * time.Second
			for i := range 1500 {
				name := fmt.Sprintf("n%d.org", i)
				names = append(names, name)
				w.answers[name] = []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
			}
		})
		l := NewList(names)
		r.Update(Wanted{Lists: []List{l}}, false)
		after(3000/perSecond*time.Second + 10*time.Second)
		for range 60 {
			after(3 * time.Second)
			for _, name := range names {
				if !w.has(l, w.answers[name][0]) {
					t.Fatalf("the address of %s was lost", name)
				}
			}
		}
		w.set(func() { w.answers[names[0]] = []netip.Addr{one} })
		after(3000 / perSecond * time.Second)
		if w.has(l, netip.AddrFrom4([4]byte{198, 18})) || !w.has(l, one) {
			t.Error("what is not answered any more is there")
		}
	})
}

// TestResolverShared: an address that two names have stays as long as one has it.
func TestResolverShared(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		w.set(func() { w.answers["b.org"] = []netip.Addr{one}; w.ttl = time.Second })
		both, b := NewList([]string{"a.org", "b.org"}), NewList([]string{"b.org"})
		r.Update(Wanted{Lists: []List{both, b}}, false)
		after(time.Second)
		w.set(func() { w.answers["b.org"] = []netip.Addr{two} })
		after(10 * time.Second)
		if !w.has(both, one) || !w.has(both, two) || w.has(b, one) || !w.has(b, two) {
			t.Errorf("in the sets: %v", w.sets)
		}
	})
}

// TestResolverRefused: what the kernel did not take is written later.
func TestResolverRefused(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		a := NewList([]string{"a.org"})
		w.set(func() { w.refuse = true })
		r.Update(Wanted{Lists: []List{a}}, false)
		after(5 * time.Second)
		w.set(func() { w.refuse = false })
		after(2 * againAfter)
		if !w.has(a, one) {
			t.Error("it was not written again")
		}
	})
}

// TestResolverBounds: many names are asked for some at a time.
func TestResolverBounds(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		w.set(func() { w.slow = time.Minute; w.ttl = 0 })
		names := []string{}
		for i := range 300 {
			names = append(names, string(rune('a'+i%26))+string(rune('a'+i/26))+".org")
		}
		r.Update(Wanted{Lists: []List{NewList(names)}}, false)
		after(time.Minute)
		if w.most > maxAsking || w.most < maxAsking {
			t.Errorf("%d questions at a time", w.most)
		}
		w.set(func() { w.slow = 0; w.asked = 0 })
		after(2 * time.Minute)
		if w.asked > 120*perSecond+perSecond || w.asked < 600 {
			t.Errorf("%d questions in 2 minutes", w.asked)
		}
	})
}

// TestResolverTurns: the sets that dnsmasq fills are emptied in turn, never both
// within a period.
func TestResolverTurns(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		l := NewList([]string{"*.a.org"})
		r.Update(Wanted{Lists: []List{l}}, false)
		told := l.Told()
		last := ""
		for range 6 {
			after(period)
			if len(w.emptied) != 1 || w.emptied[0] == last || !slices.Contains(told[:], w.emptied[0]) {
				t.Fatalf("emptied %v after %q", w.emptied, last)
			}
			w.set(func() { last, w.emptied = w.emptied[0], nil })
		}
	})
}
