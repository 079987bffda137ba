//go:build linux

package lab

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// ChurnReport says how short connections fared.
type ChurnReport struct {
	Sources map[netip.Addr]int // connections that were served, per address seen
	Failed  int
	ByAddr  map[netip.Addr]int // failures per address seen; invalid address: it failed before the server said
	Slowest time.Duration      // the longest visit that was served
	Outage  time.Duration      // the longest time in which none was served
	Samples []error            // the first few failures
}

// String is the report in a line.
func (r ChurnReport) String() string {
	return fmt.Sprintf("served %v, failed %d %v, slowest %v, outage %v", r.Sources, r.Failed, r.Samples, r.Slowest, r.Outage)
}

// Churn opens short connections all the time.
type Churn struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	report ChurnReport
	last   time.Time
	next   int
}

// StartChurn lets workers open a connection each, make two round trips, close it, pause, and so on until Stop is called or ctx ends.
func StartChurn(ctx context.Context, ns *NS, workers int, pause time.Duration, to Target) *Churn {
	ctx, cancel := context.WithCancel(ctx)
	c := &Churn{cancel: cancel, last: time.Now(), report: ChurnReport{Sources: map[netip.Addr]int{}, ByAddr: map[netip.Addr]int{}}}
	for range workers {
		c.wait.Go(func() {
			for ctx.Err() == nil {
				c.visit(ctx, ns, to)
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	return c
}

// visit makes one connection.
func (c *Churn) visit(ctx context.Context, ns *NS, to Target) {
	c.mu.Lock()
	i := c.next
	c.next++
	c.mu.Unlock()
	start := time.Now()
	seen, err := visit(ctx, ns, to, i)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.report.Sources[seen]++
		c.report.Slowest = max(c.report.Slowest, time.Since(start))
		c.report.Outage = max(c.report.Outage, time.Since(c.last))
		c.last = time.Now()
	case ctx.Err() == nil:
		c.report.Failed++
		c.report.ByAddr[seen]++
		if len(c.report.Samples) < 5 {
			c.report.Samples = append(c.report.Samples, err)
		}
	}
}

// Report returns the report so far.
func (c *Churn) Report() ChurnReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Sources, r.ByAddr = maps.Clone(r.Sources), maps.Clone(r.ByAddr)
	r.Outage = max(r.Outage, time.Since(c.last))
	return r
}

// Stop ends the connections and returns the report.
func (c *Churn) Stop() ChurnReport {
	r := c.Report()
	c.cancel()
	c.wait.Wait()
	last := c.Report()
	last.Outage = r.Outage
	return last
}
