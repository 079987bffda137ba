//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"multiroute/test/lab"
)

// TestRouted: sources that may leave un-NATed do so, over IPv6 only by the
// uplink that routes them, by others they are NATed; and nobody reaches them
// unasked.
func TestRouted(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	dsl, cable := h.Uplinks[0], h.Uplinks[1]
	public, public6 := netip.MustParsePrefix("203.0.113.8/29"), netip.PrefixFrom(dsl.Delegated.Addr(), 64)
	host, host6 := netip.MustParseAddr("203.0.113.10"), public6.Addr().Next().Next()
	must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(host, 29)))
	must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(host6, 64)))
	must(t, h.Topology.Router.AddAddr(h.LAN, netip.MustParsePrefix("203.0.113.9/29")))
	must(t, h.Topology.Router.AddAddr(h.LAN, netip.PrefixFrom(public6.Addr().Next(), 64)))
	for _, u := range h.Uplinks {
		must(t, u.Provider.Allow(public))
	}
	// The IPv4 prefix is announced by dsl.
	must(t, dsl.Provider.NS.AddRoute(lab.Route{Dst: public, Gateway: dsl.Address.Addr()}))
	back, err := h.Internet.Handle().RouteGet(dsl.Address.Addr().AsSlice())
	must(t, err)
	via, _ := netip.AddrFromSlice(back[0].Gw)
	must(t, h.Internet.AddRoute(lab.Route{Dst: public, Gateway: via.Unmap()}))
	server, err := lab.NewServer(h.Client())
	must(t, err)
	defer server.Close()

	text := uplinkTablesWith(h, []int{0, 1}, []int{1, 1}, func(i int) string {
		if i == 0 {
			return "ipv6 = \"routed\"\n"
		}
		return ""
	})
	text = strings.Replace(text, "[router]\n", fmt.Sprintf("[router]\nrouted = [%q, %q]\n", public, public6), 1)
	h.start(ctx, text)

	only(ctx, t, "a public IPv4 source", h.Client(), bound(host, netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)), 40, host)
	r := lab.Spread(ctx, h.Client(), 100, bound(host6, netip.AddrPortFrom(lab.InternetAddress6, lab.PortTCP)))
	if r.Errors > 0 || r.Sources[host6] == 0 || r.Sources[cable.Address6.Addr()] == 0 || r.Sources[host6]+r.Sources[cable.Address6.Addr()] != 100 {
		t.Errorf("a public IPv6 source: wanted itself by %s and an address of %s, the server saw %s", dsl.Name, cable.Name, r)
	}
	for _, to := range []netip.Addr{host, host6} {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		if c, err := lab.Connect(short, h.Internet, lab.Socket{}, netip.AddrPortFrom(to, lab.PortTCP)); err == nil {
			c.Close()
			t.Errorf("somebody reached %s unasked", to)
		}
		cancel()
	}
}
