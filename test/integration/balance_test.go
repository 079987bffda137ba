//go:build linux

package integration

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// weights of the default policy's members in force.
func weights(s api.Status) map[string]int {
	all := map[string]int{}
	for _, p := range s.Policies {
		if p.Name == "default" {
			for _, m := range p.Members {
				all[m.Uplink] = m.Weight
			}
		}
	}
	return all
}

// awaitWeights waits until the weights in force are as they should be.
func (h *house) awaitWeights(ctx context.Context, what string, right func(w map[string]int) bool) {
	h.t.Helper()
	begin := time.Now()
	s, err := h.Wait(ctx, func(s api.Status) bool { return right(weights(s)) })
	h.t.Logf("%s: after %.1f s: %v", what, time.Since(begin).Seconds(), weights(s))
	if err != nil {
		h.t.Errorf("%s: %v", what, err)
	}
}

// mbit is a million bits in bytes.
const mbit = 1_000_000 / 8

// bandwidths are tables for the uplinks, with the same in both directions.
func bandwidths(h *house, each ...int) string {
	var b strings.Builder
	for i, n := range each {
		fmt.Fprintf(&b, "\n[uplink.%s.bandwidth]\ndown = \"%dmbit\"\nup = \"%[2]dmbit\"\n", h.Uplinks[i].Name, n)
	}
	return b.String()
}

// uploads lets clients upload something, one thing after the other, until stop
// is called.
func uploads(ctx context.Context, t *testing.T, from *lab.NS, clients, bytes int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	data := make([]byte, bytes)
	for range clients {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := upload(ctx, from, data); err != nil && ctx.Err() == nil {
					t.Errorf("uploading: %v", err)
					return
				}
			}
		})
	}
	return func() { cancel(); wait.Wait() }
}

// upload returns when the server has everything.
func upload(ctx context.Context, from *lab.NS, data []byte) error {
	c, err := from.DialTCP(ctx, lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortDiscard))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetLinger(0); c.Close() })()
	if _, err := c.Write(data); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}

// received is how many bytes the provider of each uplink has received.
func (h *house) received() []uint64 {
	h.t.Helper()
	var all []uint64
	for _, u := range h.Uplinks {
		l, err := u.Provider.NS.Link("customer")
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, l.Attrs().Statistics.RxBytes)
	}
	return all
}

// throughput measures the Mbit/s that each uplink carries for so long.
func (h *house) throughput(d time.Duration) (each []float64, sum float64) {
	h.t.Helper()
	begin, before := time.Now(), h.received()
	time.Sleep(d) // it takes time to measure
	after, took := h.received(), time.Since(begin).Seconds()
	for i := range after {
		rate := float64(after[i]-before[i]) / mbit / took
		each, sum = append(each, rate), sum+rate
	}
	return each, sum
}

// TestBalanceCapacity: with lines of 100 and 20 Mbit/s and more demand than
// either, 95 % of both is used; with equal weights it is not.
func TestBalanceCapacity(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true, Wires: map[int]lab.WireKind{1: lab.Line, 2: lab.Line}})
	lines := []int{100, 20}
	for i, n := range lines {
		h.Uplinks[i].Wire().Rate(n*mbit, 200*time.Millisecond)
	}
	config := rig.Config(h.Topology, nil, bandwidths(h, lines...))
	h.start(ctx, config+"\n[policy.default]\nbalance = \"capacity\"\n")
	if s, err := h.Status(ctx); err != nil || weights(s)["dsl"] != 256 || weights(s)["cable"] != 51 {
		t.Errorf("idle: weights %v, %v", weights(s), err)
	}
	said := h.Log()
	stop := uploads(ctx, t, h.Client(), 40, 500_000)
	defer func() { stop() }()
	h.throughput(3 * time.Second)
	each, sum := h.throughput(6 * time.Second)
	t.Logf("by capacity: %.1f Mbit/s, %.1f + %.1f", sum, each[0], each[1])
	if sum < 0.95*120 { // once more: chance may leave a line idle for a while
		each, sum = h.throughput(6 * time.Second)
		t.Logf("by capacity, again: %.1f Mbit/s, %.1f + %.1f", sum, each[0], each[1])
	}
	if sum < 0.95*120 || each[0] < 85 || each[1] < 12 { // of 20: chance leaves it idle at times
		t.Errorf("by capacity: %.1f Mbit/s of 120, %.1f + %.1f", sum, each[0], each[1])
	}
	if log := h.Log(); log != said {
		t.Errorf("new in the log: %s", strings.TrimPrefix(log, said))
	}
	if err := h.Reconfigure(ctx, config); err != nil {
		t.Fatal(err)
	}
	h.throughput(3 * time.Second)
	equal, all := h.throughput(3 * time.Second)
	t.Logf("with equal weights: %.1f Mbit/s, %.1f + %.1f", all, equal[0], equal[1])
	if all > 0.8*sum {
		t.Errorf("equal weights do as well: %.1f Mbit/s", all)
	}
}

// TestBalanceCapacityShared: uplinks that share a NIC, with and without the
// clients, are told apart: the one that carries much gets few new connections,
// and what it carries stays.
func TestBalanceCapacityShared(t *testing.T) {
	for name, o := range map[string]lab.Options{"LAN apart": {}, "LAN on the NIC": {LANOnNIC: true}} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewSingleNIC, o)
			config := rig.Config(h.Topology, nil, bandwidths(h, 10, 10, 10), "[policy.default]\nbalance = \"capacity\"\n")
			h.start(ctx, config)
			h.awaitWeights(ctx, "idle", func(w map[string]int) bool { return w["one"] == 256 && w["two"] == 256 && w["three"] == 256 })
			busy := h.uploadOn(ctx, h.Uplinks[1], 20*mbit)
			h.awaitWeights(ctx, "one is busy", func(w map[string]int) bool { return w["one"] > 200 && w["three"] > 200 && w["two"] < 64 })
			r := lab.Spread(ctx, h.Client(), 400, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
			t.Logf("new connections: %s", r)
			if n := r.Sources[h.Uplinks[1].Address.Addr()]; n > 120 || r.Errors > 0 {
				t.Errorf("%d of 400 new connections on the busy uplink: %s", n, r)
			}
			out, errOut, _, err := h.Command("plan")
			if err != nil || strings.TrimSpace(out) != "nothing would change" {
				t.Errorf("agent plan says %q %s %v", out, errOut, err)
			}
			if err := h.Reconfigure(ctx, strings.Replace(config, "gateway6 = \""+h.Uplinks[0].Gateway6.String(), "gateway6 = \"fe80::77", 1)); err != nil {
				t.Fatal(err) // which writes the rules that count anew
			}
			h.awaitWeights(ctx, "one is busy still", func(w map[string]int) bool { return w["two"] < 64 })
			if err := busy(); err != nil {
				t.Errorf("what is on the busy uplink: %v", err)
			}
			h.awaitWeights(ctx, "idle again", func(w map[string]int) bool { return w["two"] > 200 })
			h.unchanged()
		})
	}
}

// uploadOn sends so many bytes a second on a connection of an uplink, until the
// function is called which says whether that still is on the uplink.
func (h *house) uploadOn(ctx context.Context, u *lab.Uplink, rate int) (stop func() error) {
	h.t.Helper()
	for range 200 {
		c, err := h.Client().DialUDP(lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortEcho))
		if err != nil {
			h.t.Fatal(err)
		}
		ask := func() (string, error) {
			answer := make([]byte, 1<<16)
			_, err := c.Write([]byte("?"))
			for end := time.Now().Add(2 * time.Second); err == nil; {
				if err = c.SetReadDeadline(end); err == nil {
					var n int
					if n, err = c.Read(answer); err == nil && n < 100 {
						return strings.Fields(string(answer[:n]))[0], nil
					}
				}
			}
			return "", err
		}
		seen, err := ask()
		if err != nil {
			h.t.Fatal(err)
		}
		if netip.MustParseAddrPort(seen).Addr() != u.Address.Addr() {
			c.Close()
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		var wait sync.WaitGroup
		wait.Go(func() {
			data, tick := make([]byte, 1200), time.NewTicker(10*time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				for range rate / 100 / len(data) {
					_, _ = c.Write(data)
				}
				<-tick.C
			}
		})
		return func() error {
			cancel()
			wait.Wait()
			defer c.Close()
			if now, err := ask(); err != nil || now != seen {
				return fmt.Errorf("it was %s and is %s: %w", seen, now, err)
			}
			return nil
		}
	}
	h.t.Fatalf("none of 200 connections is on %s", u.Name)
	return nil
}

// latencyHouse has an uplink for each delay, with IPv4 only, and an agent that
// balances by latency and has measured all of them.
func latencyHouse(ctx context.Context, t *testing.T, delays ...time.Duration) *house {
	t.Helper()
	wires := map[int]lab.WireKind{}
	for i := range delays {
		wires[i+1] = lab.Line
	}
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: len(delays), NoIPv6: true, Wires: wires})
	for i, d := range delays {
		h.Uplinks[i].Wire().Delay(d)
	}
	h.start(ctx, rig.Probing(h.Topology, nil, "[policy.default]\nbalance = \"latency\"\n"))
	h.waits(ctx, "all are measured", func(s api.Status) bool {
		return !slices.ContainsFunc(s.Uplinks, func(u api.UplinkStatus) bool { return u.RTT == nil })
	})
	return h
}

// TestBalanceLatency: when one of two equally quick uplinks becomes slow, the
// other gets 80 % of new connections within 10 seconds, and open ones stay.
func TestBalanceLatency(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := latencyHouse(ctx, t, 5*time.Millisecond, 5*time.Millisecond)
	slow, quick := h.Uplinks[0], h.Uplinks[1]
	stays := h.flowOn(ctx, slow, false)
	h.awaitWeights(ctx, "equally quick", func(w map[string]int) bool {
		return w[slow.Name] > 80 && 3*w[slow.Name] > w[quick.Name] && 3*w[quick.Name] > w[slow.Name]
	})
	slow.Wire().Delay(100 * time.Millisecond)
	change := time.Now()
	h.awaitWeights(ctx, "one is slow", func(w map[string]int) bool { return w[quick.Name] >= 8*w[slow.Name] }) // so that chance leaves 80 %
	if took := time.Since(change); took > 10*time.Second {
		t.Errorf("the quick uplink is preferred after %.1f s", took.Seconds())
	}
	r := lab.Spread(ctx, h.Client(), 800, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
	t.Logf("new connections: %s", r)
	if n := r.Sources[quick.Address.Addr()]; n < 640 || r.Errors > 0 {
		t.Errorf("%d of 800 new connections on the quick uplink: %s", n, r)
	}
	h.whole("slow uplink", stays)
}

// TestBalanceLatencyNoise: packets are lost, and delays vary by more than the
// uplinks differ, or by less. No share turns round more than once a minute, and
// when one uplink becomes slow, the others get 80 % of new connections within
// 10 seconds, and its share does not swing back. Open connections stay.
func TestBalanceLatencyNoise(t *testing.T) {
	for name, delays := range map[string][]time.Duration{
		"overlapping": {15 * time.Millisecond, 18 * time.Millisecond, 21 * time.Millisecond},
		"apart":       {10 * time.Millisecond, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // mostly waiting
			ctx := deadline(t, 3*time.Minute)
			h := latencyHouse(ctx, t, delays...)
			passes(ctx, 3*time.Second) // the first answers are few
			var flows []flow
			for _, u := range h.Uplinks {
				flows = append(flows, h.flowOn(ctx, u, false))
			}
			streams, err := lab.StartStreams(ctx, h.Client(), 30, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)), lab.StreamOptions{})
			must(t, err)
			x := h.history(ctx)
			for _, u := range h.Uplinks {
				u.Wire().Jitter(20 * time.Millisecond)
				u.Wire().Loss(0.01)
			}
			quiet := h.shares(ctx, 65*time.Second)
			t.Logf("noise: %v", quiet)
			if n := quiet.turns(time.Minute); n > 1 {
				t.Errorf("noise: a share turned round %d times in a minute", n)
			}

			slow := h.Uplinks[0]
			slow.Wire().Delay(200 * time.Millisecond)
			first := h.shares(ctx, 8*time.Second) // and two for the connections
			r := lab.Spread(ctx, h.Client(), 800, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
			t.Logf("one is slow: %v; new connections: %s", first, r)
			if n := r.Sources[slow.Address.Addr()]; n+r.Errors > 160 { // three lost packets make an error
				t.Errorf("%d of 800 new connections on the slow uplink: %s", n, r)
			}
			rest := h.shares(ctx, 10*time.Second)
			t.Logf("the rest: %v", rest)
			after := slices.Concat(first, rest)
			if n := after.turnsOf(slow.Name, time.Minute); n > 0 {
				t.Errorf("one is slow: its share turned round %d times", n)
			}
			if n := after.turns(time.Minute); n > 1 {
				t.Errorf("one is slow: a share turned round %d times", n)
			}

			if changes := x.stop(); len(changes) > 0 {
				t.Errorf("transitions: %v", changes)
			}
			report := streams.Stop()
			t.Logf("open connections: %s", report)
			if report.Broken > 0 {
				t.Errorf("%d of %d open connections broke: %v", report.Broken, report.Opened, report.Samples)
			}
			for _, f := range flows {
				f.Stop()
				if from := h.Server.Flow(f.Flow).Addresses(); len(from) != 1 {
					t.Errorf("the flow on %s came from %v", f.on.Name, from)
				}
			}
		})
	}
}

// shares are what was seen of the default policy's: each time that some were
// others than before.
type shares []shareSeen

type shareSeen struct {
	at time.Time
	of map[string]float64
}

// shares looks at the shares for so long, several times a second.
func (h *house) shares(ctx context.Context, d time.Duration) (seen shares) {
	h.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); passes(ctx, 100*time.Millisecond) {
		s, err := h.Status(ctx)
		must(h.t, err)
		now, sum := shareSeen{time.Now(), map[string]float64{}}, 0
		for _, w := range weights(s) {
			sum += w
		}
		for name, w := range weights(s) {
			now.of[name] = float64(w) / float64(sum)
		}
		if len(seen) == 0 || !maps.Equal(now.of, seen[len(seen)-1].of) {
			seen = append(seen, now)
		}
	}
	return seen
}

// turns is how often some uplink's share turned round within d, at most.
func (all shares) turns(d time.Duration) (worst int) {
	for name := range all[0].of {
		worst = max(worst, all.turnsOf(name, d))
	}
	return worst
}

// turnsOf is turns of one uplink. Half a percent is no move, unless more of the
// same follows.
func (all shares) turnsOf(uplink string, d time.Duration) (worst int) {
	last, way := all[0].of[uplink], 0.0
	var at []time.Time
	for _, s := range all {
		moved := s.of[uplink] - last
		if math.Abs(moved) <= 0.005 {
			continue
		}
		if moved*way < 0 {
			at = append(at, s.at)
		}
		last, way = s.of[uplink], moved
	}
	for i := range at {
		n := 0
		for n < len(at)-i && at[i+n].Sub(at[i]) < d {
			n++
		}
		worst = max(worst, n)
	}
	return worst
}

// String says how often shares were written, and between what they were.
func (all shares) String() string {
	var ranges []string
	for _, name := range slices.Sorted(maps.Keys(all[0].of)) {
		low, high := 1.0, 0.0
		for _, s := range all {
			low, high = min(low, s.of[name]), max(high, s.of[name])
		}
		ranges = append(ranges, fmt.Sprintf("%s %.3f to %.3f", name, low, high))
	}
	return fmt.Sprintf("%d writes, at most %d turns a minute, %s", len(all)-1, all.turns(time.Minute), strings.Join(ranges, ", "))
}
