package domains

import (
	"cmp"
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
	// stale is how long addresses are kept on while nobody answers: the servers
	// are out of reach then, not the sites.
	stale = time.Hour
	// maxAddrs bounds the addresses of a name that are kept.
	maxAddrs = 256
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
	asks map[Question]*ask
}

type ask struct {
	next    time.Time
	asking  bool
	wait    time.Duration // after the next failure
	heard   time.Time     // when the last answer came
	addrs   map[netip.Addr]time.Time
	current []netip.Addr // of the last answer
}

// Want makes names, in both families, the ones to be asked for. New ones are
// due at once.
func (s *Schedule) Want(names []string, now time.Time) {
	old := s.asks
	s.asks = map[Question]*ask{}
	for _, name := range names {
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			q := Question{name, f}
			if s.asks[q] = old[q]; s.asks[q] == nil {
				s.asks[q] = &ask{next: now, addrs: map[netip.Addr]time.Time{}}
			}
		}
	}
}

// Hurry makes names due whose last question failed: other servers may answer.
func (s *Schedule) Hurry(now time.Time) {
	for _, a := range s.asks {
		if a.wait > 0 {
			a.next, a.wait = now, 0
		}
	}
}

// Due returns at most n questions that are due, those that have waited longest
// first. They are in flight until Answered or Failed.
func (s *Schedule) Due(now time.Time, n int) []Question {
	var due []Question
	for q, a := range s.asks {
		if !a.asking && !a.next.After(now) {
			due = append(due, q)
		}
	}
	slices.SortFunc(due, func(a, b Question) int {
		return cmp.Or(s.asks[a].next.Compare(s.asks[b].next), compare(a, b))
	})
	due = due[:min(len(due), max(n, 0))]
	for _, q := range due {
		s.asks[q].asking = true
	}
	return due
}

// Next returns when the next question is due; zero: none is.
func (s *Schedule) Next() time.Time {
	var next time.Time
	for _, a := range s.asks {
		if !a.asking && (next.IsZero() || a.next.Before(next)) {
			next = a.next
		}
	}
	return next
}

// Answered takes an answer, and returns what is to be held because of it.
func (s *Schedule) Answered(q Question, addrs []netip.Addr, ttl time.Duration, now time.Time, random float64) []Hold {
	a := s.asks[q]
	if a == nil {
		return nil // not wanted any more
	}
	a.asking, a.wait, a.heard = false, 0, now
	a.current = addrs[:min(len(addrs), maxAddrs)]
	if len(addrs) == 0 {
		if ttl <= 0 || ttl > absent {
			ttl = absent
		}
		a.next = now.Add(max(ttl, minTTL))
		return nil
	}
	ask := min(max(ttl, minTTL), maxTTL)
	a.next = now.Add(time.Duration(float64(ask) * (0.75 + random/8)))
	return a.hold(q, now.Add(min(holdFor(ttl), maxHold)), now)
}

// holdFor is how long an address stays.
func holdFor(ttl time.Duration) time.Duration {
	ttl = max(ttl, minTTL)
	return ttl + ttl/8 + slack
}

// Failed takes a question without an answer, and returns what is to be held all
// the same.
func (s *Schedule) Failed(q Question, now time.Time, random float64) []Hold {
	a := s.asks[q]
	if a == nil {
		return nil
	}
	a.wait = min(max(failMin, 2*a.wait), failMax)
	a.asking, a.next = false, now.Add(time.Duration(float64(a.wait)*(0.75+random/4)))
	if len(a.current) == 0 || now.Sub(a.heard) > stale {
		return nil
	}
	return a.hold(q, now.Add(holdFor(a.wait+failMax/2)), now)
}

// hold notes until when the newest addresses are held.
func (a *ask) hold(q Question, until, now time.Time) []Hold {
	for addr, t := range a.addrs {
		if !t.After(now) {
			delete(a.addrs, addr)
		}
	}
	var holds []Hold
	for _, addr := range a.current {
		if _, ok := a.addrs[addr]; !ok && len(a.addrs) >= maxAddrs {
			continue
		}
		if until.After(a.addrs[addr]) {
			a.addrs[addr] = until
			holds = append(holds, Hold{q.Name, addr, until})
		}
	}
	return holds
}

// Held returns all that is held now, for sets that are new or were emptied.
func (s *Schedule) Held(now time.Time) []Hold {
	var all []Hold
	for q, a := range s.asks {
		for addr, until := range a.addrs {
			if until.After(now) {
				all = append(all, Hold{q.Name, addr, until})
			}
		}
	}
	slices.SortFunc(all, func(a, b Hold) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.Addr.Compare(b.Addr)) })
	return all
}
