//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// leased does what a DHCPv6 client does with a delegated prefix.
func leased(u *lab.Uplink) lab.Route {
	return lab.Route{Dst: u.Delegated, Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_DHCP, Metric: 1024}
}

// prefixHouse has prefixes delegated, and uplinks that translate to them.
func prefixHouse(ctx context.Context, t *testing.T, topology func(lab.Options) (*lab.Topology, error), o lab.Options, more ...string) *house {
	t.Helper()
	h := newHouse(t, topology, o)
	for _, u := range h.Uplinks {
		must(t, h.Topology.Router.AddRoute(leased(u)))
	}
	h.start(ctx, prefixConfig(h, more...))
	return h
}

func prefixConfig(h *house, more ...string) string {
	return strings.ReplaceAll(rig.Config(h.Topology, nil, more...), "weight = 1\n", "weight = 1\nipv6 = \"prefix\"\n")
}

// outside is the address of a host with an uplink's prefix, in the n-th subnet.
func outside(u *lab.Uplink, n byte, host netip.Addr) netip.Addr {
	prefix, a := u.Delegated.Addr().As16(), host.As16()
	copy(a[:8], prefix[:8])
	a[7] += n
	return netip.AddrFrom16(a)
}

// trySeen says as whom the server sees new connections, if not as these or not
// without errors.
func trySeen(ctx context.Context, ns *lab.NS, n int, from netip.Addr, want ...netip.Addr) (lab.SpreadReport, string) {
	r := lab.Spread(ctx, ns, n*len(want), bound(from, netip.AddrPortFrom(lab.InternetAddress6, lab.PortTCP)))
	bad := r.Errors > 0
	for a := range r.Sources {
		bad = bad || !slices.Contains(want, a)
	}
	if bad {
		return r, fmt.Sprintf("wanted %v, the server saw %s", want, r)
	}
	return r, ""
}

// seen asserts as whom the server sees new connections: as all of these and
// nobody else.
func (h *house) seen(ctx context.Context, what string, ns *lab.NS, from netip.Addr, want ...netip.Addr) {
	h.t.Helper()
	if r, wrong := trySeen(ctx, ns, 40, from, want...); wrong != "" || len(r.Sources) != len(want) {
		h.t.Errorf("%s: wanted exactly %v, the server saw %s", what, want, r)
	}
}

// nowSeen waits until new connections of a host are seen as these and nobody
// else; from then on all of them are.
func (h *house) nowSeen(ctx context.Context, what string, from netip.Addr, want ...netip.Addr) {
	h.t.Helper()
	begin := time.Now()
	h.soon(ctx, 2*time.Second, what, func(ctx context.Context) string {
		_, wrong := trySeen(ctx, h.Client(), 20, from, want...)
		return wrong
	})
	h.t.Logf("%s: after %.0f ms", what, ms(time.Since(begin)))
	h.seen(ctx, what, h.Client(), from, want...)
}

// streamOn starts one-way streams of a host until one is seen as an address.
func (h *house) streamOn(ctx context.Context, from, as netip.Addr) *lab.OneWay {
	h.t.Helper()
	for range 200 {
		o, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{Local: netip.AddrPortFrom(from, 0)}, netip.AddrPortFrom(lab.InternetAddress6, 0), 2*time.Millisecond)
		must(h.t, err)
		h.until(5*time.Second, "a stream arrives", func() bool { return len(h.Server.Flow(o.Flow).Sources) > 0 })
		if slices.Contains(h.Server.Flow(o.Flow).Addresses(), as) {
			return o
		}
		o.Stop()
	}
	h.t.Fatalf("none of 200 streams is seen as %s", as)
	return nil
}

// TestPrefix: every client has its own address by every uplink, replies arrive,
// and nothing comes in unasked; who is in no prefix of a LAN, and the router, is
// masqueraded; port forwards and hairpin work as ever.
func TestPrefix(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			_, server6 := lab.ClientAddress(0)
			_, other6 := lab.ClientAddress(1)
			h := newHouse(t, topology, lab.Options{Clients: 2})
			guest := guests(t, h.Topology.Router)
			far := netip.MustParseAddr("fd77::5")
			must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(far, 128)))
			must(t, h.Topology.Router.AddRoute(lab.Route{Dst: netip.PrefixFrom(far, 64).Masked(), Gateway: server6, Interface: h.LAN}))
			for _, u := range h.Uplinks {
				must(t, h.Topology.Router.AddRoute(leased(u)))
			}
			serve(t, h.Client())
			text := prefixConfig(h, forward("tcp", "8080", "["+server6.String()+"]:80"))
			h.start(ctx, strings.Replace(text, `lan = ["`, `lan = ["guests", "`, 1))

			each := func(f func(u *lab.Uplink) netip.Addr) (all []netip.Addr) {
				for _, u := range h.Uplinks {
					all = append(all, f(u))
				}
				return all
			}
			h.seen(ctx, "a client", h.Client(), server6, each(func(u *lab.Uplink) netip.Addr { return outside(u, 0, server6) })...)
			h.seen(ctx, "another client", h.Clients[1], other6, each(func(u *lab.Uplink) netip.Addr { return outside(u, 0, other6) })...)
			h.seen(ctx, "a client of another LAN", guest, guestClient6.Addr(), each(func(u *lab.Uplink) netip.Addr { return outside(u, 1, guestClient6.Addr()) })...)
			h.seen(ctx, "a client in no prefix of a LAN", h.Client(), far, each(func(u *lab.Uplink) netip.Addr { return u.Address6.Addr() })...)
			h.seen(ctx, "the router", h.Topology.Router, lab.LANAddress6.Addr(), each(func(u *lab.Uplink) netip.Addr { return u.Address6.Addr() })...)

			echo, err := lab.StartUDP(ctx, h.Client(), lab.Socket{}, internet(true), 2*time.Millisecond)
			must(t, err)
			h.until(2*time.Second, "100 replies over UDP", func() bool { return echo.Report().Received > 100 })
			if r := echo.Stop(); r.Lost() > 1 || len(r.Addresses()) != 1 {
				t.Errorf("UDP: %s", r)
			}
			for _, u := range h.Uplinks {
				for _, to := range []netip.Addr{outside(u, 0, server6), server6} {
					nobody(ctx, t, "unasked by "+u.Name, h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress6, 0)}, netip.AddrPortFrom(to, lab.PortTCP))
				}
				to := netip.AddrPortFrom(u.Address6.Addr(), 8080)
				only(ctx, t, "a port forward", h.Internet, bound(lab.InternetAddress6, to), 5, lab.InternetAddress6)
				only(ctx, t, "a port forward, hairpin from another LAN", guest, bound(guestClient6.Addr(), to), 5, guestClient6.Addr())
				only(ctx, t, "a port forward, hairpin from the same LAN", h.Clients[1], bound(other6, to), 5, lab.LANAddress6.Addr())
			}
			for _, u := range h.Uplinks[1:] {
				h.do("uplink", "disable", u.Name)
			}
			u := h.Uplinks[0]
			h.seen(ctx, "one uplink left", h.Client(), server6, outside(u, 0, server6))
			var e api.Explanation
			must(t, h.JSON(&e, "explain", "--json", server6.String(), lab.InternetAddress6.String()+":80"))
			if e.Source == nil || *e.Source != outside(u, 0, server6) || !e.Agrees {
				t.Errorf("explain: %+v", e)
			}
			h.unchanged()
		})
	}
}

// TestPrefixFailover: what was on an uplink that dies goes on by another one,
// with that one's prefix, and returns; what was on the other notices nothing.
func TestPrefixFailover(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := prefixHouse(ctx, t, lab.NewRouter, lab.Options{})
	_, host := lab.ClientAddress(0)
	a, b := h.Uplinks[0], h.Uplinks[1]
	at := func(u *lab.Uplink) netip.Addr { return outside(u, 0, host) }
	for _, event := range []struct {
		name string
		on   func(bool) error
	}{
		{"cable", a.Carrier},
		{"interface", func(on bool) error {
			if on {
				return h.Topology.Router.Up(a.Interface)
			}
			return h.Topology.Router.Down(a.Interface)
		}},
	} {
		dying, safe := h.streamOn(ctx, host, at(a)), h.streamOn(ctx, host, at(b))
		must(t, event.on(false))
		h.until(2*time.Second, event.name+": the stream arrives with the other prefix", func() bool {
			return slices.Contains(h.Server.Flow(dying.Flow).Addresses(), at(b))
		})
		t.Logf("%s: outage %.1f ms", event.name, ms(h.Server.Flow(dying.Flow).Outage))
		h.seen(ctx, event.name+": out", h.Client(), host, at(b))
		must(t, event.on(true))
		must(t, a.Lease())
		if event.name == "interface" { // with it went its IPv6 addresses
			must(t, h.Topology.Router.AddAddr(a.Interface, a.Address6))
		}
		h.soon(ctx, 5*time.Second, event.name+": both carry again", func(ctx context.Context) string {
			r, wrong := trySeen(ctx, h.Client(), 20, host, at(a), at(b))
			if wrong == "" && len(r.Sources) < 2 {
				return r.String()
			}
			return wrong
		})
		h.seen(ctx, event.name+": both carry again", h.Client(), host, at(a), at(b))
		dying.Stop()
		sent := safe.Stop()
		h.until(5*time.Second, event.name+": nothing is lost on the other uplink", func() bool {
			r := h.Server.Flow(safe.Flow)
			return r.Received == sent && len(r.Addresses()) == 1
		})
	}
	h.unchanged()
}

// TestPrefixChange: new connections have the new prefix at once, those with the
// old one end, also if nobody saw the change; without one, clients are
// masqueraded; when the uplink is taken out they move to the other one's prefix.
// The other uplink notices nothing.
func TestPrefixChange(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) { prefixChange(t, topology) })
	}
}

func prefixChange(t *testing.T, topology func(lab.Options) (*lab.Topology, error)) {
	ctx := deadline(t, time.Minute)
	h := prefixHouse(ctx, t, topology, lab.Options{Uplinks: 2})
	_, host := lab.ClientAddress(0)
	a, b := h.Uplinks[0], h.Uplinks[1]
	router := h.Topology.Router
	safe := h.streamOn(ctx, host, outside(b, 0, host))
	for i, dead := range []bool{false, true} {
		stream := h.streamOn(ctx, host, outside(a, 0, host))
		old, before := leased(a), outside(a, 0, host)
		if dead {
			must(t, h.End(syscall.SIGKILL))
		}
		settled, err := a.Redelegate(netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%x00::/56", 0xe0+i)))
		must(t, err)
		must(t, router.DelRoute(old))
		must(t, router.AddRoute(leased(a)))
		if dead {
			must(t, h.Run(ctx))
		}
		after, by := outside(a, 0, host), outside(b, 0, host)
		h.nowSeen(ctx, "the new prefix", host, after, by)
		h.until(2*time.Second, "the stream has left the old prefix", func() bool {
			all := h.Server.Flow(stream.Flow).Addresses()
			return slices.Contains(all, after) || slices.Contains(all, by)
		})
		t.Logf("agent dead: %v: stream seen as %v, outage %.1f ms", dead, h.Server.Flow(stream.Flow).Addresses(), ms(h.Server.Flow(stream.Flow).Outage))
		must(t, settled())
		if before == after {
			t.Fatal("no change")
		}
		h.seen(ctx, "with the new prefix", h.Client(), host, after, by)
		stream.Stop()
	}
	stream := h.streamOn(ctx, host, outside(a, 0, host))
	must(t, router.DelRoute(leased(a)))
	h.nowSeen(ctx, "no prefix", host, a.Address6.Addr(), outside(b, 0, host))
	h.until(2*time.Second, "the stream has left the old prefix", func() bool { return len(h.Server.Flow(stream.Flow).Addresses()) > 1 })
	stream.Stop()
	must(t, router.AddRoute(leased(a)))
	h.nowSeen(ctx, "a prefix again", host, outside(a, 0, host), outside(b, 0, host))
	stream = h.streamOn(ctx, host, outside(a, 0, host))
	h.do("uplink", "disable", a.Name)
	h.until(2*time.Second, "the stream has the other prefix", func() bool {
		return slices.Contains(h.Server.Flow(stream.Flow).Addresses(), outside(b, 0, host))
	})
	h.seen(ctx, "one taken out", h.Client(), host, outside(b, 0, host))
	stream.Stop()
	sent := safe.Stop()
	h.until(5*time.Second, "nothing is lost on the other uplink", func() bool {
		r := h.Server.Flow(safe.Flow)
		return r.Received == sent && len(r.Addresses()) == 1
	})
}

// TestPrefixAsItIs: clients that have one uplink's prefix leave it as they are,
// and others with the other's prefix; nobody reaches them unasked; connections
// survive a restart and a lost table.
func TestPrefixAsItIs(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	a, b := h.Uplinks[0], h.Uplinks[1]
	lan := netip.PrefixFrom(a.Delegated.Addr(), 64)
	host := lan.Addr().Next().Next()
	must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(host, 64)))
	must(t, h.Topology.Router.AddAddr(h.LAN, netip.PrefixFrom(lan.Addr().Next(), 64)))
	for _, u := range h.Uplinks {
		must(t, h.Topology.Router.AddRoute(leased(u)))
	}
	serve(t, h.Client())
	h.start(ctx, prefixConfig(h))
	at := outside(b, 0, host)
	_, private := lab.ClientAddress(0)
	h.seen(ctx, "a private address", h.Client(), private, outside(a, 1, private), outside(b, 1, private))
	h.seen(ctx, "the uplink's own", h.Client(), host, host, at)
	stream := h.streamOn(ctx, host, host)
	tcp, err := lab.StartStreams(ctx, h.Client(), 40, bound(host, netip.AddrPortFrom(lab.InternetAddress6, lab.PortTCP)), lab.StreamOptions{Interval: 20 * time.Millisecond})
	must(t, err)
	nobody(ctx, t, "unasked", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress6, 0)}, netip.AddrPortFrom(host, lab.PortTCP))
	must(t, h.End(syscall.SIGKILL))
	must(t, h.Run(ctx))
	if r := tcp.Stop(); r.Broken > 0 || r.Sources[host] == 0 || r.Sources[at] == 0 {
		t.Errorf("TCP: %s", r)
	}
	must(t, b.Provider.Allow(lan)) // without the table there are no marks, and it may leave by either
	h.mended("the whole table", "table", func() error {
		return h.transaction(func(c *nftables.Conn) error { c.DelTable(ourTable); return nil })
	})
	sent := stream.Stop()
	h.until(5*time.Second, "nothing of the stream is lost", func() bool {
		r := h.Server.Flow(stream.Flow)
		return r.Received == sent && len(r.Addresses()) == 1
	})
	h.unchanged()
}

// TestPrefixElsewhere: a route that somebody adds leads connections to another
// uplink; none of them takes its prefix there.
func TestPrefixElsewhere(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := prefixHouse(ctx, t, lab.NewRouter, lab.Options{})
	_, host := lab.ClientAddress(0)
	a, b := h.Uplinks[0], h.Uplinks[1]
	stream := h.streamOn(ctx, host, outside(a, 0, host))
	route := lab.Route{Dst: lab.InternetPrefix6, Gateway: b.Gateway6, Interface: b.Interface}
	must(t, h.Topology.Router.AddRoute(route))
	h.seen(ctx, "by the route", h.Client(), host, outside(b, 0, host))
	n := h.Server.Flow(stream.Flow).Received
	must(t, h.Topology.Router.DelRoute(route))
	h.until(2*time.Second, "the stream goes on", func() bool { return h.Server.Flow(stream.Flow).Received > n+10 })
	stream.Stop()
}

// TestPrefixOfALine: the subnet of a line that leads to this router alone is its
// own, without delegation; whoever would get the router's own address there is
// masqueraded, and the router's services stay its own.
func TestPrefixOfALine(t *testing.T) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip("a line takes a TUN:", err)
	}
	must(t, f.Close())
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 1, Wires: map[int]lab.WireKind{1: lab.TUN}})
	u := h.Uplinks[0]
	_, host := lab.ClientAddress(0)
	twin := netip.MustParseAddr("fd00:1::2") // as the router's 2001:db8:1::2
	must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(twin, 64)))
	must(t, u.Provider.Allow(u.Address6.Masked()))
	serve(t, h.Topology.Router)
	h.start(ctx, strings.Replace(prefixConfig(h), fmt.Sprintf("gateway6 = %q", u.Gateway6), `gateway6 = "none"`, 1))

	line := u.Address6.Masked().Addr().As16()
	own := host.As16()
	copy(own[:8], line[:8])
	h.seen(ctx, "a client", h.Client(), host, netip.AddrFrom16(own))
	h.seen(ctx, "a client with the router's own host part", h.Client(), twin, u.Address6.Addr())
	nobody(ctx, t, "unasked", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress6, 0)}, netip.AddrPortFrom(netip.AddrFrom16(own), lab.PortTCP))
	only(ctx, t, "the router's own service", h.Internet, bound(lab.InternetAddress6, netip.AddrPortFrom(u.Address6.Addr(), lab.PortTCP)), 3, lab.InternetAddress6)
}
