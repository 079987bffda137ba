package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// slowCounter is a kernel that takes its time; what it says is how often it was asked.
type slowCounter struct {
	takes time.Duration
	asked int
	err   error
}

func (c *slowCounter) CountByMark(uint32) (map[uint32]int, error) {
	c.asked++
	n := c.asked
	time.Sleep(c.takes)
	if c.err != nil {
		return nil, c.err
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
		// look asks and says what it got, 0 if nothing, and after what time.
		look := func() (int, time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := all.count(t.Context(), c, 1)
			if err != c.err {
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
		want(1, c.takes)
		want(1, 0) // it rests
		time.Sleep(time.Second)
		want(2, c.takes)
		time.Sleep(time.Second)
		c.takes = 660 * time.Millisecond
		want(2, tallyWait) // the last known
		done := make(chan struct{})
		go func() { defer close(done); want(2, tallyWait) }() // not a second count
		<-done
		time.Sleep(time.Second)
		want(3, 0)
		time.Sleep(2 * time.Second)
		want(3, tallyWait)
		time.Sleep(tallyKept + time.Second) // the fourth is done by now, and too old
		c.takes = time.Minute
		want(0, tallyFirst)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if got, err := all.count(ended, c, 1); got != nil || err != nil {
			t.Fatal(got, err)
		}
		if c.asked != 5 {
			t.Fatalf("counted %d times", c.asked)
		}
		time.Sleep(10 * time.Minute)
		c.takes, c.err = 0, errKernel
		want(0, 0)
	})
}
