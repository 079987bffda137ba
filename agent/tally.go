package agent

import (
	"context"
	"sync"
	"time"
)

const (
	// tallyWait is how long an answer waits for a new count if there is an older one,
	// tallyFirst if there is none. A count takes time in proportion to the number of
	// connections, and longer while many are being deleted.
	tallyWait  = 250 * time.Millisecond
	tallyFirst = 2 * time.Second
	// tallyKept is how long a count is better than none.
	tallyKept = 30 * time.Second
	// tallyRest is how many times as long as a count took there is none afterwards.
	tallyRest = 3
)

// tally counts connections for whoever asks: one count at a time, however many
// ask, and within a time. Its zero value is ready for use.
type tally struct {
	mu      sync.Mutex
	running chan struct{} // closed when the count that is being made is done; nil: none is
	next    time.Time     // when the next one may begin
	at      time.Time     // of the newest
	counts  map[uint32]int
	err     error
}

// count returns the connections by mark, as new as can be had soon; nil and no
// error if they cannot be had soon.
func (t *tally) count(ctx context.Context, c counter, mask uint32) (map[uint32]int, error) {
	t.mu.Lock()
	now := time.Now()
	if t.running == nil && !now.Before(t.next) {
		t.running = make(chan struct{})
		go t.make(c, mask, now)
	}
	running, wait := t.running, tallyFirst
	if t.counts != nil && now.Sub(t.at) < tallyKept {
		wait = tallyWait
	}
	t.mu.Unlock()
	if running != nil {
		patience := time.NewTimer(wait)
		defer patience.Stop()
		select {
		case <-running:
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.at) >= tallyKept {
		return nil, nil
	}
	return t.counts, t.err
}

// make makes one count.
func (t *tally) make(c counter, mask uint32, began time.Time) {
	counts, err := c.CountByMark(mask)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts, t.err, t.at = counts, err, time.Now()
	t.next = t.at.Add(tallyRest * t.at.Sub(began))
	close(t.running)
	t.running = nil
}
