package agent

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/health"
	"multiroute/agent/web"
	"multiroute/conntrack"
	"multiroute/routes"
)

// TestSamples: a look each two seconds, or each second, which asks nothing of the owner's kernel, and
// counts connections rarely.
func TestSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := started(t, twoUplinks)
		r.monitor = &nurse{verdicts: map[health.Leg]health.Verdict{legA: {RTT: 12 * time.Millisecond, Loss: 5, Probes: 9, Answers: 8}}}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = r.loop(ctx) }()
		r.after(2 * gap)
		r.forget()
		var got []*web.Snapshot
		news := make(chan struct{}, 1)
		s := &sampler{h: &handler{d: r.daemon, ctx: ctx},
			counters: func() (map[int]routes.Counter, error) {
				return map[int]routes.Counter{3: {In: 1, Out: 2, InBytes: 3, OutBytes: 4}}, nil
			},
			stats:   func() (conntrack.Stats, error) { return conntrack.Stats{Entries: 5, Limit: 6}, nil },
			publish: func(n *web.Snapshot) { r.k.meet(); got = append(got, n); r.k.meet() },
			news:    news}
		go func() { _ = s.run(ctx) }()
		r.after(30*time.Second + time.Second/2)
		counts := func() int {
			r.k.meet()
			return len(slices.DeleteFunc(slices.Clone(r.k.calls), func(c string) bool { return c != "count" }))
		}
		if n := counts(); n != 4 {
			t.Errorf("connections were counted %d times in 30 seconds", n)
		}
		samples := func() int {
			r.k.meet()
			return len(got)
		}
		if n := samples(); n != 16 {
			t.Errorf("%d samples in 30 seconds", n)
		}
		for range 8 { // what happens again and again is shown four times a second
			news <- struct{}{}
			r.after(125 * time.Millisecond)
		}
		if n := samples() - 16; n < 4 || n > 6 {
			t.Errorf("%d samples in the second of which there were news", n)
		}
		r.after(10*time.Second - time.Second/2)
		r.k.meet()
		cancel()
		synctest.Wait()
		if len(got) < 25 || len(got) > 28 {
			t.Fatalf("%d samples in 40 seconds", len(got))
		}
		if n := counts(); n != 5 {
			t.Errorf("connections were counted %d times in 40 seconds", n)
		}
		if n := r.passes(); n > 40/5 {
			t.Errorf("%d times facts", n)
		}
		n := got[15]
		a := n.Status.Uplinks[0]
		if a.State != api.Up || *a.RxBytes != 3 || *a.Connections != 7 || *a.RTT != 12 || n.Traffic["a"] != (web.Traffic{InPackets: 1, OutPackets: 2, InBytes: 3, OutBytes: 4}) {
			t.Errorf("%+v", a)
		}
		if _, ok := n.Traffic["b"]; ok || len(n.Legs) != 1 || n.Legs[0].Sent != 9 || n.Conntrack.Limit != 6 || n.Connections["b"] != 0 || len(n.Events) != 2 {
			t.Errorf("%+v", n)
		}
	})
}

// TestPortTaken: the agent says that nobody can look, and lets them look as soon
// as they can.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	r := started(t, twoUplinks)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	address := netip.MustParseAddrPort(squatter.Addr().String())
	server, err := web.New(web.Options{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	w := &window{address: address, server: server, d: r.daemon, problem: &r.shut, again: time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	for r.shut.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	s := r.status()
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "address already in use") {
		t.Errorf("%q", s.Warnings)
	}
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	for r.shut.Load() != nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	c, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.log.take(), "no metrics and status page"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestOpenWarning(t *testing.T) {
	t.Parallel()
	for address, warns := range map[string]bool{"": false, "127.0.0.1:1": false, "[::1]:1": false, "127.9.9.9:1": false, "0.0.0.0:1": true, "[::]:1": true, "192.168.0.1:1": true} {
		if got := openWarning(address); (got != "") != warns {
			t.Errorf("%s: %q", address, got)
		}
	}
}
