package agent

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowCounter is a kernel that takes its time; what it says is how often it was asked.
type slowCounter struct {
	mu    sync.Mutex
	takes time.Duration
	asked int
	err   error
}

// becomes says how long a count takes, and what comes of it, from now on.
func (c *slowCounter) becomes(takes time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takes, c.err = takes, err
}

func (c *slowCounter) CountByMark(uint32) (map[uint32]int, error) {
	c.mu.Lock()
	c.asked++
	n, takes, err := c.asked, c.takes, c.err
	c.mu.Unlock()
	time.Sleep(takes)
	if err != nil {
		return nil, err
	}
	return map[uint32]int{1: n}, nil
}

// TestTally: an answer is never later than its bound, there is one count at a time, and it
// rests as it should.
func TestTally(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &slowCounter{takes: 10 * time.Millisecond}
		var all tally
		var fails error
		// look asks and says what it got, 0 if nothing, and after what time.
		look := func() (int, time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := all.count(t.Context(), c, 1)
			if err != fails {
				t.Fatal(err)
			}
			return got[1], time.Since(began)
		}
		want := func(count int, after time.Duration) {
			t.Helper()
			if n, d := look(); n != count || d != after {
				t.Fatalf("%d after %v, want %d after %v", n, d, count, after)
			}
		}
		want(1, 10*time.Millisecond)
		want(1, 0) // it rests
		time.Sleep(time.Second)
		want(2, 10*time.Millisecond)
		time.Sleep(time.Second)
		c.becomes(660*time.Millisecond, nil)
		want(2, tallyWait) // the last known
		done := make(chan struct{})
		go func() { defer close(done); want(2, tallyWait) }() // not a second count
		<-done
		time.Sleep(time.Second)
		want(3, 0)
		time.Sleep(2 * time.Second)
		want(3, tallyWait)
		time.Sleep(tallyKept + time.Second) // the fourth is done by now, and too old
		c.becomes(time.Minute, nil)
		want(0, tallyFirst)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if got, err := all.count(ended, c, 1); got != nil || err != nil {
			t.Fatal(got, err)
		}
		time.Sleep(10 * time.Minute)
		c.becomes(0, errKernel)
		fails = errKernel
		want(0, 0)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked != 6 {
			t.Errorf("counted %d times", c.asked)
		}
	})
}
