//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// What the tests of health checks and failover share. Their limits are several
// times what is promised, because a test may run on a busy computer; the
// benchmark measures the promises themselves.

// quickReturn has the default probes, and an uplink that was down is used
// again as soon as its probes are good.
const quickReturn = "[health]\nhold_down = \"0s\"\n"

// transition is one change of an uplink's state.
type transition struct {
	uplink string
	state  api.State
	reason string
}

func (c transition) String() string { return fmt.Sprintf("%s %s (%s)", c.uplink, c.state, c.reason) }

// history collects what becomes of the uplinks.
type history struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	changes []transition
}

// history begins to ask for the uplinks' states. A state that came and went
// between two questions is known by its time; its name may be lost.
func (h *house) history(ctx context.Context) *history {
	ctx, cancel := context.WithCancel(ctx)
	x := &history{cancel: cancel}
	last := map[string]api.UplinkStatus{}
	ask := func() {
		s, err := h.Status(ctx)
		if err != nil {
			return // the agent is stopped, or ends
		}
		for _, u := range s.Uplinks {
			before, known := last[u.Name]
			last[u.Name] = u
			if known && before.State == u.State && (before.Since == nil || u.Since == nil || before.Since.Equal(*u.Since)) || !known {
				continue
			}
			c := transition{uplink: u.Name, state: u.State}
			if u.Reason != nil {
				c.reason = *u.Reason
			}
			x.mu.Lock()
			x.changes = append(x.changes, c)
			x.mu.Unlock()
		}
	}
	ask()
	x.wait.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				ask()
			}
		}
	})
	return x
}

// so returns the changes so far.
func (x *history) so() []transition {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.changes)
}

// stop ends the questions and returns the changes.
func (x *history) stop() []transition {
	x.cancel()
	x.wait.Wait()
	return x.so()
}

// becomes waits until an uplink has a state.
func (h *house) becomes(ctx context.Context, u *lab.Uplink, state api.State, limit time.Duration) api.UplinkStatus {
	h.t.Helper()
	begin := time.Now()
	var last api.Status
	for {
		s, err := h.Status(ctx)
		if err == nil {
			last = s
			for _, one := range s.Uplinks {
				if one.Name == u.Name && one.State == state {
					h.t.Logf("%s is %s after %.0f ms", u.Name, state, ms(time.Since(begin)))
					return one
				}
			}
		}
		if time.Since(begin) > limit || ctx.Err() != nil {
			h.t.Fatalf("%s is not %s after %v: %s (%v)", u.Name, state, limit, states(last), err)
		}
		time.Sleep(time.Millisecond) // a condition with a deadline
	}
}

// allUp waits until every uplink is up.
func (h *house) allUp(ctx context.Context, limit time.Duration) {
	h.t.Helper()
	for _, u := range h.Uplinks {
		h.becomes(ctx, u, api.Up, limit)
	}
}

// udpOn starts 1 kHz streams of requests until one is on an uplink, and ends
// the others.
func (h *house) udpOn(ctx context.Context, u *lab.Uplink, v6 bool) *lab.UDPStream {
	h.t.Helper()
	want := addressOf(u, v6)
	for range 200 {
		s, err := lab.StartUDP(ctx, h.Client(), lab.Socket{}, internet(v6), time.Millisecond)
		if err != nil {
			h.t.Fatal(err)
		}
		for end := time.Now().Add(time.Second); s.Report().Received == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if slices.Contains(s.Report().Addresses(), want) {
			return s
		}
		s.Stop()
	}
	h.t.Fatalf("none of 200 streams is on %s", u.Name)
	return nil
}

// gaps is what a client saw of an uplink's end, in one family.
type gaps struct{ stream, dials time.Duration }

func (g gaps) String() string {
	return fmt.Sprintf("stream %.1f ms, new connections %.1f ms", ms(g.stream), ms(g.dials))
}

// dies lets an uplink die under a 1 kHz stream and new connections, waits until
// both are well again, and returns how long each of them had nothing.
func (h *house) dies(ctx context.Context, what string, u *lab.Uplink, v6 bool, kill func() error) gaps {
	h.t.Helper()
	stream := h.udpOn(ctx, u, v6)
	dials := lab.StartDials(ctx, h.Client(), 4*time.Millisecond, 100*time.Millisecond, lab.To(netip.AddrPortFrom(internet(v6).Addr(), lab.PortDiscard)))
	h.until(5*time.Second, what+": traffic", func() bool { return stream.Report().Received > 200 && dials.Report().Dials > 50 })
	if err := kill(); err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	from := addressOf(u, v6)
	moved := func() (n int) {
		for a, k := range stream.Report().Sources {
			if a.Addr() != from {
				n += k
			}
		}
		return n
	}
	h.until(6*time.Second, fmt.Sprintf("%s: the stream on %s is answered by another way", what, u.Name), func() bool { return moved() > 200 })
	failed := -1 // new connections fail no more: the last of them may still wait for its time to run out
	for end := time.Now().Add(3 * time.Second); failed != dials.Report().Failed && time.Now().Before(end); time.Sleep(150 * time.Millisecond) {
		failed = dials.Report().Failed
	}
	r, d := stream.Stop(), dials.Stop()
	g := gaps{r.Gap, d.Gap}
	h.t.Logf("gap: %s (IPv6 %v): %s; lost %d of %d, seen as %v; %d of %d connections failed", what, v6, g, r.Lost(), r.Sent, r.Addresses(), d.Failed, d.Dials)
	return g
}

// within asserts that no gap is longer than a limit.
func within(t *testing.T, what string, limit time.Duration, all ...gaps) {
	t.Helper()
	for _, g := range all {
		if g.stream > limit || g.dials > limit {
			t.Errorf("%s: %s, the limit here is %v", what, g, limit)
		}
	}
}

// others are the uplinks but one.
func (h *house) others(u *lab.Uplink) []*lab.Uplink {
	return slices.DeleteFunc(slices.Clone(h.Uplinks), func(o *lab.Uplink) bool { return o == u })
}

// passes waits for a time to pass, in which nothing may happen.
func passes(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// tiers is a default policy with tiers of one uplink each, the given ones first.
func tiers(failback string, uplinks ...*lab.Uplink) string {
	var list []string
	for _, u := range uplinks {
		list = append(list, fmt.Sprintf("[%q]", u.Name))
	}
	return fmt.Sprintf("[policy.default]\ntiers = [%s]\nfailback = %q\n", strings.Join(list, ", "), failback)
}
