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
			h := newHouse(t, topology, lab.Options{ClientAddresses: 20})
			own := netip.PrefixFrom(h.Uplinks[0].Delegated.Addr(), 64)
			host := own.Addr().Next().Next()
			must(t, h.Client().AddAddr("eth0", netip.PrefixFrom(host, 64)))
			must(t, h.Topology.Router.AddAddr(h.LAN, netip.PrefixFrom(own.Addr().Next(), 64)))
			for _, u := range h.Uplinks {
				must(t, h.Topology.Router.AddRoute(leased(u)))
			}
			h.start(ctx, prefixConfig(h, "\n[policy.default]\nsticky = \"source\"\n"))
			clients := []netip.Addr{host}
			for i := range 20 {
				four, six := lab.ClientAddress(i)
				clients = append(clients, four, six)
			}
			used := map[string]int{}
			for i, from := range clients {
				if i >= 13 && len(used) > 1 {
					break // the others are for when chance has put all so far on one uplink
				}
				on := map[string]bool{}
				for range 2 {
					o, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{Local: netip.AddrPortFrom(from, 0)}, internet(from.Is6()), 2*time.Millisecond)
					must(t, err)
					var sources map[netip.AddrPort]int
					h.until(2*time.Second, "a stream arrives", func() bool {
						sources = h.Server.Flow(o.Flow).Sources
						return slices.ContainsFunc(slices.Collect(maps.Values(sources)), func(n int) bool { return n > 1 })
					})
					for seen, packets := range sources {
						i := slices.IndexFunc(h.Uplinks, func(u *lab.Uplink) bool {
							return u.Delegated.Contains(seen.Addr()) || !from.Is6() && addressOf(u, false) == seen.Addr()
						})
						if i < 0 {
							t.Fatalf("%s is seen as %s", from, seen)
						}
						u := h.Uplinks[i]
						on[u.Name] = true
						if packets == 1 {
							// When two of a stream's first packets are on their way through the router at
							// once, one may leave from another port, and its entry is in no list
							// (nf_ct_resolve_clash_harder, net/netfilter/nf_conntrack_core.c).
							continue
						}
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
