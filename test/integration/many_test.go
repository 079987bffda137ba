//go:build linux

package integration

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestManyUplinks: 64 uplinks all carry their share, connections stay while
// some of them come and go, and the short cuts among the ip rules change
// nothing for a packet.
func TestManyUplinks(t *testing.T) {
	const n = 64
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: n, NoIPv6: true})
	config := func(without ...int) string {
		text := rig.LinksOnly + "[router]\nlan = [\"" + h.LAN + "\"]\n"
		for i, u := range h.Uplinks {
			if slices.Contains(without, i) {
				continue
			}
			text += "[uplink." + u.Name + "]\ninterface = \"" + u.Interface + "\"\ngateway = \"" + u.Gateway.String() + "\"\ngateway6 = \"off\"\ndns = [\"" + u.DNS.String() + "\"]\n"
		}
		return text
	}
	h.start(ctx, config(10, 11, 12, 40))
	if s, err := h.Status(ctx); err != nil || len(s.Warnings) > 0 {
		t.Errorf("warnings: %q, %v", s.Warnings, err)
	}
	to := netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)
	streams, err := lab.StartStreams(ctx, h.Client(), 200, lab.To(to), lab.StreamOptions{Interval: 50 * time.Millisecond})
	must(t, err)
	must(t, h.Reconfigure(ctx, config()))
	r := lab.Spread(ctx, h.Client(), 80*n, lab.To(to))
	if len(r.Sources) != n || r.Errors > 0 {
		t.Errorf("%d of %d uplinks carried something: %s", len(r.Sources), n, r)
	}
	for address, k := range r.Sources {
		if k < 20 || k > 180 { // 80 on average
			t.Errorf("%s carried %d connections", address, k)
		}
	}
	for _, i := range []int{0, 7, 8, 31, 63} {
		u := h.Uplinks[i]
		for _, from := range []*lab.NS{h.Client(), h.Topology.Router} {
			only(ctx, t, from.Name+" to the DNS server of "+u.Name, from, lab.To(netip.AddrPortFrom(u.DNS, lab.PortTCP)), 5, u.Address.Addr())
		}
		only(ctx, t, "bound to "+u.Name, h.Topology.Router, bound(u.Address.Addr(), to), 5, u.Address.Addr())
	}
	must(t, h.Reconfigure(ctx, config(10, 11, 12, 40)))
	already := streams.Report().Pings
	until(t, "the long connections go on", func() bool { return streams.Report().Pings >= already+400 || streams.Report().Broken > 0 })
	if r := streams.Stop(); r.Broken > 0 {
		t.Errorf("long connections: %s", r)
	}
}
