package routes

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// neighbourOf makes an address known by a MAC that nobody has.
func neighbourOf(t *testing.T, ns *lab.NS, iface, ip string) {
	t.Helper()
	link, err := ns.Link(iface)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: unix.NUD_REACHABLE, IP: addr(ip).AsSlice(),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}); err != nil {
		t.Fatal(err)
	}
}

// TestFailedNeighbours: a gateway that does not answer is reported without
// asking, stays in the list while it is tried again, and leaves it when it
// answers or is forgotten.
func TestFailedNeighbours(t *testing.T) {
	for _, tt := range []struct{ name, gateway, proc, local string }{
		{"IPv4", "198.18.1.77", "net/ipv4/neigh/eth1/", "198.18.1.2"},
		{"IPv6", "2001:db8:1::77", "net/ipv6/neigh/eth1/", "2001:db8:1::2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			gateway, index := addr(tt.gateway), w.index("eth1")
			events := make(chan struct{}, 1000)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- w.ns.Do(func() error {
					return Watch(ctx, func(a netip.Addr) bool { return a == gateway }, w.k.NeighbourFailed, func() { events <- struct{}{} })
				})
			}()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			<-events // the start
			sysctl := func(key, value string) {
				t.Helper()
				if err := w.ns.Sysctl(tt.proc+key, value); err != nil {
					t.Fatal(err)
				}
			}
			sysctl("mcast_solicit", "1")
			sysctl("retrans_time_ms", "20")
			knock := func() {
				t.Helper()
				conn, err := w.ns.DialUDP(lab.Socket{Local: netip.AddrPortFrom(addr(tt.local), 0)}, netip.AddrPortFrom(gateway, 9))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = conn.Write([]byte("x")) // what it says does not matter
			}
			in := func(list []Neighbour) bool {
				return slices.ContainsFunc(list, func(n Neighbour) bool { return n.Index == index && n.Addr == gateway })
			}
			facts := func() (known, failed bool) {
				t.Helper()
				f, err := w.k.Facts()
				if err != nil {
					t.Fatal(err)
				}
				return in(f.Neighbours), in(f.FailedNeighbours)
			}
			// until waits for an event after which the gateway is in these lists.
			until := func(what string, wantKnown, wantFailed bool) {
				t.Helper()
				limit := time.After(5 * time.Second)
				for {
					select {
					case <-events:
					case <-limit:
						known, failed := facts()
						t.Fatalf("%s was not reported: known %t, failed %t", what, known, failed)
					}
					if known, failed := facts(); known == wantKnown && failed == wantFailed {
						return
					}
				}
			}
			state := func() int {
				t.Helper()
				list, err := w.ns.Handle().NeighList(index, int(FamilyOf(gateway)))
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range list {
					if a, _ := netip.AddrFromSlice(n.IP); a == gateway {
						return n.State
					}
				}
				return 0
			}

			if known, failed := facts(); known || failed {
				t.Errorf("before anybody tried: known %t, failed %t", known, failed)
			}
			knock()
			until("that it failed", false, true)

			sysctl("retrans_time_ms", "60000")
			knock()
			if s := state(); s != unix.NUD_INCOMPLETE {
				t.Fatalf("state %#x: it is not tried again", s)
			}
			if known, failed := facts(); known || !failed {
				t.Errorf("while it is tried again: known %t, failed %t", known, failed)
			}
			neighbourOf(t, w.ns, "eth1", tt.gateway)
			until("that it answers", true, false)
			if err := w.ns.Handle().NeighDel(&netlink.Neigh{LinkIndex: index, IP: gateway.AsSlice()}); err != nil {
				t.Fatal(err)
			}
			until("that it was deleted", false, false)
			knock()
			if s := state(); s != unix.NUD_INCOMPLETE {
				t.Fatalf("state %#x: it is not tried", s)
			}
			if known, failed := facts(); known || failed {
				t.Errorf("while it is tried for the first time: known %t, failed %t", known, failed)
			}
			w.k.NeighbourFailed(index, gateway) // as if it had failed just before
			if known, failed := facts(); known || !failed {
				t.Errorf("while it is tried again at once: known %t, failed %t", known, failed)
			}
		})
	}
}
