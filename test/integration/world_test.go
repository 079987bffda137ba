//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// The world changes and the agent follows, without a restart: addresses,
// gateways, cables, interfaces.

// followed is how long the agent may take to follow; it is meant to take a
// tenth of that, which the log tells.
const followed = time.Second

// carriers names the uplinks that carry new connections of a family: the
// members of the default policy's multipath route in the kernel.
func (h *house) carriers(s api.Status, family int) ([]string, error) {
	handle := h.Topology.Router.Handle()
	i := slices.IndexFunc(s.Policies, func(p api.PolicyStatus) bool { return p.Name == "default" })
	if i < 0 {
		return nil, errors.New("no default policy")
	}
	routes, err := handle.RouteListFiltered(family, &netlink.Route{Table: 20000 + s.Policies[i].ID}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	links, err := handle.LinkList()
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, r := range routes {
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Flags: r.Flags}}
		}
		for _, hop := range hops {
			for _, u := range h.Uplinks {
				gateway := u.Gateway
				if family == unix.AF_INET6 {
					gateway = u.Gateway6
				}
				gw, _ := netip.AddrFromSlice(hop.Gw)
				named := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == hop.LinkIndex && l.Attrs().Name == u.Interface })
				if r.Type == unix.RTN_UNICAST && named && (h.Switch == nil || gw.Unmap() == gateway) && hop.Flags&unix.RTNH_F_DEAD == 0 {
					names = append(names, u.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// names of uplinks, sorted.
func names(uplinks []*lab.Uplink) []string {
	all := []string{}
	for _, u := range uplinks {
		all = append(all, u.Name)
	}
	slices.Sort(all)
	return all
}

// follow changes the world and waits until status and kernel say that exactly
// these uplinks carry IPv4 and IPv6.
func (h *house) follow(ctx context.Context, what string, change func() error, v4, v6 []*lab.Uplink) {
	h.t.Helper()
	begin := time.Now()
	if err := change(); err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	changed := time.Now()
	want4, want6 := names(v4), names(v6)
	var have4, have6 []string
	var status api.Status
	right := func() bool {
		var err error
		if status, err = h.Status(ctx); err != nil {
			h.t.Fatalf("%s: %v", what, err)
		}
		var err4, err6 error
		have4, err4 = h.carriers(status, unix.AF_INET)
		have6, err6 = h.carriers(status, unix.AF_INET6)
		if err4 != nil || err6 != nil || !slices.Equal(have4, want4) || !slices.Equal(have6, want6) {
			return false
		}
		for _, u := range status.Uplinks {
			if up := slices.Contains(want4, u.Name) || slices.Contains(want6, u.Name); up != (u.State == api.Up) {
				return false
			}
		}
		return true
	}
	for !right() {
		if time.Since(changed) > 10*time.Second || ctx.Err() != nil {
			h.t.Fatalf("%s: not followed: IPv4 by %v, wanted %v; IPv6 by %v, wanted %v; %s", what, have4, want4, have6, want6, states(status))
		}
		time.Sleep(time.Millisecond) // a condition with a deadline
	}
	took := time.Since(changed)
	h.t.Logf("followed: %s: %.1f ms after the change, which took %.1f ms", what, ms(took), ms(changed.Sub(begin)))
	if took > followed {
		h.t.Errorf("%s: followed after %v", what, took)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func states(s api.Status) string {
	var all []string
	for _, u := range s.Uplinks {
		reason := ""
		if u.Reason != nil {
			reason = " (" + *u.Reason + ")"
		}
		all = append(all, fmt.Sprintf("%s %s%s", u.Name, u.State, reason))
	}
	return strings.Join(all, "; ")
}

// until waits for a condition that must come true within d.
func (h *house) until(d time.Duration, what string, condition func() bool) {
	h.t.Helper()
	for end := time.Now().Add(d); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Errorf("after %v still not: %s", d, what)
			return
		}
	}
}

// soon makes rounds of new connections until one is right, which has to begin
// within d; a round says what is wrong with it. The next round does not wait for
// one that hangs: when the agent ends connections that it moves, a client that
// has sent all it had, and only waits for the server, cannot be told. It waits for
// as long as the lab has patience, whatever becomes of connections that begin now.
func (h *house) soon(ctx context.Context, d time.Duration, what string, round func(context.Context) (wrong string)) {
	h.t.Helper()
	ended, over := make(chan string), make(chan struct{})
	defer close(over)
	var wait sync.WaitGroup
	h.t.Cleanup(wait.Wait)
	running := 0
	for end := time.Now().Add(d); running > 0 || time.Now().Before(end); {
		if begin := time.Now(); begin.Before(end) {
			running++
			wait.Go(func() {
				wrong := round(ctx)
				if wrong != "" {
					wrong = fmt.Sprintf("begun %.0f ms before the end of %v, took %.0f ms: %s", ms(end.Sub(begin)), d, ms(time.Since(begin)), wrong)
				}
				select {
				case ended <- wrong:
				case <-over:
				}
			})
		}
		select {
		case wrong := <-ended:
			running--
			if wrong == "" {
				return
			}
			h.t.Logf("%s: not yet: %s", what, wrong)
		case <-time.After(d / 8):
		}
	}
	h.t.Errorf("no round of new connections that began within %v was right: %s", d, what)
}

// unchanged asserts that the agent has nothing left to do.
func (h *house) unchanged() {
	h.t.Helper()
	var out string
	h.until(5*time.Second, "agent plan says \"nothing would change\"", func() bool {
		var errOut string
		var err error
		if out, errOut, _, err = h.Command("plan"); err != nil {
			h.t.Fatalf("agent plan: %v %s", err, errOut)
		}
		return strings.TrimSpace(out) == "nothing would change"
	})
	if h.t.Failed() {
		h.t.Logf("agent plan: %s", out)
	}
}

// addressOf an uplink in a family.
func addressOf(u *lab.Uplink, v6 bool) netip.Addr {
	if v6 {
		return u.Address6.Addr()
	}
	return u.Address.Addr()
}

func internet(v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(lab.InternetAddress6, 0)
	}
	return netip.AddrPortFrom(lab.InternetAddress, 0)
}

// flow is a one-way stream that began on a known uplink.
type flow struct {
	*lab.OneWay
	on *lab.Uplink
	v6 bool
}

// flowOn starts one-way streams until one is on an uplink, and ends the others.
func (h *house) flowOn(ctx context.Context, u *lab.Uplink, v6 bool) flow {
	h.t.Helper()
	want := addressOf(u, v6)
	for range 200 {
		o, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{}, internet(v6), 2*time.Millisecond)
		if err != nil {
			h.t.Fatal(err)
		}
		// One that begins during a change may never arrive.
		for end := time.Now().Add(time.Second); len(h.Server.Flow(o.Flow).Sources) == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if slices.Contains(h.Server.Flow(o.Flow).Addresses(), want) {
			return flow{o, u, v6}
		}
		o.Stop()
	}
	h.t.Fatalf("none of 200 streams is on %s", u.Name)
	return flow{}
}

// moved waits until a stream of an uplink that has gone arrives from another
// address, and ends it.
func (h *house) moved(what string, f flow, from netip.Addr) {
	h.t.Helper()
	h.until(2*time.Second, fmt.Sprintf("%s: the stream of %s (IPv6 %v) arrives another way", what, f.on.Name, f.v6), func() bool {
		return slices.ContainsFunc(h.Server.Flow(f.Flow).Addresses(), func(a netip.Addr) bool { return a != from })
	})
	r := h.Server.Flow(f.Flow)
	h.t.Logf("moved: %s: %v, outage %.1f ms, lost %d", what, r.Addresses(), ms(r.Outage), r.Lost)
	f.Stop()
}

// whole ends a stream of which nothing may be lost.
func (h *house) whole(what string, f flow) {
	h.t.Helper()
	sent := f.Stop()
	h.until(5*time.Second, fmt.Sprintf("%s: all %d packets of the stream on %s (IPv6 %v) have arrived", what, sent, f.on.Name, f.v6), func() bool {
		return h.Server.Flow(f.Flow).Received == sent
	})
	if r := h.Server.Flow(f.Flow); r.Received != sent || len(r.Addresses()) != 1 {
		h.t.Errorf("%s: stream on %s (IPv6 %v): %d of %d received, from %v; missing %v (one each 2 ms); the kernel: %s", what, f.on.Name, f.v6, r.Received, sent, r.Addresses(), h.Server.Missing(f.Flow), h.Losses())
	}
}

// spread opens new connections of both families: all succeed, and exactly by
// these uplinks.
func (h *house) spread(ctx context.Context, what string, v4, v6 []*lab.Uplink) {
	h.t.Helper()
	for _, wrong := range h.trySpread(ctx, v4, v6) {
		h.t.Errorf("%s: %s", what, wrong)
	}
}

// spreadAgain is spread after an address went and returned. When it goes, the
// kernel ends the masqueraded connections that have it, in the background: on a
// busy computer so late that it meets some of those made after the return.
func (h *house) spreadAgain(ctx context.Context, what string, v4, v6 []*lab.Uplink) {
	h.t.Helper()
	for _, wrong := range h.trySpread(ctx, v4, v6) {
		h.t.Logf("%s: at first: %s", what, wrong)
		h.spread(ctx, what, v4, v6)
	}
}

// trySpread says what is wrong.
func (h *house) trySpread(ctx context.Context, v4, v6 []*lab.Uplink) (wrong []string) {
	for i, uplinks := range [][]*lab.Uplink{v4, v6} {
		if len(uplinks) == 0 {
			continue
		}
		target := internet(i == 1)
		r := lab.Spread(ctx, h.Client(), 40*len(uplinks), lab.To(netip.AddrPortFrom(target.Addr(), lab.PortTCP)))
		want := map[netip.Addr]bool{}
		for _, u := range uplinks {
			want[addressOf(u, i == 1)] = true
		}
		bad := r.Errors > 0 || len(r.Sources) != len(want)
		for a := range r.Sources {
			bad = bad || !want[a]
		}
		if bad {
			wrong = append(wrong, fmt.Sprintf("new connections to %v by %v, wanted exactly %v; %d errors %v", target.Addr(), r.Sources, want, r.Errors, r.Samples))
		}
	}
	return wrong
}

// bystanders is traffic on uplinks that are well all the time: nothing of it
// may notice anything. There are new connections on all uplinks, too.
type bystanders struct {
	h       *house
	safe    []*lab.Uplink
	streams *lab.Streams
	churn   *lab.Churn
	flows   []flow
}

func (h *house) bystanders(ctx context.Context, safe ...*lab.Uplink) *bystanders {
	h.t.Helper()
	b := &bystanders{h: h, safe: safe}
	targets := func(i int) (lab.Socket, netip.AddrPort) {
		return lab.Socket{}, netip.AddrPortFrom(internet(i%2 == 1).Addr(), lab.PortTCP)
	}
	for range 20 { // until chance has put some on every uplink
		var err error
		if b.streams, err = lab.StartStreams(ctx, h.Client(), 60, targets, lab.StreamOptions{Interval: 20 * time.Millisecond}); err != nil {
			h.t.Fatal(err)
		}
		on := b.streams.Report().Sources
		if !slices.ContainsFunc(safe, func(u *lab.Uplink) bool { return on[addressOf(u, false)] == 0 || on[addressOf(u, true)] == 0 }) {
			break
		}
		h.t.Logf("not one of 60 connections on some uplink: %v", b.streams.Stop())
	}
	for _, u := range safe {
		b.flows = append(b.flows, h.flowOn(ctx, u, false), h.flowOn(ctx, u, true))
	}
	b.churn = lab.StartChurn(ctx, h.Client(), 4, 5*time.Millisecond, targets)
	return b
}

func (b *bystanders) check() {
	b.h.t.Helper()
	churn, streams := b.churn.Stop(), b.streams.Stop()
	b.h.t.Logf("long connections: %s", streams)
	b.h.t.Logf("new connections: %s", churn)
	for _, u := range b.safe {
		for _, v6 := range []bool{false, true} {
			a := addressOf(u, v6)
			if n := streams.ByAddr[a]; n > 0 {
				b.h.t.Errorf("%d of %d long connections on %s broke: %v", n, streams.Sources[a], a, streams.Samples)
			}
			if n := churn.ByAddr[a]; n > 0 {
				b.h.t.Errorf("%d new connections on %s failed: %v", n, a, churn.Samples)
			}
			if streams.Sources[a] == 0 {
				b.h.t.Errorf("no long connection on %s", a)
			}
		}
	}
	for _, f := range b.flows {
		b.h.whole("bystander", f)
	}
}

// event is something that happens to one uplink and is over again.
type event struct {
	name       string
	gone, back func() error
	on4, on6   bool // that family goes on meanwhile
}

// happens lets an event happen to an uplink and asserts what becomes of its
// connections, and of new ones.
func (h *house) happens(ctx context.Context, u *lab.Uplink, e event) {
	h.t.Helper()
	others := slices.DeleteFunc(slices.Clone(h.Uplinks), func(o *lab.Uplink) bool { return o == u })
	during4, during6 := others, others
	if e.on4 {
		during4 = h.Uplinks
	}
	if e.on6 {
		during6 = h.Uplinks
	}
	four, six := h.flowOn(ctx, u, false), h.flowOn(ctx, u, true)
	from4, from6 := addressOf(u, false), addressOf(u, true)
	h.follow(ctx, e.name+": gone", e.gone, during4, during6)
	if !e.on4 {
		h.moved(e.name, four, from4)
	}
	if !e.on6 {
		h.moved(e.name, six, from6)
	}
	h.spread(ctx, e.name+": gone", during4, during6)
	h.follow(ctx, e.name+": back", e.back, h.Uplinks, h.Uplinks)
	h.spreadAgain(ctx, e.name+": back", h.Uplinks, h.Uplinks)
	if e.on4 {
		h.whole(e.name, four)
	}
	if e.on6 {
		h.whole(e.name, six)
	}
}

// autoConfig is a configuration in which everything is learned that can be.
func autoConfig(h *house) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s[router]\nlan = [%q]\n", rig.LinksOnly, h.LAN)
	for _, u := range h.Uplinks {
		fmt.Fprintf(&b, "[uplink.%s]\ninterface = %q\ngateway = \"auto\"\n", u.Name, u.Interface)
		if h.Switch != nil { // link-local gateways do not tell whose addresses are whose
			fmt.Fprintf(&b, "gateway6 = %q\naddresses = [%q, %q]\n", u.Gateway6, u.Address.Addr(), u.Address6.Addr())
		}
	}
	return b.String()
}

// lease4 and lease6 are the default routes that DHCP client and router
// advertisement leave in table main.
func lease4(u *lab.Uplink) lab.Route {
	return lab.Route{Gateway: u.Gateway, Interface: u.Interface, Metric: 100 + u.ID, Protocol: unix.RTPROT_DHCP}
}

func lease6(u *lab.Uplink) lab.Route {
	return lab.Route{Gateway: u.Gateway6, Interface: u.Interface, Metric: 100 + u.ID, Protocol: unix.RTPROT_RA}
}

// TestInterfaceGoesAndReturns: what can happen to an interface.
func TestInterfaceGoesAndReturns(t *testing.T) {
	for name, auto := range map[string]bool{"gateway written": false, "gateway auto": true} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: auto})
			text := rig.Config(h.Topology, nil)
			if auto {
				text = autoConfig(h)
			}
			h.start(ctx, text)
			healthy, u := h.Uplinks[0], h.Uplinks[1]
			elsewhere, err := lab.NewNS("elsewhere")
			if err != nil {
				t.Fatal(err)
			}
			defer elsewhere.Close()
			router := h.Topology.Router
			// When the last IPv6 address of an interface goes, the kernel's masquerade
			// takes another interface's, until the agent has followed. Answers would come
			// by the other uplink, and the end of such a connection look like that of a
			// bystander.
			if err := u.Provider.Refuse(netip.PrefixFrom(healthy.Address6.Addr(), 128)); err != nil {
				t.Fatal(err)
			}
			b := h.bystanders(ctx, healthy)
			for _, e := range []event{
				{name: "unplugged", gone: u.Unplug, back: u.Plug},
				{name: "replaced by one with another address", gone: u.Unplug, back: func() error {
					u.Address = netip.PrefixFrom(u.Address.Addr().Next(), u.Address.Bits())
					return u.Plug()
				}},
				{name: "carrier", gone: func() error { return u.Carrier(false) }, back: func() error { return u.Carrier(true) }},
				{name: "switched off", gone: func() error { return router.Down(u.Interface) }, back: func() error {
					// IPv4 addresses stay, IPv6 addresses and routes do not.
					return errors.Join(router.Up(u.Interface), router.WaitRunning(u.Interface), router.AddAddr(u.Interface, u.Address6), u.Lease())
				}},
				// Switched off meanwhile, as kernels before 6.2 want it: the kernel
				// routes by index and the rules know names, so with a name that no rule
				// knows new connections leave un-NATed until the agent has followed.
				{name: "renamed", gone: func() error { return errors.Join(router.Down(u.Interface), router.Rename(u.Interface, "wan9")) }, back: func() error {
					return errors.Join(router.Up("wan9"), router.Rename("wan9", u.Interface), router.WaitRunning(u.Interface),
						router.AddAddr(u.Interface, u.Address6), u.Lease())
				}},
				{name: "moved to another namespace", gone: func() error { return router.Move(u.Interface, elsewhere) }, back: func() error {
					return errors.Join(elsewhere.Move(u.Interface, router), router.Up(u.Interface), router.AddAddr(u.Interface, u.Address),
						router.AddAddr(u.Interface, u.Address6), router.WaitRunning(u.Interface), u.Lease())
				}},
				{name: "IPv4 address", on6: true, gone: func() error { return router.DelAddr(u.Interface, u.Address) }, back: func() error {
					return errors.Join(router.AddAddr(u.Interface, u.Address), u.Lease())
				}},
				{name: "IPv6 address", on4: true, gone: func() error { return router.DelAddr(u.Interface, u.Address6) }, back: func() error {
					return errors.Join(router.AddAddr(u.Interface, u.Address6), u.Lease())
				}},
			} {
				h.happens(ctx, u, e)
			}
			b.check()
			h.unchanged()
		})
	}
}

// TestGatewayAuto: DHCP clients and router advertisements change their mind.
func TestGatewayAuto(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: true})
	healthy, u := h.Uplinks[0], h.Uplinks[1]
	router := h.Topology.Router
	// Otherwise the provider would lose a new gateway in the old one's subnet
	// together with the old one.
	if err := u.Provider.NS.Sysctl("net/ipv4/conf/all/promote_secondaries", "1"); err != nil {
		t.Fatal(err)
	}
	// The router's own resets, for connections that have just ended, have their
	// uplink's address and for some milliseconds find only the other's way.
	both := func(f func(lab.Route) error) func() error {
		return func() error { return errors.Join(f(lease4(u)), f(lease6(u))) }
	}
	// The lease comes after the agent.
	if err := both(router.DelRoute)(); err != nil {
		t.Fatal(err)
	}
	h.start(ctx, autoConfig(h))
	h.follow(ctx, "no lease yet", func() error { return nil }, h.Uplinks[:1], h.Uplinks[:1])
	h.spread(ctx, "no lease yet", h.Uplinks[:1], h.Uplinks[:1])
	h.follow(ctx, "first lease", both(router.AddRoute), h.Uplinks, h.Uplinks)
	h.spread(ctx, "first lease", h.Uplinks, h.Uplinks)

	b := h.bystanders(ctx, healthy)
	for _, e := range []event{
		{name: "lease", gone: both(router.DelRoute), back: both(router.AddRoute)},
		{name: "default route", on6: true, gone: func() error { return router.DelRoute(lease4(u)) }, back: func() error { return router.AddRoute(lease4(u)) }},
		{name: "router advertisement", on4: true, gone: func() error { return router.DelRoute(lease6(u)) }, back: func() error { return router.AddRoute(lease6(u)) }},
	} {
		h.happens(ctx, u, e)
	}
	for _, c := range []struct{ name, address, gateway string }{
		{"another gateway", "24.19.12.45/24", "24.19.12.254"},
		{"another address", "24.19.12.46/24", "24.19.12.254"},
		{"another subnet", "24.20.0.7/22", "24.20.3.1"},
		{"another address and gateway", "24.20.0.8/22", "24.20.3.2"},
	} {
		four, six := h.flowOn(ctx, u, false), h.flowOn(ctx, u, true)
		old := u.Address.Addr()
		// Until the agent has followed, streams go on with the old address.
		was := netip.PrefixFrom(old, 32)
		if err := errors.Join(u.Provider.Allow(was), healthy.Provider.Allow(was)); err != nil {
			t.Fatal(err)
		}
		h.follow(ctx, c.name, func() error {
			return u.Renumber(netip.MustParsePrefix(c.address), netip.MustParseAddr(c.gateway))
		}, h.Uplinks, h.Uplinks)
		if u.Address.Addr() != old {
			h.moved(c.name, four, old)
		} else {
			r := h.Server.Flow(four.Flow)
			h.until(2*time.Second, c.name+": the stream goes on", func() bool { return h.Server.Flow(four.Flow).Received > r.Received+10 })
			four.Stop()
		}
		h.whole(c.name, six)
		h.spread(ctx, c.name, h.Uplinks, h.Uplinks)
		if s, err := h.Status(ctx); err != nil || !slices.ContainsFunc(s.Uplinks, func(s api.UplinkStatus) bool {
			return s.Name == u.Name && s.Gateway != nil && *s.Gateway == u.Gateway && slices.Contains(s.Addresses, u.Address.Addr())
		}) {
			t.Errorf("%s: status %+v, %v", c.name, s.Uplinks, err)
		}
	}
	b.check()
	h.unchanged()
}

// TestInterfaceComesLate: an interface that the configuration names and that
// does not exist yet.
func TestInterfaceComesLate(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	healthy, u := h.Uplinks[0], h.Uplinks[1]
	if err := u.Unplug(); err != nil {
		t.Fatal(err)
	}
	h.start(ctx, rig.Config(h.Topology, nil))
	h.follow(ctx, "missing at the start", func() error { return nil }, h.Uplinks[:1], h.Uplinks[:1])
	b := h.bystanders(ctx, healthy)
	h.follow(ctx, "comes late", u.Plug, h.Uplinks, h.Uplinks)
	h.spread(ctx, "comes late", h.Uplinks, h.Uplinks)
	b.check()
	h.unchanged()
}

// TestAllGone: with every uplink gone connections wait; the first one that
// returns carries all.
func TestAllGone(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	one, two := h.Uplinks[0], h.Uplinks[1]
	for _, c := range []struct {
		name       string
		gone, back func(*lab.Uplink) error
	}{
		{"carrier", func(u *lab.Uplink) error { return u.Carrier(false) }, func(u *lab.Uplink) error { return u.Carrier(true) }},
		{"unplugged", (*lab.Uplink).Unplug, (*lab.Uplink).Plug},
	} {
		a, b := h.flowOn(ctx, one, false), h.flowOn(ctx, two, false)
		a6, b6 := h.flowOn(ctx, one, true), h.flowOn(ctx, two, true)
		h.follow(ctx, c.name+": one gone", func() error { return c.gone(one) }, h.Uplinks[1:], h.Uplinks[1:])
		h.moved(c.name, a, one.Address.Addr())
		h.moved(c.name, a6, one.Address6.Addr())
		h.follow(ctx, c.name+": both gone", func() error { return c.gone(two) }, nil, nil)
		h.follow(ctx, c.name+": one back", func() error { return c.back(one) }, h.Uplinks[:1], h.Uplinks[:1])
		h.moved(c.name, b, two.Address.Addr())
		h.moved(c.name, b6, two.Address6.Addr())
		h.spread(ctx, c.name+": one back", h.Uplinks[:1], h.Uplinks[:1])
		h.follow(ctx, c.name+": both back", func() error { return c.back(two) }, h.Uplinks, h.Uplinks)
		h.spread(ctx, c.name+": both back", h.Uplinks, h.Uplinks)
		h.unchanged()
	}
}

// TestOneNIC: three gateways on one interface; one of them goes and returns,
// and then the interface.
func TestOneNIC(t *testing.T) {
	for name, auto := range map[string]bool{"gateway written": false, "gateway auto": true} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, lab.NewSingleNIC, lab.Options{DefaultRoutes: auto})
			text := rig.Config(h.Topology, nil)
			if auto {
				text = autoConfig(h)
			}
			h.start(ctx, text)
			router := h.Topology.Router
			u := h.Uplinks[1]
			b := h.bystanders(ctx, h.Uplinks[0], h.Uplinks[2])
			events := []event{
				{name: "IPv4 address", on6: true, gone: func() error { return router.DelAddr(u.Interface, u.Address) }, back: func() error {
					return errors.Join(router.AddAddr(u.Interface, u.Address), u.Lease())
				}},
				{name: "IPv6 address", on4: true, gone: func() error { return router.DelAddr(u.Interface, u.Address6) }, back: func() error {
					return router.AddAddr(u.Interface, u.Address6)
				}},
				{name: "both addresses", gone: func() error {
					return errors.Join(router.DelAddr(u.Interface, u.Address), router.DelAddr(u.Interface, u.Address6))
				}, back: func() error {
					return errors.Join(router.AddAddr(u.Interface, u.Address), router.AddAddr(u.Interface, u.Address6), u.Lease())
				}},
			}
			if auto {
				events = append(events, event{name: "default route", on6: true, gone: func() error { return router.DelRoute(lease4(u)) },
					back: func() error { return router.AddRoute(lease4(u)) }})
			}
			for _, e := range events {
				h.happens(ctx, u, e)
			}
			b.check()

			targets := lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP))
			streams, err := lab.StartStreams(ctx, h.Client(), 30, targets, lab.StreamOptions{Interval: 20 * time.Millisecond, Timeout: 20 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			h.follow(ctx, "carrier gone", func() error { return u.Carrier(false) }, nil, nil)
			h.follow(ctx, "carrier back", func() error { return u.Carrier(true) }, h.Uplinks, h.Uplinks)
			h.spread(ctx, "carrier back", h.Uplinks, h.Uplinks)
			if r := streams.Stop(); r.Broken > 0 {
				t.Errorf("a short loss of the only carrier broke connections: %s", r)
			}
			h.follow(ctx, "switched off", func() error { return router.Down(u.Interface) }, nil, nil)
			h.follow(ctx, "switched on", func() error {
				err := errors.Join(router.Up(u.Interface), router.WaitRunning(u.Interface))
				for _, u := range h.Uplinks {
					err = errors.Join(err, router.AddAddr(u.Interface, u.Address6), u.Lease())
				}
				return err
			}, h.Uplinks, h.Uplinks)
			h.spread(ctx, "switched on", h.Uplinks, h.Uplinks)
			h.unchanged()
		})
	}
}

// TestPointToPoint: a PPP-like uplink without gateway beside an Ethernet one.
func TestPointToPoint(t *testing.T) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip("PPP takes a TUN:", err)
	}
	must(t, f.Close())
	for _, gateway := range []string{"none", "auto"} {
		t.Run("gateway "+gateway, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{Wires: map[int]lab.WireKind{2: lab.TUN}})
			ethernet, u := h.Uplinks[0], h.Uplinks[1]
			text := rig.LinksOnly + fmt.Sprintf("[router]\nlan = [%q]\n[uplink.dsl]\ninterface = %q\ngateway = %q\ngateway6 = %q\n[uplink.ppp]\ninterface = %q\ngateway = %q\ngateway6 = %q\n",
				h.LAN, ethernet.Interface, ethernet.Gateway, ethernet.Gateway6, u.Interface, gateway, gateway)
			u.Name = "ppp"
			h.start(ctx, text)
			h.follow(ctx, "start", func() error { return nil }, h.Uplinks, h.Uplinks)
			h.spread(ctx, "start", h.Uplinks, h.Uplinks)
			b := h.bystanders(ctx, ethernet)
			h.happens(ctx, u, event{name: "hung up", gone: u.Unplug, back: u.Plug})
			if gateway == "auto" {
				// pppd writes a default route: nothing changes.
				h.follow(ctx, "default route", func() error {
					return errors.Join(h.Topology.Router.AddRoute(lab.Route{Interface: u.Interface}),
						h.Topology.Router.AddRoute(lab.Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Interface: u.Interface}))
				}, h.Uplinks, h.Uplinks)
				h.spread(ctx, "default route", h.Uplinks, h.Uplinks)
			}
			b.check()
			h.unchanged()
		})
	}
}
