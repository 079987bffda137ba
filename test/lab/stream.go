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

// StreamOptions describes long-lived connections.
type StreamOptions struct {
	Interval time.Duration // between pings on one connection; default 50ms
	Timeout  time.Duration // a ping without answer for that long breaks the connection; default 5s
	Replace  bool          // a broken connection is opened again, until the end
}

// StreamReport says how long-lived connections fared.
type StreamReport struct {
	Opened  int
	Broken  int                // connections that failed after they were open
	Refused int                // failed attempts to open one again (Replace)
	Pings   int                // round trips
	Slowest time.Duration      // the longest round trip
	Sources map[netip.Addr]int // addresses the server saw, and connections from each
	Samples []error            // the first few failures
	ByAddr  map[netip.Addr]int // broken connections per address seen
}

// String is the report in a line.
func (r StreamReport) String() string {
	return fmt.Sprintf("opened %d from %v, broken %d %v, refused %d, %d pings, slowest %v", r.Opened, r.Sources, r.Broken, r.Samples, r.Refused, r.Pings, r.Slowest)
}

// Streams are long-lived TCP connections on which a line goes to and fro.
type Streams struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	report StreamReport
}

// StartStreams opens n connections from ns and keeps them busy until Stop is called or ctx ends. It returns when all are open.
func StartStreams(ctx context.Context, ns *NS, n int, to Target, o StreamOptions) (*Streams, error) {
	if o.Interval == 0 {
		o.Interval = 50 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Streams{cancel: cancel, report: StreamReport{Sources: map[netip.Addr]int{}, ByAddr: map[netip.Addr]int{}}}
	conns := make([]*Conn, n)
	errs := make(chan error, n)
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		go func() {
			var err error
			conns[i], err = s.open(ctx, ns, to, i)
			<-slots
			errs <- err
		}()
	}
	var failed error
	for range n {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	if failed != nil {
		cancel()
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("opening streams: %w", failed)
	}
	for i, c := range conns {
		s.wait.Go(func() { s.run(ctx, ns, to, i, c, o) })
	}
	return s, nil
}

// Report returns the report so far.
func (s *Streams) Report() StreamReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	r.Sources, r.ByAddr = maps.Clone(r.Sources), maps.Clone(r.ByAddr)
	return r
}

// Stop closes the connections and returns the report.
func (s *Streams) Stop() StreamReport {
	s.cancel()
	s.wait.Wait()
	return s.Report()
}

// open opens the i-th connection.
func (s *Streams) open(ctx context.Context, ns *NS, to Target, i int) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	socket, target := to(i)
	c, err := Connect(ctx, ns, socket, target)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Opened++
	s.report.Sources[c.Seen.Addr()]++
	return c, nil
}

// run keeps a connection busy.
func (s *Streams) run(ctx context.Context, ns *NS, to Target, i int, c *Conn, o StreamOptions) {
	ticker := time.NewTicker(o.Interval)
	defer ticker.Stop()
	for {
		if c != nil && ctx.Err() == nil {
			c = s.ping(ctx, c, o)
		}
		if c == nil && !o.Replace {
			return
		}
		select {
		case <-ctx.Done():
			if c != nil {
				_ = c.finish()
				c.Close()
			}
			return
		case <-ticker.C:
		}
		if c == nil {
			var err error
			if c, err = s.open(ctx, ns, to, i); err != nil && ctx.Err() == nil {
				s.mu.Lock()
				s.report.Refused++
				s.mu.Unlock()
			}
		}
	}
}

// ping makes one round trip, and closes a connection that is broken.
func (s *Streams) ping(ctx context.Context, c *Conn, o StreamOptions) *Conn {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now().Add(o.Interval)) }) // stopping waits for no dead connection
	defer stop()
	start := time.Now()
	err := c.Ping(o.Timeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Slowest = max(s.report.Slowest, time.Since(start))
	if err == nil {
		s.report.Pings++
		return c
	}
	c.Close()
	if ctx.Err() != nil && time.Since(start) < o.Timeout {
		return nil // stopped while it waited: not known to be broken
	}
	s.report.Broken++
	s.report.ByAddr[c.Seen.Addr()]++
	if len(s.report.Samples) < 5 {
		s.report.Samples = append(s.report.Samples, err)
	}
	return nil
}
