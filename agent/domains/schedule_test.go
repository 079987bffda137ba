package domains

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"multiroute/routes"
)

var (
	begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	four  = Question{"a.org", routes.IPv4}
	six   = Question{"a.org", routes.IPv6}
	one   = netip.MustParseAddr("192.0.2.1")
	two   = netip.MustParseAddr("192.0.2.2")
)

func at(s float64) time.Time { return begin.Add(time.Duration(s * float64(time.Second))) }

// TestScheduleLife: a name is asked for again before its TTL ends; its addresses
// stay until it is, and then for the rest of their TTL if they are not answered
// any more.
func TestScheduleLife(t *testing.T) {
	t.Parallel()
	var s Schedule
	s.Want([]string{"a.org"}, begin)
	if due := s.Due(begin, 10); !slices.Equal(due, []Question{four, six}) {
		t.Fatalf("due %v", due)
	}
	if due := s.Due(begin, 10); len(due) != 0 || !s.Next().IsZero() {
		t.Fatalf("asked twice: %v", due)
	}
	s.Answered(six, nil, 0, begin, 0)
	holds := s.Answered(four, []netip.Addr{one}, 80*time.Second, begin, 0.5)
	if want := []Hold{{"a.org", one, at(65 + 3600)}}; !slices.Equal(holds, want) {
		t.Errorf("held %v, wanted %v", holds, want)
	}
	if next := s.Next(); next != at(60) { // what does not exist, before what does
		t.Errorf("next %v", next)
	}
	if due := s.Due(at(64.9), 10); !slices.Equal(due, []Question{six}) {
		t.Errorf("due %v", due)
	}
	if due := s.Due(at(65), 10); !slices.Equal(due, []Question{four}) {
		t.Errorf("due %v", due)
	}
	if holds := s.Answered(four, []netip.Addr{two}, 80*time.Second, at(65), 0); !slices.Equal(holds, []Hold{{"a.org", one, at(93)}, {"a.org", two, at(125 + 3600)}}) {
		t.Errorf("held %v", holds)
	}
	if held := s.Held(NewList([]string{"a.org"}), at(70)); len(held) != 2 {
		t.Errorf("held %v", held)
	}
	if held := s.Held(NewList([]string{"a.org"}), at(100)); len(held) != 1 {
		t.Errorf("held %v", held)
	}
	s.Want(nil, at(100))
	if s.Answered(six, []netip.Addr{one}, time.Hour, at(100), 0) != nil || len(s.Held(NewList([]string{"a.org"}), at(100))) > 0 {
		t.Error("something of a name that is not wanted any more")
	}
}

// TestScheduleLate: who is asked late keeps its addresses until it is; what is
// not answered then goes at once.
func TestScheduleLate(t *testing.T) {
	t.Parallel()
	for _, ttl := range []time.Duration{0, 20 * time.Second, time.Hour, 30 * 24 * time.Hour} {
		var s Schedule
		s.Want([]string{"a.org"}, begin)
		s.Due(begin, 10)
		s.Answered(four, []netip.Addr{one, two}, ttl, begin, 1)
		due := s.asks[four].next
		late := due.Add(stale - time.Second)
		if held := s.Held(NewList([]string{"a.org"}), late); len(held) != 2 {
			t.Errorf("TTL %v: held %v before it was asked again", ttl, held)
		}
		s.Due(late, 10)
		holds := s.Answered(four, []netip.Addr{two}, ttl, late, 1)
		if ttl < time.Hour && (len(holds) != 2 || holds[0] != Hold{"a.org", one, late}) {
			t.Errorf("TTL %v: held %v after it was asked again", ttl, holds)
		}
	}
}

// TestScheduleShared: an address that several names have stays for the longest
// that one of a list's has it.
func TestScheduleShared(t *testing.T) {
	t.Parallel()
	var s Schedule
	b := Question{"b.org", routes.IPv4}
	both, first, second := NewList([]string{"a.org", "b.org"}), NewList([]string{"a.org"}), NewList([]string{"b.org"})
	s.Want([]string{"a.org", "b.org"}, begin)
	s.Due(begin, 10)
	s.Answered(b, []netip.Addr{one}, 8*time.Second, begin, 0)
	s.Answered(four, []netip.Addr{one}, 48*time.Hour, begin, 0)
	long, short := begin.Add(48*time.Hour), at(6+3600)
	for _, x := range []struct {
		l    List
		want time.Time
	}{{both, long}, {first, long}, {second, short}, {NewList([]string{"*.b.org"}), time.Time{}}} {
		if until := s.Until(one, x.l); until != x.want {
			t.Errorf("%v have it until %v, wanted %v", x.l.Domains, until, x.want)
		}
	}
	s.Due(at(60), 10)
	s.Answered(b, []netip.Addr{two}, 8*time.Second, at(60), 0)
	if until := s.Until(one, both); until != long {
		t.Errorf("without the other, it is there until %v", until)
	}
	if until := s.Until(one, second); !until.IsZero() {
		t.Errorf("b.org does not have it any more, and holds it until %v", until)
	}
	s.Want([]string{"b.org"}, at(60))
	if until := s.Until(one, both); !until.IsZero() || s.held != 1 || len(s.holders) != 1 {
		t.Errorf("nobody has it any more, and it is held until %v", until)
	}
}

// TestScheduleFailures: failures are asked again ever later, and the last
// addresses stay, but not for ever.
func TestScheduleFailures(t *testing.T) {
	t.Parallel()
	var s Schedule
	s.Want([]string{"a.org"}, begin)
	s.Due(begin, 10)
	s.Answered(four, []netip.Addr{one}, time.Second, begin, 0)
	now, failures := begin, 0
	var wait time.Duration
	for len(s.Held(NewList([]string{"a.org"}), now)) > 0 {
		next := s.asks[four].next
		if w := next.Sub(now); failures > 1 && w < wait {
			t.Fatalf("the wait shrinks from %v to %v", wait, w)
		}
		wait = next.Sub(now)
		now = next
		s.Due(now, 10)
		s.Failed(four, now, 0)
		failures++
	}
	if since := now.Sub(begin); since < stale || since > stale+2*failMax {
		t.Errorf("kept for %v", since)
	}
	if wait < failMax/2 || wait > failMax {
		t.Errorf("the last wait is %v", wait)
	}
	s.Hurry(now)
	if due := s.Due(now, 10); !slices.Equal(due, []Question{four}) {
		t.Errorf("due in a hurry: %v", due)
	}
}

// TestScheduleBounds: whatever servers say, questions and memory are bounded.
func TestScheduleBounds(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var s Schedule
	s.Want([]string{"a.org"}, begin)
	now := begin
	for range 2000 {
		for _, q := range s.Due(now, 10) {
			if r.IntN(5) == 0 {
				s.Failed(q, now, r.Float64())
				continue
			}
			var addrs []netip.Addr
			for range r.IntN(2 * maxAddrs) {
				addrs = append(addrs, netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), 1}))
			}
			ttl := time.Duration(r.Int64N(int64(1 << (10 + r.IntN(52)))))
			for _, h := range s.Answered(q, addrs, ttl, now, r.Float64()) {
				if d := h.Until.Sub(now); d > maxHold || slices.Contains(addrs[:min(len(addrs), maxAddrs)], h.Addr) && d < min(ttl, maxHold) {
					t.Fatalf("TTL %v: held for %v", ttl, d)
				}
			}
			all, holders := 0, 0
			for _, a := range s.asks {
				all += len(a.addrs)
			}
			for _, h := range s.holders {
				holders += len(h)
			}
			if s.held != all || holders != all || len(s.queue) > len(s.asks) {
				t.Fatalf("%d held by %d, counted as %d; %d of %d questions wait", all, holders, s.held, len(s.queue), len(s.asks))
			}
			if n := len(s.asks[q].addrs); n > maxAddrs {
				t.Fatalf("%d addresses", n)
			}
			if wait := s.asks[q].next.Sub(now); wait < minTTL/2 || wait > maxTTL {
				t.Fatalf("TTL %v: again after %v", ttl, wait)
			}
		}
		now = s.Next()
	}
}

// TestScheduleQueue: who was never asked for is next, then who has waited longest,
// whatever was asked, failed and hurried before.
func TestScheduleQueue(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	var s Schedule
	var names []string
	for i := range 40 {
		names = append(names, string(rune('a'+i%26))+string(rune('a'+i/26))+".org")
	}
	s.Want(names, begin)
	var flying []Question
	for i := range 3000 {
		now := at(float64(i) / 10)
		for _, q := range s.Due(now, r.IntN(4)) {
			for o, a := range s.asks {
				if was := s.asks[q]; !a.asking && (was.asked && !a.asked || was.asked == a.asked && a.next.Before(was.next)) {
					t.Fatalf("%v is asked, and %v waits for longer", q, o)
				}
			}
			flying = append(flying, q)
		}
		if len(flying) > 10 {
			k := r.IntN(len(flying))
			q := flying[k]
			flying = slices.Delete(flying, k, k+1)
			if r.IntN(3) == 0 {
				s.Failed(q, now, r.Float64())
			} else {
				s.Answered(q, []netip.Addr{one}, time.Duration(r.IntN(30))*time.Second, now, r.Float64())
			}
		}
		switch r.IntN(50) {
		case 0:
			s.Hurry(now)
		case 1:
			s.Want(names[r.IntN(5):], now)
		}
		waiting := 0
		for _, a := range s.asks {
			if !a.asking {
				waiting++
			}
		}
		if waiting != len(s.queue) {
			t.Fatalf("%d wait, and %d are in the queue", waiting, len(s.queue))
		}
	}
}

// TestScheduleFull: too many addresses of all names are not held, which is said;
// those that are there stay.
func TestScheduleFull(t *testing.T) {
	t.Parallel()
	var s Schedule
	l := NewList([]string{"a.org"})
	s.Want(l.Domains, begin)
	s.Due(begin, 10)
	s.Answered(four, []netip.Addr{one}, time.Minute, begin, 0)
	s.held = maxHeld
	if holds := s.Answered(four, []netip.Addr{one, two}, time.Minute, at(60), 0); len(holds) != 1 || holds[0].Addr != one {
		t.Errorf("held %v", holds)
	}
	if !s.Full(at(60)) || s.Full(at(60).Add(fullFor)) || len(s.Held(l, at(60))) != 1 {
		t.Error("full, and nobody knows, or for ever")
	}
}
