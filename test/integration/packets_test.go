//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// only asserts that n connections from ns to a target were all seen with one
// address.
func only(ctx context.Context, t *testing.T, what string, ns *lab.NS, to lab.Target, n int, want netip.Addr) {
	t.Helper()
	r := lab.Spread(ctx, ns, n, to)
	if r.Errors > 0 || r.Sources[want] != n {
		t.Errorf("%s: wanted %d connections from %s, the server saw %s", what, n, want, r)
	}
}

// bound is a target for sockets bound to an own address.
func bound(from netip.Addr, to netip.AddrPort) lab.Target {
	return func(int) (lab.Socket, netip.AddrPort) { return lab.Socket{Local: netip.AddrPortFrom(from, 0)}, to }
}

// TestPins: a provider's DNS server and listed destinations are reached
// through their uplink only, by clients and by the router itself.
func TestPins(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	dsl, cable := h.Uplinks[0], h.Uplinks[1]
	conf := func(i int) string {
		u := h.Uplinks[i]
		return fmt.Sprintf("dns = [%q, %q]\n", u.DNS, u.DNS6)
	}
	h.start(ctx, uplinkTablesWith(h, []int{0, 1}, []int{1, 1}, func(i int) string {
		if i == 1 {
			return conf(i) + "destinations = [\"10.0.0.0/8\"]\n"
		}
		return conf(i)
	}))
	for _, from := range []*lab.NS{h.Client(), h.Topology.Router} {
		for _, u := range []*lab.Uplink{dsl, cable} {
			only(ctx, t, from.Name+" to the DNS server of "+u.Name, from, lab.To(netip.AddrPortFrom(u.DNS, lab.PortTCP)), 20, u.Address.Addr())
			only(ctx, t, from.Name+" to the IPv6 DNS server of "+u.Name, from, lab.To(netip.AddrPortFrom(u.DNS6, lab.PortTCP)), 20, u.Address6.Addr())
		}
		only(ctx, t, from.Name+" to 10.1.2.3", from, lab.To(netip.AddrPortFrom(cable.Private, lab.PortTCP)), 20, cable.Address.Addr())
	}
}

// uplinkTablesWith is uplinkTables with more keys for each uplink.
func uplinkTablesWith(h *house, order, weights []int, more func(i int) string, rest ...string) string {
	text := fmt.Sprintf("%s[router]\nlan = [%q]\n", rig.LinksOnly, h.LAN)
	for k, i := range order {
		u := h.Uplinks[i]
		text += fmt.Sprintf("[uplink.%s]\ninterface = %q\ngateway = %q\ngateway6 = %q\nweight = %d\n%s", u.Name, u.Interface, u.Gateway, u.Gateway6, weights[k], more(i))
		if h.Switch != nil {
			text += fmt.Sprintf("addresses = [%q, %q]\n", u.Address.Addr(), u.Address6.Addr())
		}
	}
	for _, r := range rest {
		text += r
	}
	return text
}

// TestBoundSockets: a socket bound to an uplink's address uses that uplink.
func TestBoundSockets(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			for _, u := range h.Uplinks {
				only(ctx, t, u.Name, h.Topology.Router, bound(u.Address.Addr(), netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)), 20, u.Address.Addr())
				only(ctx, t, u.Name+" IPv6", h.Topology.Router, bound(u.Address6.Addr(), netip.AddrPortFrom(lab.InternetAddress6, lab.PortTCP)), 20, u.Address6.Addr())
			}
		})
	}
}

// TestInbound: port forwards and the router's own services answer by the
// uplink the request came in on; nothing else gets in.
func TestInbound(t *testing.T) {
	for name, topology := range topologies {
		for _, lanOnNIC := range []bool{false, true} {
			if lanOnNIC && name != "one NIC" {
				continue
			}
			t.Run(fmt.Sprintf("%s, LAN on it: %v", name, lanOnNIC), func(t *testing.T) {
				ctx := deadline(t, time.Minute)
				h := newHouse(t, topology, lab.Options{LANOnNIC: lanOnNIC})
				client4, client6 := lab.ClientAddress(0)
				behind, err := lab.NewServer(h.Client())
				if err != nil {
					t.Fatal(err)
				}
				defer behind.Close()
				own, err := lab.NewServer(h.Topology.Router)
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				h.start(ctx, uplinkTablesWith(h, []int{0, 1}, []int{1, 1}, func(int) string { return "" },
					fmt.Sprintf("\n[[port_forward]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 8000\nto = \"%s:80\"\n", client4),
					fmt.Sprintf("\n[[port_forward]]\nname = \"web6\"\nprotocol = \"tcp\"\nport = 8000\nto = \"[%s]:80\"\n", client6),
					fmt.Sprintf("\n[[port_forward]]\nname = \"first-only\"\nprotocol = \"tcp\"\nport = 8001\nto = \"%s:80\"\nuplinks = [%q]\n", client4, h.Uplinks[0].Name)))
				for i, u := range h.Uplinks[:2] {
					for _, a := range []netip.Addr{u.Address.Addr(), u.Address6.Addr()} {
						from := lab.InternetAddress
						if a.Is6() {
							from = lab.InternetAddress6
						}
						// The server behind the router sees the client's own address.
						only(ctx, t, "port forward at "+a.String(), h.Internet, bound(from, netip.AddrPortFrom(a, 8000)), 20, from)
						only(ctx, t, "the router's service at "+a.String(), h.Internet, bound(from, netip.AddrPortFrom(a, lab.PortTCP)), 20, from)
					}
					r := lab.Spread(ctx, h.Internet, 1, lab.To(netip.AddrPortFrom(u.Address.Addr(), 8001)))
					if i == 0 && r.Errors > 0 || i == 1 && r.Errors == 0 {
						t.Errorf("port forward of %s only, asked at %s: %s", h.Uplinks[0].Name, u.Name, r)
					}
				}
				// Somebody at a provider sends to the LAN directly.
				attacker := h.Uplinks[0].Provider.NS
				for _, p := range []struct{ to, via netip.Addr }{{client4, h.Uplinks[0].Address.Addr()}, {client6, h.Uplinks[0].Address6.Addr()}} {
					if err := attacker.AddRoute(lab.Route{Dst: netip.PrefixFrom(p.to, p.to.BitLen()), Gateway: p.via}); err != nil {
						t.Fatal(err)
					}
					short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
					if c, err := lab.Connect(short, attacker, lab.Socket{}, netip.AddrPortFrom(p.to, lab.PortTCP)); err == nil {
						c.Close()
						t.Errorf("somebody at the provider reached %s", p.to)
					}
					cancel()
				}
			})
		}
	}
}

// TestLANOnNIC: clients on the very NIC of the uplinks are served as others.
func TestLANOnNIC(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewSingleNIC, lab.Options{LANOnNIC: true})
	h.start(ctx, rig.Config(h.Topology, []int{3, 1, 1}))
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(lab.InternetAddress, 80), netip.AddrPortFrom(lab.InternetAddress6, 80)} {
		checkSpread(t, h.Topology, []int{3, 1, 1}, to.Addr().Is6(), lab.Spread(ctx, h.Client(), connections, lab.To(to)))
	}
}

// TestServerOnly: a machine with several gateways and no LAN serves itself.
func TestServerOnly(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewSingleNIC, lab.Options{})
	h.LAN = ""
	weights := []int{3, 1, 1}
	h.start(ctx, rig.Config(h.Topology, weights))
	checkSpread(t, h.Topology, weights, false, lab.Spread(ctx, h.Topology.Router, connections, lab.To(netip.AddrPortFrom(lab.InternetAddress, 80))))
	checkSpread(t, h.Topology, weights, true, lab.Spread(ctx, h.Topology.Router, connections, lab.To(netip.AddrPortFrom(lab.InternetAddress6, 80))))
}
