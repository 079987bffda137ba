//go:build linux

package integration

import (
	"net/netip"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// connections is how many each case opens: with so many, chance alone is off by
// 3 points in one of 10^10 cases.
const connections = 12000

// TestSpread: the server sees connections by weight, each with one address,
// and no provider sees an address that is not its customer's.
func TestSpread(t *testing.T) {
	weights := []int{3, 1, 1}
	server := netip.AddrPortFrom(lab.InternetAddress, 80)
	server6 := netip.AddrPortFrom(lab.InternetAddress6, 80)
	for _, c := range []struct {
		name     string
		topology func(lab.Options) (*lab.Topology, error)
	}{{"one NIC per uplink", lab.NewRouter}, {"one NIC", lab.NewSingleNIC}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, c.topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, weights))
			if s, err := h.Status(ctx); err != nil || len(s.Warnings) > 0 {
				t.Errorf("warnings: %q, %v", s.Warnings, err)
			}
			for _, s := range []struct {
				name string
				from *lab.NS
				to   netip.AddrPort
			}{
				{"LAN, IPv4", h.Client(), server}, {"LAN, IPv6", h.Client(), server6},
				{"router, IPv4", h.Topology.Router, server}, {"router, IPv6", h.Topology.Router, server6},
			} {
				t.Run(s.name, func(t *testing.T) {
					report := lab.Spread(ctx, s.from, connections, lab.To(s.to))
					checkSpread(t, h.Topology, weights, s.to.Addr().Is6(), report)
				})
			}
		})
	}
}

// checkSpread compares shares with weights, within 3 points.
func checkSpread(t *testing.T, top *lab.Topology, weights []int, v6 bool, r lab.SpreadReport) {
	t.Helper()
	if r.Errors > 0 {
		t.Errorf("%d connections failed: %v", r.Errors, r.Samples)
	}
	total, seen, weight := 0, 0, 0
	for _, n := range r.Sources {
		total += n
	}
	for i := range top.Uplinks {
		weight += weights[i]
	}
	for i, u := range top.Uplinks {
		address := u.Address.Addr()
		if v6 {
			address = u.Address6.Addr()
		}
		n := r.Sources[address]
		seen += n
		share, want := 100*float64(n)/float64(total), 100*float64(weights[i])/float64(weight)
		t.Logf("%s (%s): %d of %d, %.1f %%, wanted %.1f %%", u.Name, address, n, total, share, want)
		if share < want-3 || share > want+3 {
			t.Errorf("%s carried %.1f %%, wanted %.1f %%", u.Name, share, want)
		}
	}
	if seen != total || total != connections {
		t.Errorf("%d connections, %d of them with an uplink's address, wanted %d: %v", total, seen, connections, r.Sources)
	}
}
