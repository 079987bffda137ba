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

	"github.com/vishvananda/netlink"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// An uplink dies while it is in use: what its clients see of it, and that those
// on the other uplinks see nothing.

// TestCarrierLoss: the cable of an uplink with a NIC of its own is pulled, with
// the agent well, stopped and dead.
func TestCarrierLoss(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3})
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[1]
	b := h.bystanders(ctx, h.others(u)...)
	nothing := func() error { return nil }
	for _, c := range []struct {
		agent         string
		before, after func() error
	}{
		{"running", nothing, nothing},
		{"stopped", func() error { return h.Signal(syscall.SIGSTOP) }, func() error { return h.Signal(syscall.SIGCONT) }},
		{"dead", func() error { return h.End(syscall.SIGKILL) }, func() error { return h.Run(ctx) }},
	} {
		var all []gaps
		for i := range 3 {
			must(t, c.before())
			what := "carrier loss, agent " + c.agent
			all = append(all, h.dies(ctx, what, u, i == 1, func() error { return u.Carrier(false) }))
			must(t, c.after())
			h.becomes(ctx, u, api.Down, 5*time.Second)
			must(t, u.Carrier(true))
			h.carry(ctx, h.Uplinks, 10*time.Second)
		}
		within(t, "carrier loss, agent "+c.agent, 50*time.Millisecond, all...)
	}
	b.check()
	h.unchanged()
}

// TestProviderDies: nothing answers behind a gateway that does.
func TestProviderDies(t *testing.T) {
	for name, topology := range topologies {
		for _, c := range []struct {
			profile string
			limit   time.Duration
		}{{"normal", 3 * time.Second}, {"fast", 1500 * time.Millisecond}} {
			t.Run(name+", "+c.profile, func(t *testing.T) {
				ctx := deadline(t, 2*time.Minute)
				h := newHouse(t, topology, lab.Options{Uplinks: 3})
				h.start(ctx, rig.Probing(h.Topology, nil, fmt.Sprintf("[health]\nprofile = %q\nhold_down = \"0s\"\n", c.profile)))
				h.allUp(ctx, 5*time.Second)
				u := h.Uplinks[1]
				b := h.bystanders(ctx, h.others(u)...)
				var all []gaps
				for i := range 3 {
					passes(ctx, time.Duration(i)*170*time.Millisecond) // another moment between two probes
					all = append(all, h.dies(ctx, "provider dead", u, i == 1, func() error { return u.Provider.Blackhole(true) }))
					h.becomes(ctx, u, api.Down, 5*time.Second)
					h.spread(ctx, "provider dead", h.others(u), h.others(u))
					must(t, u.Provider.Blackhole(false))
					h.carry(ctx, h.Uplinks, 10*time.Second)
				}
				within(t, "provider dead", c.limit, all...)
				b.check()
				h.unchanged()
			})
		}
	}
}

// TestConnectionsOfADeadUplink: TCP connections are reset rather than left to
// hang.
func TestConnectionsOfADeadUplink(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[0]
	var conns []*lab.Conn
	for range 10 {
		conns = append(conns, h.connectionOn(ctx, u, false), h.connectionOn(ctx, u, true))
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	must(t, u.Provider.Blackhole(true))
	begin := time.Now()
	ended := make(chan error, len(conns))
	for _, c := range conns {
		go func() {
			for {
				if err := c.Ping(15 * time.Second); err != nil {
					ended <- err
					return
				}
				time.Sleep(20 * time.Millisecond) // its next request
			}
		}()
	}
	for range conns {
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection of the dead uplink ended with %v after %v", err, time.Since(begin))
		}
	}
	took := time.Since(begin)
	t.Logf("the last of %d connections was reset after %v", len(conns), took)
	if took > 8*time.Second { // the clients' own retransmissions, which are farther apart each time
		t.Errorf("the last connection was reset after %v", took)
	}
}

// TestSharedNIC: one of the uplinks on a NIC goes, or the NIC; another NIC has
// the uplink that is left.
func TestSharedNIC(t *testing.T) {
	const limit = 500 * time.Millisecond
	for _, c := range []struct {
		name       string
		all        bool // on that NIC
		v6         []bool
		gone, back func(h *house, u *lab.Uplink) error
	}{
		{name: "IPv4 address", v6: []bool{false},
			gone: func(h *house, u *lab.Uplink) error { return h.Topology.Router.DelAddr(u.Interface, u.Address) },
			back: func(h *house, u *lab.Uplink) error { return h.Topology.Router.AddAddr(u.Interface, u.Address) }},
		{name: "IPv6 address", v6: []bool{true},
			gone: func(h *house, u *lab.Uplink) error { return h.Topology.Router.DelAddr(u.Interface, u.Address6) },
			back: func(h *house, u *lab.Uplink) error { return h.Topology.Router.AddAddr(u.Interface, u.Address6) }},
		{name: "gateway FAILED", v6: []bool{false, true},
			gone: func(h *house, u *lab.Uplink) error { return errors.Join(u.Vanish(true), h.neighbourFails(u)) },
			back: func(_ *house, u *lab.Uplink) error { return u.Vanish(false) }},
		{name: "carrier", all: true, v6: []bool{false, true},
			gone: func(_ *house, u *lab.Uplink) error { return u.Carrier(false) },
			back: func(_ *house, u *lab.Uplink) error { return u.Carrier(true) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, lab.NewSingleNIC, lab.Options{Apart: true})
			h.start(ctx, rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n"))
			h.allUp(ctx, 5*time.Second)
			u := h.Uplinks[1]
			safe := h.others(u)
			if c.all {
				safe = h.Uplinks[2:]
			}
			b := h.bystanders(ctx, safe...)
			var all []gaps
			for range 3 {
				for _, v6 := range c.v6 {
					all = append(all, h.dies(ctx, c.name, u, v6, func() error { return c.gone(h, u) }))
					must(t, c.back(h, u))
					h.carry(ctx, h.Uplinks, 15*time.Second)
				}
			}
			within(t, c.name, limit, all...)
			b.check()
			h.unchanged()
		})
	}
}

// neighbourFails makes the kernel find out now that a gateway does not answer:
// it asks three times, a second apart, before it says so by itself.
func (h *house) neighbourFails(u *lab.Uplink) error {
	handle := h.Topology.Router.Handle()
	link, err := h.Topology.Router.Link(u.Interface)
	if err != nil {
		return err
	}
	for _, gateway := range []netip.Addr{u.Gateway, u.Gateway6} {
		family := netlink.FAMILY_V4
		if gateway.Is6() {
			family = netlink.FAMILY_V6
		}
		n := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, IP: gateway.AsSlice(), State: netlink.NUD_FAILED}
		if err := handle.NeighSet(n); err != nil {
			return fmt.Errorf("setting neighbour %s to FAILED: %w", gateway, err)
		}
	}
	return nil
}

// carry waits until exactly these uplinks carry new connections of both
// families, and the status says that they are up.
func (h *house) carry(ctx context.Context, uplinks []*lab.Uplink, limit time.Duration) {
	h.t.Helper()
	want := names(uplinks)
	var have4, have6 []string
	h.until(limit, fmt.Sprintf("exactly %v carry new connections", want), func() bool {
		s, err := h.Status(ctx)
		if err != nil {
			return false
		}
		var err4, err6 error
		have4, err4 = h.carriers(s, netlink.FAMILY_V4)
		have6, err6 = h.carriers(s, netlink.FAMILY_V6)
		return err4 == nil && err6 == nil && slices.Equal(have4, want) && slices.Equal(have6, want)
	})
	if h.t.Failed() {
		h.t.Logf("IPv4 by %v, IPv6 by %v", have4, have6)
	}
}

// TestProbesFollow: an interface that goes and comes back is another one, maybe
// with another address: probes leave by that, and clients as soon as these are
// good (faults 23 to 26).
func TestProbesFollow(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[1]
	// When the last IPv6 address of an interface goes, the kernel's masquerade takes
	// another interface's, until the agent has followed. See TestInterfaceGoesAndReturns.
	must(t, u.Provider.Refuse(netip.PrefixFrom(h.Uplinks[0].Address6.Addr(), 128)))
	b := h.bystanders(ctx, h.Uplinks[0])
	for i, c := range []struct {
		what       string
		gone, back func() error
	}{
		{"unplugged", u.Unplug, u.Plug},
		{"another address", u.Unplug, func() error {
			u.Address = netip.PrefixFrom(u.Address.Addr().Next(), u.Address.Bits())
			return u.Plug()
		}},
		{"carrier", func() error { return u.Carrier(false) }, func() error { return u.Carrier(true) }},
	} {
		h.dies(ctx, c.what, u, i%2 == 1, c.gone)
		h.becomes(ctx, u, api.Down, 2*time.Second)
		must(t, c.back())
		h.becomes(ctx, u, api.Up, 10*time.Second)
		for _, v6 := range []bool{false, true} {
			h.udpOn(ctx, u, v6).Stop()
		}
		must(t, u.Provider.Blackhole(true)) // it is these probes that keep it up
		h.becomes(ctx, u, api.Down, 5*time.Second)
		must(t, u.Provider.Blackhole(false))
		h.becomes(ctx, u, api.Up, 10*time.Second)
	}
	b.check()
}

// TestReloadKeepsVerdicts: an uplink that is held down stays so, since the same
// time, whatever else a reload changes.
func TestReloadKeepsVerdicts(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[1]
	must(t, u.Provider.Blackhole(true))
	before := h.becomes(ctx, u, api.Down, 5*time.Second)
	must(t, u.Provider.Blackhole(false))
	h.configure(rig.Probing(h.Topology, []int{3, 2, 1}))
	_, err := h.Reload(ctx)
	must(t, err)
	after := h.becomes(ctx, u, api.Down, time.Second)
	if before.Since == nil || after.Since == nil || !before.Since.Equal(*after.Since) {
		t.Errorf("down since %v, after a reload since %v", before.Since, after.Since)
	}
	h.spread(ctx, "after a reload", h.others(u), h.others(u))
	h.becomes(ctx, u, api.Up, 20*time.Second)
}

// TestAllDie: what answers nowhere is taken for the targets' fault, until one
// uplink answers again: then that one carries everything.
func TestAllDie(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	one, two := h.Uplinks[0], h.Uplinks[1]
	x := h.history(ctx)
	stream := h.udpOn(ctx, two, false)
	must(t, errors.Join(one.Provider.Blackhole(true), two.Provider.Blackhole(true)))
	passes(ctx, 3*time.Second)
	for _, c := range x.so() {
		if c.state == api.Down {
			t.Errorf("nothing answers anywhere: %v", c)
		}
	}
	must(t, one.Provider.Blackhole(false))
	begin := time.Now()
	h.becomes(ctx, two, api.Down, 5*time.Second)
	h.until(3*time.Second, "the stream moves to the uplink that returned", func() bool {
		return slices.Contains(stream.Report().Addresses(), one.Address.Addr())
	})
	t.Logf("one of two dead uplinks returned: the other's stream is well after %.0f ms", ms(time.Since(begin)))
	must(t, two.Provider.Blackhole(false))
	h.carry(ctx, h.Uplinks, 10*time.Second)
	t.Logf("history: %v; stream: %v", x.stop(), stream.Stop())
	h.spread(ctx, "all are back", h.Uplinks, h.Uplinks)
	h.unchanged()
}

// TestAllCablesOut: all uplinks lose their carrier; the first that returns is
// used within a second, whatever its hold-down.
func TestAllCablesOut(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	one, two := h.Uplinks[0], h.Uplinks[1]
	must(t, errors.Join(one.Carrier(false), two.Carrier(false)))
	h.becomes(ctx, one, api.Down, 2*time.Second)
	h.becomes(ctx, two, api.Down, 2*time.Second)
	passes(ctx, 500*time.Millisecond)
	must(t, two.Carrier(true))
	begin := time.Now()
	dials := lab.StartDials(ctx, h.Client(), 10*time.Millisecond, 100*time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
	h.until(3*time.Second, "new connections work", func() bool { r := dials.Report(); return r.Dials-r.Failed > 0 })
	took := time.Since(begin)
	dials.Stop()
	t.Logf("the first cable is back: new connections work after %.0f ms", ms(took))
	if took > 2*time.Second {
		t.Errorf("new connections work after %v", took)
	}
	h.becomes(ctx, two, api.Up, time.Second)
	must(t, one.Carrier(true))
	h.spread(ctx, "one is held down", []*lab.Uplink{two}, []*lab.Uplink{two})
}

// doubtsSoon lets the kernel doubt its neighbours on an uplink's interface after
// a second rather than half a minute.
func (h *house) doubtsSoon(u *lab.Uplink) {
	h.t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		for key, value := range map[string]string{"base_reachable_time_ms": "1000", "delay_first_probe_time": "1", "retrans_time_ms": "200"} {
			must(h.t, h.Topology.Router.Sysctl("net/"+family+"/neigh/"+u.Interface+"/"+key, value))
		}
	}
}

// TestGatewayExchanged: another machine has the gateway's address now and tells
// nobody (fault 31). The kernel finds it, and so does all that knows its MAC
// address.
func TestGatewayExchanged(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewSingleNIC, lab.Options{})
	u := h.Uplinks[1]
	h.doubtsSoon(u)
	h.start(ctx, rig.Probing(h.Topology, nil, quickReturn))
	h.allUp(ctx, 5*time.Second)
	b := h.bystanders(ctx, h.others(u)...)
	must(t, u.Exchange([]byte{2, 0, 0, 0, 0, 0x31}))
	x := h.history(ctx)
	h.soon(ctx, 15*time.Second, "all carry new connections", func(ctx context.Context) string {
		s, err := h.Status(ctx)
		if err != nil || strings.Contains(states(s), "down") {
			return fmt.Sprintf("%s, %v", states(s), err)
		}
		return strings.Join(h.trySpread(ctx, h.Uplinks, h.Uplinks), "; ")
	})
	t.Logf("history: %v", x.stop())
	b.check()
	h.unchanged()
}
