//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Tiers, and how connections come back to the better one; uplinks that are
// taken out by hand.

// nowFrom says whether a stream's newest answers come from one uplink rather
// than from any of the others.
func nowFrom(s *lab.UDPStream, u *lab.Uplink, others ...*lab.Uplink) bool {
	last := func(u *lab.Uplink) time.Time {
		four, six := s.Last(u.Address.Addr()), s.Last(u.Address6.Addr())
		if six.After(four) {
			return six
		}
		return four
	}
	return !last(u).IsZero() && !slices.ContainsFunc(others, func(o *lab.Uplink) bool { return last(o).After(last(u)) })
}

// TestFailback: the better tier dies and returns (fault 44).
func TestFailback(t *testing.T) {
	for _, c := range []struct {
		name, failback string
		metered        bool // the lower tier: then everything moves back in any case
	}{{"new", "new", false}, {"all", "all", false}, {"new, metered", "new", true}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3})
			better, worse, never := h.Uplinks[0], h.Uplinks[1], h.Uplinks[2]
			text := rig.Probing(h.Topology, nil, "[health]\nhold_down = \"1s\"\n", tiers(c.failback, better, worse, never))
			if c.metered {
				text = strings.Replace(text, fmt.Sprintf("interface = %q\n", worse.Interface), fmt.Sprintf("interface = %q\nmetered = true\n", worse.Interface), 1)
			}
			h.start(ctx, text)
			h.carry(ctx, []*lab.Uplink{better}, 2*time.Second)
			var streams []*lab.UDPStream
			for i := range 6 {
				s, err := lab.StartUDP(ctx, h.Client(), lab.Socket{}, internet(i%2 == 1), 2*time.Millisecond)
				must(t, err)
				streams = append(streams, s)
			}
			all := func(u *lab.Uplink) func() bool {
				return func() bool {
					return !slices.ContainsFunc(streams, func(s *lab.UDPStream) bool {
						return !nowFrom(s, u, h.others(u)...)
					})
				}
			}
			h.until(2*time.Second, "all streams are on the better tier", all(better))
			must(t, better.Provider.Blackhole(true))
			h.until(4*time.Second, "all streams are on the other tier", all(worse))
			conns := []*lab.Conn{h.connectionOn(ctx, worse, false), h.connectionOn(ctx, worse, true)}
			// What comes in by the lower tier cannot move, so it stays.
			service, err := lab.NewServer(h.Topology.Router)
			must(t, err)
			defer service.Close()
			var visitors []*lab.Conn
			for _, a := range []netip.Addr{worse.Address.Addr(), worse.Address6.Addr()} {
				visitor, err := lab.Connect(ctx, h.Internet, lab.Socket{}, netip.AddrPortFrom(a, 80))
				must(t, err)
				visitors = append(visitors, visitor)
			}
			must(t, better.Provider.Blackhole(false))
			h.carry(ctx, []*lab.Uplink{better}, 15*time.Second)
			begin := time.Now()
			h.spread(ctx, "the better tier is back", []*lab.Uplink{better}, []*lab.Uplink{better})
			if c.failback == "all" || c.metered {
				h.until(3*time.Second, "all streams are back on the better tier", all(better))
				var latest time.Time
				for _, s := range streams {
					for _, v6 := range []bool{false, true} {
						if at := s.Last(addressOf(worse, v6)); at.After(latest) {
							latest = at
						}
					}
				}
				t.Logf("failback: nothing was left on the lower tier %.1f ms after the routes had changed", ms(max(0, latest.Sub(begin))))
				if latest.Sub(begin) > 2*time.Second {
					t.Errorf("the lower tier had something for %v", latest.Sub(begin))
				}
				for _, s := range streams {
					t.Logf("stream: %v", s.Stop())
				}
				// The router still knows them, before they say a word.
				flows, _, _, err := h.Command("flows", worse.Name, "--json")
				must(t, err)
				if n := strings.Count(flows, `"port":80,"id":null},"nat":null,"inbound":null,"state":"established"`); n < len(visitors) {
					t.Errorf("of %d connections that came in by the lower tier %d are left:\n%s", len(visitors), n, flows)
				}
				for _, v := range visitors {
					must(t, v.Ping(time.Second))
				}
				return
			}
			passes(ctx, time.Second)
			if !all(worse)() {
				t.Error("a stream has left the lower tier")
			}
			for _, c := range conns {
				must(t, c.Ping(time.Second))
			}
			for _, s := range streams {
				s.Stop()
			}
			h.unchanged()
		})
	}
}

// TestDisable: an uplink is taken out for maintenance and put back; nothing is
// lost that can move.
func TestDisable(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{Uplinks: 3})
			h.start(ctx, rig.Probing(h.Topology, nil))
			h.allUp(ctx, 5*time.Second)
			u := h.Uplinks[1]
			b := h.bystanders(ctx, h.others(u)...)
			stream := h.udpOn(ctx, u, false)
			h.until(2*time.Second, "traffic", func() bool { return stream.Report().Received > 200 })
			h.do("uplink", "disable", u.Name)
			h.becomes(ctx, u, api.Disabled, time.Second)
			h.carry(ctx, h.others(u), time.Second)
			h.until(2*time.Second, "the stream has moved", func() bool { return !nowFrom(stream, u, h.others(u)...) })
			received := stream.Report().Received
			h.until(2*time.Second, "traffic", func() bool { return stream.Report().Received > received+200 })
			r := stream.Stop()
			t.Logf("taken out: gap %.1f ms, lost %d of %d", ms(r.Gap), r.Lost(), r.Sent)
			if r.Gap > 300*time.Millisecond {
				t.Errorf("taken out by hand: a gap of %v", r.Gap)
			}
			h.spread(ctx, "disabled", h.others(u), h.others(u))
			h.do("uplink", "enable", u.Name)
			h.carry(ctx, h.Uplinks, 2*time.Second)
			h.spread(ctx, "enabled", h.Uplinks, h.Uplinks)
			h.do("uplink", "disable", u.Name, "--for", "1s")
			h.becomes(ctx, u, api.Disabled, time.Second)
			h.carry(ctx, h.Uplinks, 4*time.Second)
			h.spread(ctx, "the time is over", h.Uplinks, h.Uplinks)
			b.check()
			h.unchanged()
		})
	}
}

// do runs a command of the agent.
func (h *house) do(args ...string) {
	h.t.Helper()
	out, errOut, code, err := h.Exec(h.Program, append(args, "--config", h.ConfigPath())...)
	if err != nil || code != 0 {
		h.t.Fatal(args, code, out, errOut, err)
	}
}

// TestLastOne: with everything else down or disabled, the last uplink is used
// even if it is degraded.
func TestLastOne(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	bad, good := h.Uplinks[0], h.Uplinks[1]
	must(t, bad.Provider.Break(lab.Fault{Percent: 45, Way: lab.ToCustomer, Far: lab.Targets[0]}, lab.Fault{Percent: 45, Way: lab.ToCustomer, Far: lab.Targets[1]},
		lab.Fault{Percent: 45, Way: lab.ToCustomer, Far: lab.Targets[2]}, lab.Fault{Percent: 45, Way: lab.ToCustomer, Far: lab.Targets6[0]},
		lab.Fault{Percent: 45, Way: lab.ToCustomer, Far: lab.Targets6[1]}))
	h.becomes(ctx, bad, api.Degraded, 20*time.Second)
	h.carry(ctx, []*lab.Uplink{good}, 10*time.Second)
	h.spread(ctx, "one is degraded", []*lab.Uplink{good}, []*lab.Uplink{good})
	must(t, good.Carrier(false))
	h.carry(ctx, []*lab.Uplink{bad}, 2*time.Second)
	h.spread(ctx, "the degraded one is the last", []*lab.Uplink{bad}, []*lab.Uplink{bad})
	must(t, good.Carrier(true))
	h.carry(ctx, []*lab.Uplink{good}, 10*time.Second)
}

// refusesOwn asserts that a program of the router's own learns at once that it
// cannot connect: before TCP would ask a second time.
func (h *house) refusesOwn(ctx context.Context, to netip.AddrPort) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 900*time.Millisecond)
	defer cancel()
	c, err := lab.Connect(ctx, h.Topology.Router, lab.Socket{}, to)
	if err == nil {
		c.Close()
		h.t.Errorf("the router itself reached %s, as %v", to, c.Seen)
	} else if !unreachable(err) && !errors.Is(err, syscall.ECONNREFUSED) {
		h.t.Errorf("the router's own connection to %s: %v, wanted it refused", to, err)
	}
}

// TestPinnedToADeadUplink: what belongs to one uplink only does not go out
// anywhere else when that is dead, and works again when it is not.
func TestPinnedToADeadUplink(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	u, other := h.Uplinks[1], h.Uplinks[0]
	text := rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n")
	text = strings.Replace(text, fmt.Sprintf("interface = %q\n", u.Interface),
		fmt.Sprintf("interface = %q\ndestinations = [%q, \"198.51.100.128/25\"]\n", u.Interface, u.Private.String()+"/32"), 1)
	h.start(ctx, text)
	h.carry(ctx, h.Uplinks, 5*time.Second)
	pinned := lab.To(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.200"), lab.PortTCP))
	only(ctx, t, "pinned", h.Client(), pinned, 20, u.Address.Addr())
	must(t, u.Provider.Blackhole(true))
	h.becomes(ctx, u, api.Down, 3*time.Second)
	h.carry(ctx, []*lab.Uplink{other}, 2*time.Second)
	dials := lab.StartDials(ctx, h.Client(), 10*time.Millisecond, 200*time.Millisecond, pinned)
	h.until(5*time.Second, "20 connections", func() bool { return dials.Report().Dials >= 20 })
	if r := dials.Stop(); r.Failed != r.Dials {
		t.Errorf("pinned to a dead uplink: %v", r)
	}
	h.refusesOwn(ctx, netip.MustParseAddrPort("198.51.100.200:80"))
	h.spread(ctx, "everything else", []*lab.Uplink{other}, []*lab.Uplink{other})
	must(t, u.Provider.Blackhole(false))
	h.carry(ctx, h.Uplinks, 10*time.Second)
	only(ctx, t, "pinned, again", h.Client(), pinned, 20, u.Address.Addr())
}

// TestSecondAddress: another address of the uplink's subnet comes and goes; the
// source of connections stays what it was (fault 30).
func TestSecondAddress(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	b := h.bystanders(ctx, h.Uplinks...)
	x := h.history(ctx)
	for _, u := range h.Uplinks {
		second := netip.PrefixFrom(u.Address.Addr().Next(), u.Address.Bits())
		for range 2 {
			must(t, h.Topology.Router.AddAddr(u.Interface, second))
			h.spread(ctx, "with a second address", h.Uplinks, h.Uplinks)
			must(t, h.Topology.Router.DelAddr(u.Interface, second))
			h.spread(ctx, "without it again", h.Uplinks, h.Uplinks)
		}
	}
	if changes := x.stop(); len(changes) > 0 {
		t.Errorf("transitions: %v", changes)
	}
	b.check()
	h.unchanged()
}
