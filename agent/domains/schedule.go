package domains

import (
	"cmp"
	"container/heap"
	"iter"
	"net/netip"
	"slices"
	"time"

	"multiroute/routes"
)

// Times of questions and of what is learned.
const (
	// minTTL and maxTTL bound when a name is asked for again, whatever its answer
	// says: a TTL of 0 must not make a flood, nor a week hide a change.
	minTTL = 2 * time.Second
	maxTTL = time.Hour
	// maxHold bounds how long an address stays that is not answered any more.
	maxHold = 48 * time.Hour
	// slack is how much longer than its TTL an address stays, and an eighth of the
	// TTL more: clients asked a little later than we did, and the next answer may
	// be late.
	slack = 3 * time.Second
	// absent is when a name without addresses is asked for again, at the latest.
	absent = time.Minute
	// failMin and failMax bound the wait after a failure; it doubles.
	failMin = time.Second
	failMax = time.Minute
	// stale is how long addresses stay after their name should have been asked
	// again: there is much to ask, or the servers are out of reach and not the
	// sites.
	stale = time.Hour
	// maxAddrs bounds the addresses of a name that are kept.
	maxAddrs = 256
	// maxHeld bounds those of all names together.
	maxHeld = 1 << 18
)

// Question is a name in one family.
type Question struct {
	Name   string
	Family routes.Family
}

func compare(a, b Question) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Family, b.Family))
}

// Hold is an address of a name, to be held until then.
type Hold struct {
	Name  string
	Addr  netip.Addr
	Until time.Time
}

// Schedule says when which name is to be asked for, and remembers what was
// answered. It is a value to be used by one goroutine; time and randomness (0
// to below 1) are passed in.
type Schedule struct {
	asks    map[Question]*ask
	queue   queue                 // of all that are not in flight
	holders map[netip.Addr][]*ask // who holds an address
	held    int                   // how many addresses they all hold
	full    time.Time             // when that were too many, the last time
}

type ask struct {
	q       Question
	next    time.Time
	asking  bool
	asked   bool          // before
	wait    time.Duration // after the next failure
	current []netip.Addr  // of the last answer
	valid   time.Time     // until when that says that they are
	addrs   map[netip.Addr]time.Time
}

// queue is a heap: the first is who is to be asked for next.
type queue []*ask

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].asked != q[j].asked {
		return q[j].asked // the other has nothing yet
	}
	return cmp.Or(q[i].next.Compare(q[j].next), compare(q[i].q, q[j].q)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*ask)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// Want makes names, in both families, the ones to be asked for. New ones are
// due at once.
func (s *Schedule) Want(names []string, now time.Time) {
	old := s.asks
	*s = Schedule{asks: map[Question]*ask{}, full: s.full, holders: map[netip.Addr][]*ask{}}
	for _, name := range names {
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			q := Question{name, f}
			if s.asks[q] != nil {
				continue
			}
			a := old[q]
			if a == nil {
				a = &ask{q: q, next: now, addrs: map[netip.Addr]time.Time{}}
			}
			s.asks[q] = a
			for addr := range a.addrs {
				s.holders[addr] = append(s.holders[addr], a)
			}
			s.held += len(a.addrs)
		}
	}
	s.order()
}

// order makes the queue anew.
func (s *Schedule) order() {
	s.queue = s.queue[:0]
	for _, a := range s.asks {
		if !a.asking {
			s.queue = append(s.queue, a)
		}
	}
	heap.Init(&s.queue)
}

// again has a question asked at next.
func (s *Schedule) again(a *ask, next time.Time) {
	a.next, a.asked = next, true
	if !a.asking { // a name that was not wanted for a while, and asked for twice
		heap.Init(&s.queue)
		return
	}
	a.asking = false
	heap.Push(&s.queue, a)
}

// Hurry makes names due whose last question failed: other servers may answer.
func (s *Schedule) Hurry(now time.Time) {
	for _, a := range s.asks {
		if a.wait > 0 {
			a.next, a.wait = now, 0
		}
	}
	s.order()
}

// Due returns at most n questions that are due: those that were never asked, then
// those that have waited longest. They are in flight until Answered or Failed.
func (s *Schedule) Due(now time.Time, n int) []Question {
	var due []Question
	for len(due) < n && len(s.queue) > 0 && !s.queue[0].next.After(now) {
		a := heap.Pop(&s.queue).(*ask)
		a.asking = true
		due = append(due, a.q)
	}
	return due
}

// Next returns when the next question is due; zero: none is.
func (s *Schedule) Next() time.Time {
	if len(s.queue) == 0 {
		return time.Time{}
	}
	return s.queue[0].next
}

// Answered takes an answer, and returns what is held otherwise because of it.
// What is not in it any more goes when the answer before is not valid any more,
// however late this one is.
func (s *Schedule) Answered(q Question, addrs []netip.Addr, ttl time.Duration, now time.Time, random float64) []Hold {
	a := s.asks[q]
	if a == nil {
		return nil // not wanted any more
	}
	a.wait = 0
	if len(addrs) == 0 {
		if ttl <= 0 || ttl > absent {
			ttl = absent
		}
		s.again(a, now.Add(max(ttl, minTTL)))
	} else {
		ask := min(max(ttl, minTTL), maxTTL)
		s.again(a, now.Add(time.Duration(float64(ask)*(0.75+random/8))))
	}
	for addr, t := range a.addrs {
		if !t.After(now) {
			s.drop(a, addr)
		}
	}
	last, valid := a.current, a.valid
	a.current, a.valid = addrs[:min(len(addrs), maxAddrs)], now.Add(min(holdFor(ttl), maxHold))
	var holds []Hold
	for _, addr := range last {
		if _, ok := a.addrs[addr]; !ok || slices.Contains(a.current, addr) {
			continue
		}
		if valid.After(now) {
			a.addrs[addr] = valid
			holds = append(holds, Hold{q.Name, addr, valid})
		} else {
			s.drop(a, addr)
			holds = append(holds, Hold{q.Name, addr, now})
		}
	}
	until := a.next.Add(stale)
	if a.valid.After(until) {
		until = a.valid
	}
	for _, addr := range a.current {
		if s.take(a, addr, until, now) {
			holds = append(holds, Hold{q.Name, addr, until})
		}
	}
	return holds
}

// holdFor is how long an answer is good for.
func holdFor(ttl time.Duration) time.Duration {
	ttl = max(ttl, minTTL)
	return ttl + ttl/8 + slack
}

// Failed takes a question without an answer.
func (s *Schedule) Failed(q Question, now time.Time, random float64) {
	a := s.asks[q]
	if a == nil {
		return
	}
	a.wait = min(max(failMin, 2*a.wait), failMax)
	s.again(a, now.Add(time.Duration(float64(a.wait)*(0.75+random/4))))
}

// take notes until when an address is held, if there is room for it.
func (s *Schedule) take(a *ask, addr netip.Addr, until, now time.Time) bool {
	if _, ok := a.addrs[addr]; !ok {
		if s.held >= maxHeld {
			s.full = now
			return false
		}
		if len(a.addrs) >= maxAddrs {
			return false
		}
		s.held++
		s.holders[addr] = append(s.holders[addr], a)
	}
	a.addrs[addr] = until
	return true
}

func (s *Schedule) drop(a *ask, addr netip.Addr) {
	delete(a.addrs, addr)
	s.held--
	all := s.holders[addr]
	if len(all) == 1 {
		delete(s.holders, addr)
		return
	}
	i := slices.Index(all, a)
	all[i] = all[len(all)-1]
	s.holders[addr] = all[:len(all)-1]
}

// Until returns until when the names of a list hold an address; zero: they do
// not.
func (s *Schedule) Until(addr netip.Addr, l List) time.Time {
	var until time.Time
	for _, a := range s.holders[addr] {
		if t := a.addrs[addr]; t.After(until) && l.contains(a.q.Name) {
			until = t
		}
	}
	return until
}

// Held returns all that a list's names hold now, for a set that is new or was
// emptied.
func (s *Schedule) Held(l List, now time.Time) []Hold {
	var all []Hold
	for a := range s.of(l) {
		begin := len(all)
		for addr, until := range a.addrs {
			if until.After(now) {
				all = append(all, Hold{a.q.Name, addr, until})
			}
		}
		slices.SortFunc(all[begin:], func(a, b Hold) int { return a.Addr.Compare(b.Addr) })
	}
	return all
}

// Asked reports whether each of a list's names has been asked for.
func (s *Schedule) Asked(l List) bool {
	for a := range s.of(l) {
		if !a.asked {
			return false
		}
	}
	return true
}

// Full reports whether addresses were not held lately because there are too many.
func (s *Schedule) Full(now time.Time) bool {
	return !s.full.IsZero() && now.Sub(s.full) < fullFor
}

// of goes through the questions about a list's names, in order.
func (s *Schedule) of(l List) iter.Seq[*ask] {
	return func(yield func(*ask) bool) {
		for _, name := range l.Domains {
			for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
				if a := s.asks[Question{name, f}]; a != nil && !yield(a) {
					return
				}
			}
		}
	}
}
