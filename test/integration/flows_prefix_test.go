//go:build linux

package integration

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// TestFlowsByPrefix: who is NATed by prefix is listed with the address that the
// server sees, who leaves as it is without NAT, and all that a client does, which
// its policy keeps on one uplink, on that uplink.
func TestFlowsByPrefix(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{ClientAddresses: 6})
			own := netip.PrefixFrom(h.Uplinks[0].Delegated.Addr(), 64)
			host := own.Addr().Next().Next()
			must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(host, 64)))
			must(t, h.Topology.Router.AddAddr(h.LAN, netip.PrefixFrom(own.Addr().Next(), 64)))
			for _, u := range h.Uplinks {
				must(t, h.Topology.Router.AddRoute(leased(u)))
			}
			h.start(ctx, prefixConfig(h, "\n[policy.default]\nsticky = \"source\"\n"))
			clients := []netip.Addr{host}
			for i := range 6 {
				four, six := lab.ClientAddress(i)
				clients = append(clients, four, six)
			}
			used := map[string]int{}
			for _, from := range clients {
				on := map[string]bool{}
				for range 2 {
					o, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{Local: netip.AddrPortFrom(from, 0)}, internet(from.Is6()), 2*time.Millisecond)
					must(t, err)
					h.until(2*time.Second, "a stream arrives", func() bool { return len(h.Server.Flow(o.Flow).Sources) > 0 })
					for seen := range h.Server.Flow(o.Flow).Sources {
						i := slices.IndexFunc(h.Uplinks, func(u *lab.Uplink) bool {
							return u.Delegated.Contains(seen.Addr()) || !from.Is6() && addressOf(u, false) == seen.Addr()
						})
						if i < 0 {
							t.Fatalf("%s is seen as %s", from, seen)
						}
						u := h.Uplinks[i]
						on[u.Name] = true
						all := h.flows(u.Name)
						if !slices.ContainsFunc(all, func(f api.Flow) bool {
							outside := f.NAT
							if seen.Addr() == from {
								if outside != nil {
									return false
								}
								outside = &f.Source
							}
							return f.Source.Address == from && outside != nil && outside.Address == seen.Addr() && outside.Port != nil && *outside.Port == seen.Port()
						}) {
							t.Errorf("the stream of %s that the server gets from %s by %s is not there:\n%s", from, seen, u.Name, written(all))
						}
					}
					o.Stop()
				}
				if len(on) != 1 {
					t.Errorf("%s is on %v", from, slices.Collect(maps.Keys(on)))
				}
				for u := range on {
					used[u]++
				}
			}
			t.Logf("clients: %v", used)
			if len(used) < 2 {
				t.Errorf("all clients are on one uplink: %v", used)
			}
		})
	}
}
