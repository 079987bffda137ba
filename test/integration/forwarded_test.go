//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// forwarded starts a server behind the router that goes on sending to somebody
// on the internet who asked it once, at an uplink's address.
func (h *house) forwarded(ctx context.Context, u *lab.Uplink, port uint16) *lab.OneWay {
	h.t.Helper()
	server, _ := lab.ClientAddress(0)
	somebody := netip.AddrPortFrom(lab.InternetAddress, port)
	ask, err := lab.StartOneWay(ctx, h.Internet, lab.Socket{Local: somebody}, netip.AddrPortFrom(u.Address.Addr(), 9999), 10*time.Millisecond)
	must(h.t, err)
	answers, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{Local: netip.AddrPortFrom(server, 9999)}, somebody, time.Millisecond)
	must(h.t, err)
	time.Sleep(50 * time.Millisecond) // a few of both
	ask.Stop()
	return answers
}

func (h *house) forwarding() string {
	server, _ := lab.ClientAddress(0)
	return rig.Config(h.Topology, nil) + fmt.Sprintf("\n[[port_forward]]\nname = \"udp\"\nprotocol = \"udp\"\nport = 9999\nto = \"%s\"\n", server)
}

// TestForwardedWhileUplinkGoes: what a server behind the router goes on sending
// to somebody who reached it by an uplink that dies never leaves by another
// uplink with the dead one's address, with the agent or without it.
func TestForwardedWhileUplinkGoes(t *testing.T) {
	for _, running := range []bool{true, false} {
		for name, gone := range map[string]func(*lab.Uplink, *house) error{
			"carrier": func(u *lab.Uplink, _ *house) error { return u.Carrier(false) },
			"down":    func(u *lab.Uplink, h *house) error { return h.Topology.Router.Down(u.Interface) },
		} {
			t.Run(fmt.Sprintf("%s, agent running: %v", name, running), func(t *testing.T) {
				ctx := deadline(t, 30*time.Second)
				h := newHouse(t, lab.NewRouter, lab.Options{})
				h.start(ctx, h.forwarding())
				answers := h.forwarded(ctx, h.Uplinks[1], 5555)
				if !running {
					must(t, h.End(syscall.SIGKILL))
				}
				must(t, gone(h.Uplinks[1], h))
				time.Sleep(300 * time.Millisecond)
				answers.Stop()
			})
		}
	}
}

// TestForwardedAfterNewAddress: the same when all uplinks went and one returns
// with another address: its old one is nobody's by then.
func TestForwardedAfterNewAddress(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("agent restarted meanwhile: %v", restarted), func(t *testing.T) {
			ctx := deadline(t, 30*time.Second)
			h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 1, NoIPv6: true})
			h.start(ctx, h.forwarding())
			u := h.Uplinks[0]
			answers := h.forwarded(ctx, u, 5555)
			old := u.Address
			other := netip.PrefixFrom(old.Addr().Next(), old.Bits())
			must(t, u.Carrier(false))
			_, err := h.Wait(ctx, func(s api.Status) bool { return s.Uplinks[0].State == api.Down })
			must(t, err)
			if restarted {
				must(t, h.End(syscall.SIGKILL))
			}
			must(t, h.Topology.Router.DelAddr(u.Interface, old))
			must(t, h.Topology.Router.AddAddr(u.Interface, other))
			must(t, u.Carrier(true))
			if restarted {
				must(t, h.Start())
			}
			_, err = h.Wait(ctx, func(s api.Status) bool { return s.Ready && s.Uplinks[0].State == api.Up })
			must(t, err)
			time.Sleep(50 * time.Millisecond)
			before, _, err := u.Provider.Leaks() // the new address counts, too
			must(t, err)
			packets, err := u.Provider.Packets()
			must(t, err)
			time.Sleep(200 * time.Millisecond)
			after, _, err := u.Provider.Leaks()
			must(t, err)
			more, err := u.Provider.Packets()
			must(t, err)

			if more-packets > after-before+5 || more-packets < 10 {
				t.Errorf("with the old address: %d of %d", more-packets-(after-before), more-packets)
			}
			h.leaksBefore = leaked(t, h)
			answers.Stop()
		})
	}
}
