//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Trouble that must not make an uplink go down, or not more than once.

// long makes the tests of endurance run as long as is promised.
var long = os.Getenv("MULTIROUTE_LONG") != ""

// lasts chooses how long something is tried.
func lasts(promised, otherwise time.Duration) time.Duration {
	if long {
		return promised
	}
	return otherwise
}

// busy keeps all CPUs busy until the test ends.
func busy(t *testing.T) {
	t.Helper()
	for range runtime.NumCPU() {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}

// calm asserts that no uplink went down.
func calm(t *testing.T, what string, changes []transition) {
	t.Helper()
	for _, c := range changes {
		if c.state == api.Down {
			t.Errorf("%s: %v", what, c)
		}
	}
	t.Logf("%s: %d transitions %v", what, len(changes), changes)
}

// TestShortOutages: a provider that is dead for a moment (fault 36).
func TestShortOutages(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Probing(h.Topology, nil))
			h.allUp(ctx, 5*time.Second)
			u := h.Uplinks[0]
			stream, quiet := h.udpOn(ctx, u, false), false
			for _, outage := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
				x := h.history(ctx)
				for i := range 3 {
					if i == 2 && !quiet { // now without real traffic
						t.Logf("with traffic: %v", stream.Stop())
						quiet = true
					}
					must(t, u.Provider.Blackhole(true))
					passes(ctx, outage)
					must(t, u.Provider.Blackhole(false))
					passes(ctx, 1500*time.Millisecond+time.Duration(i)*130*time.Millisecond)
				}
				changes := x.stop()
				calm(t, outage.String(), changes)
				if len(changes) > 0 {
					t.Errorf("outages of %v: %v", outage, changes)
				}
			}
		})
	}
}

// TestRandomLoss: 5 % of all packets, one of the targets dead, all CPUs busy
// (fault 35).
func TestRandomLoss(t *testing.T) {
	d := lasts(10*time.Minute, 15*time.Second)
	ctx := deadline(t, d+time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	busy(t)
	for _, u := range h.Uplinks {
		must(t, u.Provider.Break(lab.Fault{Far: lab.Targets[2]}, lab.Fault{Percent: 5, Way: lab.FromCustomer}))
	}
	x := h.history(ctx)
	passes(ctx, d)
	calm(t, fmt.Sprintf("5 %% loss for %v", d), x.stop())
}

// TestHeavyLoss: more and more is lost on one uplink. New connections leave it,
// and it does not flap (fault 35).
func TestHeavyLoss(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	u, other := h.Uplinks[0], h.Uplinks[1:]
	for _, percent := range []int{20, 50, 80} {
		x := h.history(ctx)
		must(t, u.Provider.Break(lab.Fault{Percent: percent, Way: lab.ToCustomer}))
		passes(ctx, 12*time.Second)
		changes := x.stop()
		t.Logf("%d %% loss: %v", percent, changes)
		if len(changes) > 3 {
			t.Errorf("%d %% loss: %d transitions in 12 s: %v", percent, len(changes), changes)
		}
		if percent >= 50 { // each family is judged for itself
			h.soon(ctx, 10*time.Second, fmt.Sprintf("%d %% loss: new connections leave it", percent), func(ctx context.Context) string {
				return strings.Join(h.trySpread(ctx, other, other), "; ")
			})
		}
	}
	must(t, u.Provider.Break())
}

// TestFrozenAgent: what the agent missed because it was stopped is not held
// against the uplinks (fault 8).
func TestFrozenAgent(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	b := h.bystanders(ctx, h.Uplinks...)
	x := h.history(ctx)
	for _, d := range []time.Duration{lasts(10*time.Second, 3*time.Second), 700 * time.Millisecond, 300 * time.Millisecond} {
		must(t, h.Signal(syscall.SIGSTOP))
		passes(ctx, d)
		must(t, h.Signal(syscall.SIGCONT))
		passes(ctx, 2*time.Second)
	}
	changes := x.stop()
	calm(t, "stopped", changes)
	if len(changes) > 0 {
		t.Errorf("transitions: %v", changes)
	}
	b.check()
}

// TestFarAway: a satellite, and a link whose round trip time jumps from 10 to
// 900 ms, with packets that overtake each other and come twice (fault 38).
func TestFarAway(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Wires: map[int]lab.WireKind{1: lab.Line, 2: lab.Line}})
	satellite, jumps := h.Uplinks[0].Wire(), h.Uplinks[1].Wire()
	satellite.Delay(350 * time.Millisecond)
	jumps.Delay(5 * time.Millisecond)
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 10*time.Second)
	passes(ctx, 3*time.Second)
	x := h.history(ctx)
	for range 2 {
		jumps.Delay(450 * time.Millisecond)
		passes(ctx, 5*time.Second)
		jumps.Delay(5 * time.Millisecond)
		jumps.Jitter(30 * time.Millisecond)
		jumps.Repeat(0.3)
		passes(ctx, 5*time.Second)
		jumps.Jitter(0)
		jumps.Repeat(0)
	}
	changes := x.stop()
	calm(t, "far away", changes)
	if len(changes) > 0 {
		t.Errorf("transitions: %v", changes)
	}
	s, err := h.Status(ctx)
	must(t, err)
	for i, least := range []float64{690, 5} {
		if rtt := s.Uplinks[i].RTT; rtt == nil || *rtt < least {
			t.Errorf("%s: a round trip of %v ms, at least %v", s.Uplinks[i].Name, rtt, least)
		} else {
			t.Logf("%s: a round trip of %.1f ms", s.Uplinks[i].Name, *rtt)
		}
	}
}

// TestFullLine: a client sends as much as its uplink takes, and the provider
// has a large buffer for that: the probes wait in it, too (fault 39).
func TestFullLine(t *testing.T) {
	for name, buffer := range map[string]time.Duration{"300 ms": 300 * time.Millisecond, "900 ms": 900 * time.Millisecond} {
		t.Run("a buffer of "+name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true, Wires: map[int]lab.WireKind{1: lab.Line}})
			h.Uplinks[0].Wire().Rate(128<<10, buffer) // 1 Mbit/s
			h.start(ctx, rig.Probing(h.Topology, nil))
			h.allUp(ctx, 10*time.Second)
			passes(ctx, time.Second)
			x := h.history(ctx)
			var highest float64
			for i := 0; i < 10 || i < 60 && len(on(h.flows(h.Uplinks[0].Name), h.Uplinks[0], "tcp", lab.InternetAddress)) == 0; i++ { // among them some on this uplink
				c, err := h.Client().DialTCP(ctx, lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortDiscard))
				must(t, err)
				defer c.Close()
				go func() {
					for chunk := make([]byte, 1<<16); ; {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				}()
			}
			full := func() bool { return highest >= float64(buffer/time.Millisecond)/4 }
			for begin := time.Now(); time.Since(begin) < 6*time.Second || !full() && time.Since(begin) < 20*time.Second; passes(ctx, 50*time.Millisecond) {
				s, err := h.Status(ctx)
				must(t, err)
				if rtt := s.Uplinks[0].RTT; rtt != nil {
					highest = max(highest, *rtt)
				}
			}
			calm(t, "full line", x.stop())
			t.Logf("the round trip took up to %.0f ms", highest)
			if !full() {
				t.Errorf("the line was not full: a round trip of %.0f ms at most", highest)
			}
		})
	}
}

// TestFlapping: a loose plug. The other uplinks' traffic notices nothing, the
// kernel is not written to without end, and the uplink is used again when the
// plug has held for a while (fault 37).
func TestFlapping(t *testing.T) {
	d := lasts(60*time.Second, 5*time.Second)
	ctx := deadline(t, 3*d+2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	const hold = "[health]\nhold_down = \"1s\"\n"
	h.start(ctx, rig.Probing(h.Topology, nil, hold))
	h.allUp(ctx, 5*time.Second)
	healthy, u := h.Uplinks[0], h.Uplinks[1]
	b := h.bystanders(ctx, healthy)
	for _, hertz := range []int{1, 5, 20} {
		routing := h.listen(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		rules := h.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		half := time.Second / time.Duration(2*hertz)
		begin, flaps := time.Now(), 0
		for time.Since(begin) < d {
			must(t, u.Carrier(false))
			passes(ctx, half)
			must(t, u.Carrier(true))
			passes(ctx, half)
			flaps++
		}
		r, n := routing.stop(), rules.stop()
		writes := 0
		for _, k := range r {
			writes += k
		}
		generations := n[unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN]
		t.Logf("%d Hz: %d flaps, %d changes of routes and rules %v, %d nftables transactions", hertz, flaps, writes, r, generations)
		if writes > 60*flaps+100 || generations > 4*flaps+10 {
			t.Errorf("%d Hz: %d changes of routes and rules and %d nftables transactions for %d flaps", hertz, writes, generations, flaps)
		}
	}
	s := h.becomes(ctx, u, api.Down, time.Second)
	settles := 10 * time.Second
	if s.Until != nil {
		t.Logf("held down for another %v", time.Until(*s.Until))
		settles += time.Until(*s.Until)
	}
	if settles < 30*time.Second {
		h.carry(ctx, h.Uplinks, settles)
	}
	b.check()
	h.unchanged()
}

// TestHoldDownDoubles: an uplink that dies again and again is left alone for
// longer each time, and a restart of the agent does not make it forget.
func TestHoldDownDoubles(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"1s\"\n"))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[0]
	for i, least := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		must(t, u.Provider.Blackhole(true))
		h.becomes(ctx, u, api.Down, 5*time.Second)
		begin := time.Now() // a little after it went down
		must(t, u.Provider.Blackhole(false))
		if i == 1 {
			must(t, errors.Join(h.End(syscall.SIGKILL), h.Run(ctx)))
			s, err := h.Status(ctx)
			must(t, err)
			if !strings.Contains(states(s), u.Name+" down") {
				t.Errorf("after a restart: %s", states(s))
			}
		}
		h.becomes(ctx, u, api.Up, least+5*time.Second)
		if took := time.Since(begin); took < least-300*time.Millisecond || took > least+2*time.Second {
			t.Errorf("death %d: up again after %v, wanted %v", i+1, took, least)
		}
		h.carry(ctx, h.Uplinks, 2*time.Second) // the other family, too
	}
}
