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
// stay a little longer, and new ones as long.
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
	if want := []Hold{{"a.org", one, at(93)}}; !slices.Equal(holds, want) {
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
	if holds := s.Answered(four, []netip.Addr{two}, 80*time.Second, at(65), 0); !slices.Equal(holds, []Hold{{"a.org", two, at(158)}}) {
		t.Errorf("held %v", holds)
	}
	if held := s.Held(at(70)); len(held) != 2 {
		t.Errorf("held %v", held)
	}
	if held := s.Held(at(100)); len(held) != 1 {
		t.Errorf("held %v", held)
	}
	s.Want(nil, at(100))
	if s.Answered(six, []netip.Addr{one}, time.Hour, at(100), 0) != nil || len(s.Held(at(100))) > 0 {
		t.Error("something of a name that is not wanted any more")
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
	until := at(0)
	for {
		next := s.asks[four].next
		if w := next.Sub(now); failures > 1 && w < wait {
			t.Fatalf("the wait shrinks from %v to %v", wait, w)
		}
		wait = next.Sub(now)
		now = next
		s.Due(now, 10)
		holds := s.Failed(four, now, 0)
		failures++
		if len(holds) == 0 {
			break
		}
		if now.After(until) && !until.Equal(begin) {
			t.Fatalf("a gap: held until %v, renewed at %v", until, now)
		}
		until = holds[0].Until
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
				if d := h.Until.Sub(now); d < min(ttl, maxHold) || d > maxHold {
					t.Fatalf("TTL %v: held for %v", ttl, d)
				}
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
