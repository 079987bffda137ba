//go:build linux

package lab

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// DialReport says how the openings of connections fared.
type DialReport struct {
	Dials, Failed int
	Gap           time.Duration // the longest time in which openings failed; see Dials
}

// String is the report in a line.
func (r DialReport) String() string {
	return fmt.Sprintf("%d dials, %d failed, gap %v", r.Dials, r.Failed, r.Gap)
}

// Dials opens TCP connections one after the other, without waiting for the last one, and closes them at once. Where only some of them go to a dead
// uplink, failures and successes alternate: failures with less than dialPause between them are one gap, which lasts from the beginning of the first
// to that of the last, plus the interval.
type Dials struct {
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	interval time.Duration

	mu     sync.Mutex
	dials  int
	failed []time.Time // when they began
}

// dialPause is how long openings must succeed before a gap is over.
const dialPause = 60 * time.Millisecond

// StartDials opens a connection each interval from ns until Stop is called or ctx ends; one that is not open after timeout has failed.
func StartDials(ctx context.Context, ns *NS, interval, timeout time.Duration, to Target) *Dials {
	ctx, cancel := context.WithCancel(ctx)
	d := &Dials{cancel: cancel, interval: interval}
	d.wait.Go(func() {
		n := 0
		pace(ctx, interval, func() {
			i := n
			n++
			d.wait.Go(func() { d.dial(ctx, ns, timeout, to, i) })
		})
	})
	return d
}

// dial opens one connection.
func (d *Dials) dial(ctx context.Context, ns *NS, timeout time.Duration, to Target, i int) {
	begin := time.Now()
	socket, target := to(i)
	deadline, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := ns.DialTCP(deadline, socket, target)
	if err == nil {
		_ = c.SetLinger(0) // leaves nothing behind
		c.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		d.dials++
	case ctx.Err() == nil: // otherwise it was stopped, and is not known to have failed
		d.dials++
		d.failed = append(d.failed, begin)
	}
}

// Report returns the report so far.
func (d *Dials) Report() DialReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := DialReport{Dials: d.dials, Failed: len(d.failed)}
	var first, last time.Time
	failed := slices.SortedFunc(slices.Values(d.failed), time.Time.Compare)
	for _, at := range failed {
		if first.IsZero() || at.Sub(last) > dialPause {
			first = at
		}
		last = at
		r.Gap = max(r.Gap, last.Sub(first)+d.interval)
	}
	return r
}

// Stop ends the openings and returns the report.
func (d *Dials) Stop() DialReport {
	d.cancel()
	d.wait.Wait()
	return d.Report()
}
