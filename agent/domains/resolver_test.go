package domains

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/routes"
)

// world is servers, and the kernel's sets.
type world struct {
	mu       sync.Mutex
	answers  map[string][]netip.Addr // by name
	ttl      time.Duration
	ttls     map[string]time.Duration // of some names
	dead     bool
	refuse   error // the kernel does
	written  int
	slow     time.Duration
	asked    int
	asking   int
	most     int
	sets     map[Element]time.Time // without timeouts, and until when
	emptied  []string
	room     int // of a set; 0: enough
	overfull int // how often there was none
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
	return w.answers[q.Name], cmp.Or(w.ttls[q.Name], w.ttl), nil
}

func (w *world) add(all []Element) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written++
	if w.refuse != nil {
		return w.refuse
	}
	if w.room > 0 && w.size(all) > w.room {
		w.overfull++
		return fmt.Errorf("no room: %w", syscall.ENFILE)
	}
	for _, e := range all {
		until := time.Now().Add(e.Timeout)
		e.Timeout = 0
		w.sets[e] = until
	}
	return nil
}

// size is how many IPv4 addresses would be in a set with these.
func (w *world) size(all []Element) int {
	n, now := 0, time.Now()
	for e, until := range w.sets {
		if e.Set == all[0].Set && until.After(now) {
			n++
		}
	}
	for _, e := range all {
		e.Timeout = 0
		if !w.sets[e].After(now) {
			n++
		}
	}
	return n
}

func (w *world) empty(sets []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.emptied = append(w.emptied, sets...)
	for e := range w.sets {
		if slices.Contains(sets, e.Set) {
			delete(w.sets, e)
		}
	}
	return nil
}

func (w *world) holds(set string) (all []netip.Addr, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e, until := range w.sets {
		if e.Set == set && until.After(time.Now()) {
			all = append(all, e.Addr)
		}
	}
	return all, nil
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
		r := NewResolver(Options{Ask: w.ask, Add: w.add, Empty: w.empty, Holds: w.holds, Room: 1 << 14, Rand: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler)})
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
		w.set(func() {
			w.answers["b.org"], w.ttl, w.ttls = []netip.Addr{one}, time.Second, map[string]time.Duration{"a.org": time.Hour}
		})
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

// TestResolverRefused: what the kernel did not take is written later, ever more
// rarely, and said.
func TestResolverRefused(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		a := NewList([]string{"a.org"})
		a.Rules = []string{"video", "films"}
		w.set(func() { w.refuse = errors.New("there is no such set") })
		r.Update(Wanted{Lists: []List{a}}, false)
		after(5 * time.Second)
		w.set(func() { w.refuse = nil })
		after(4 * againMin)
		if !w.has(a, one) || len(r.Warnings()) > 0 {
			t.Errorf("it was not written again: %v", r.Warnings())
		}
		w.set(func() { w.refuse, w.written = errors.New("there is no such set"), 0 })
		after(time.Hour)
		want := []string{`rule "video", rule "films": addresses of its domains could not be written, it is tried again: there is no such set`}
		if w.written > 80 || !slices.Equal(r.Warnings(), want) {
			t.Errorf("written %d times within an hour; %v", w.written, r.Warnings())
		}
		w.set(func() { w.refuse = nil; w.answers["a.org"] = []netip.Addr{two} })
		after(2 * againMax)
		if !w.has(a, two) || w.has(a, one) || len(r.Warnings()) > 0 {
			t.Errorf("in the sets: %v; %v", w.sets, r.Warnings())
		}
	})
}

// crowd has n names of three addresses each.
func (w *world) crowd(n int) List {
	var names []string
	for i := range n {
		name := fmt.Sprintf("n%d.org", i)
		names = append(names, name)
		for k := range byte(3) {
			w.answers[name] = append(w.answers[name], netip.AddrFrom4([4]byte{198, 18 + k, byte(i >> 8), byte(i)}))
		}
	}
	l := NewList(names)
	l.Rules = []string{"crowd"}
	return l
}

func (w *world) count(l List) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for e, until := range w.sets {
		if e.Set == l.Asked() && until.After(time.Now()) {
			n++
		}
	}
	return n
}

// TestResolverFull: of a list with too many addresses what fits is there and
// stays, others have all of theirs, and it is said.
func TestResolverFull(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		const room = 100
		r.Room, w.room = room, room
		var crowd List
		w.set(func() { crowd = w.crowd(50) })
		small := NewList([]string{"a.org", "b.org"})
		wanted := Wanted{Lists: []List{crowd, small}}
		r.Update(wanted, false)
		after(time.Minute)
		first := map[Element]bool{}
		w.set(func() {
			for e := range w.sets {
				first[e] = true
			}
		})
		for range 60 {
			after(10 * time.Second)
			if n := w.count(crowd); n != room || !w.has(small, one) || !w.has(small, two) {
				t.Fatalf("%d of %d addresses", n, room)
			}
		}
		want := []string{`rule "crowd": its domains have more than the 100 IPv4 addresses that a list can hold: what goes to the others is left to the rules behind; divide the domains between several rules`}
		w.set(func() {
			if w.overfull > 0 || w.written > w.asked || len(w.sets) != len(first) || !slices.Equal(r.Warnings(), want) {
				t.Errorf("tried %d times what cannot be, wrote %d times for %d questions, %d addresses were there; %v", w.overfull, w.written, w.asked, len(w.sets), r.Warnings())
			}
			w.sets, w.written = map[Element]time.Time{}, 0
		})
		r.Update(wanted, true)
		after(time.Millisecond)
		if n := w.count(crowd); n != room || w.written != 2 {
			t.Errorf("a set that was made anew has %d addresses, written %d times", n, w.written)
		}

		// Some have other addresses, and others are in their places.
		w.set(func() {
			for i := range 50 {
				w.answers[fmt.Sprintf("n%d.org", i)] = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})}
			}
		})
		after(5 * time.Minute)
		if n := w.count(crowd); n != 50 || w.overfull > 0 {
			t.Errorf("%d addresses of 50", n)
		}
		after(fullFor)
		if len(r.Warnings()) > 0 {
			t.Error(r.Warnings())
		}
	})
}

// TestResolverLeftover: what an agent before this one left in a set serves until
// all names have been asked for, and then it is in nobody's way.
func TestResolverLeftover(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		const room = 200
		r.Room, w.room = room, room
		var crowd List
		old := netip.MustParseAddr("203.0.113.0")
		w.set(func() {
			crowd = w.crowd(60)
			w.slow = 2 * time.Second
			for range 100 {
				w.sets[Element{Set: crowd.Asked(), Addr: old}] = time.Now().Add(2 * time.Hour)
				old = old.Next()
			}
		})
		small := NewList([]string{"a.org", "b.org"})
		r.Update(Wanted{Lists: []List{crowd, small}}, false)
		after(10 * time.Second)
		if !w.has(crowd, old.Prev()) || w.overfull == 0 {
			t.Error("what was there is gone before all have been asked")
		}
		after(time.Minute)
		if n := w.count(crowd); n != 180 || w.has(crowd, old.Prev()) || len(r.Warnings()) > 0 || !w.has(small, one) {
			t.Errorf("%d addresses of 180; %v", n, r.Warnings())
		}
		if w.overfull > 5 {
			t.Errorf("tried %d times what cannot be", w.overfull)
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
