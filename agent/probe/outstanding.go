package probe

import (
	"net/netip"
	"sync"
	"time"
)

// maxOutstanding is how many probes of a leg may be without an answer. In
// suspicion 8 targets, the most there are, come to 100 in the longest wait of a
// profile: with less, answers of a slow link would find their probes forgotten.
// It divides 1<<16, so that the sequence number of an echo request tells the
// place.
const maxOutstanding = 128

// nonce is what only those know who saw the probe.
type nonce [16]byte

// sent is a probe that waits for its answer.
type sent struct {
	number  uint16 // counts up, from a random number
	target  *target
	token   uint64
	to      netip.Addr // without zone
	nonce   nonce      // of an echo request
	at      time.Time
	timeout time.Duration
	cancel  func() // ends a probe that has a goroutine; nil: it has none

	waiting bool // false: answered, or never sent
}

// outstanding holds the probes that wait for an answer. Its methods may be
// called by several goroutines at once.
type outstanding struct {
	mu     sync.Mutex
	next   uint16
	probes [maxOutstanding]sent
}

// add remembers a probe, in place of the oldest if there are too many, and
// returns its number.
func (o *outstanding) add(s sent) uint16 {
	o.mu.Lock()
	s.number, s.waiting = o.next, true
	o.next++
	place := &o.probes[s.number%maxOutstanding]
	forgotten := *place
	*place = s
	o.mu.Unlock()
	if forgotten.waiting && forgotten.cancel != nil {
		forgotten.cancel()
	}
	return s.number
}

// take returns a probe and forgets it, if it is still waiting and matches.
func (o *outstanding) take(number uint16, match func(*sent) bool) (sent, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.probes[number%maxOutstanding]
	if !s.waiting || s.number != number || !match(s) {
		return sent{}, false
	}
	s.waiting = false
	return *s, true
}

// takeNewest does the same with the newest probe that matches.
func (o *outstanding) takeNewest(match func(*sent) bool) (sent, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for back := uint16(1); back <= maxOutstanding; back++ {
		s := &o.probes[(o.next-back)%maxOutstanding]
		if s.waiting && match(s) {
			s.waiting = false
			return *s, true
		}
	}
	return sent{}, false
}

// anyProbe matches every probe.
func anyProbe(*sent) bool { return true }
