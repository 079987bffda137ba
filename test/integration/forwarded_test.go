//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// asks starts what somebody on the internet sends to an uplink's address, and
// waits until that has made a connection.
func (h *house) asks(ctx context.Context, u *lab.Uplink, somebody netip.AddrPort, port uint16) *lab.OneWay {
	h.t.Helper()
	ask, err := lab.StartOneWay(ctx, h.Internet, lab.Socket{Local: somebody}, netip.AddrPortFrom(u.Address.Addr(), port), 10*time.Millisecond)
	must(h.t, err)
	h.until(2*time.Second, "there is a connection to "+u.Name, func() bool {
		return slices.ContainsFunc(on(h.flows(u.Name), u, "udp", u.Address.Addr()), func(f api.Flow) bool { return f.Source.String() == somebody.String() })
	})
	return ask
}

// forwarded starts a server behind the router that goes on sending to somebody
// on the internet who asked it once, at an uplink's address.
func (h *house) forwarded(ctx context.Context, u *lab.Uplink, port uint16) *lab.OneWay {
	h.t.Helper()
	server, _ := lab.ClientAddress(0)
	somebody := netip.AddrPortFrom(lab.InternetAddress, port)
	ask := h.asks(ctx, u, somebody, 9999)
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

// whileUplinkGoes lets an uplink die in several ways, with the agent and
// without it, while something answers from its address: none of that may leave
// by another uplink.
func whileUplinkGoes(t *testing.T, answer func(context.Context, *house, *lab.Uplink) *lab.OneWay) {
	t.Helper()
	for _, running := range []bool{true, false} {
		for name, gone := range map[string]func(*lab.Uplink, *house) error{
			"carrier": func(u *lab.Uplink, _ *house) error { return u.Carrier(false) },
			"down":    func(u *lab.Uplink, h *house) error { return h.Topology.Router.Down(u.Interface) },
		} {
			t.Run(fmt.Sprintf("%s, agent running: %v", name, running), func(t *testing.T) {
				ctx := deadline(t, 30*time.Second)
				h := newHouse(t, lab.NewRouter, lab.Options{})
				h.start(ctx, h.forwarding())
				answers := answer(ctx, h, h.Uplinks[1])
				if !running {
					must(t, h.End(syscall.SIGKILL))
				}
				must(t, gone(h.Uplinks[1], h))
				time.Sleep(300 * time.Millisecond) // in which nothing may leave
				answers.Stop()
			})
		}
	}
}

// TestForwardedWhileUplinkGoes: what a server behind the router goes on sending
// to somebody who reached it by an uplink that dies never leaves by another
// uplink with the dead one's address, with the agent or without it.
func TestForwardedWhileUplinkGoes(t *testing.T) {
	whileUplinkGoes(t, func(ctx context.Context, h *house, u *lab.Uplink) *lab.OneWay { return h.forwarded(ctx, u, 5555) })
}

// TestForwardedAfterNewAddress: the same when the only uplink went and returns
// with another address: its old one is nobody's by then.
func TestForwardedAfterNewAddress(t *testing.T) {
	ctx := deadline(t, 30*time.Second)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 1, NoIPv6: true})
	h.start(ctx, h.forwarding())
	u := h.Uplinks[0]
	answers := h.forwarded(ctx, u, 5555)
	must(t, u.Carrier(false))
	_, err := h.Wait(ctx, func(s api.Status) bool { return s.Uplinks[0].State == api.Down })
	must(t, err)
	address := netip.PrefixFrom(u.Address.Addr().Next(), u.Address.Bits())
	must(t, h.Topology.Router.DelAddr(u.Interface, u.Address))
	must(t, h.Topology.Router.AddAddr(u.Interface, address))
	before := leaked(t, h) // to the provider the new address is wrong
	must(t, u.Carrier(true))
	_, err = h.Wait(ctx, func(s api.Status) bool { return s.Uplinks[0].State == api.Up })
	must(t, err)
	h.until(followed, "a packet has the new address", func() bool { return leaked(t, h) > before })
	u.Address = address
	must(t, u.Provider.Allow()) // from now on the old one is wrong
	before = leaked(t, h)
	packets, err := u.Provider.Packets()
	must(t, err)
	h.until(5*time.Second, "more packets leave", func() bool {
		more, err := u.Provider.Packets()
		must(t, err)
		return more >= packets+200
	})
	answers.Stop()
	h.leaksBefore = leaked(t, h)
	if n := h.leaksBefore - before; n > 0 {
		t.Errorf("%d packets had the old address after one had the new", n)
	}
}

// TestForwardedAfterRestart: the same when the address changes, or the uplink
// is given another interface, while no agent runs.
func TestForwardedAfterRestart(t *testing.T) {
	for _, change := range []string{"address", "interface"} {
		t.Run(change, func(t *testing.T) {
			ctx := deadline(t, 30*time.Second)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
			h.start(ctx, h.forwarding())
			one, u := h.Uplinks[0], h.Uplinks[1]
			answers := h.forwarded(ctx, u, 5555)
			must(t, h.End(syscall.SIGKILL))
			if change == "address" {
				must(t, u.Renumber(netip.PrefixFrom(u.Address.Addr().Next(), u.Address.Bits()), u.Gateway))
			} else {
				one.Interface, u.Interface = u.Interface, one.Interface
				one.Gateway, u.Gateway = u.Gateway, one.Gateway
				h.configure(h.forwarding())
				one.Interface, u.Interface = u.Interface, one.Interface
				one.Gateway, u.Gateway = u.Gateway, one.Gateway
			}
			must(t, h.Run(ctx))
			time.Sleep(50 * time.Millisecond)
			before := leaked(t, h)
			time.Sleep(200 * time.Millisecond)
			answers.Stop()
			if n := leaked(t, h) - before; n > 0 {
				t.Errorf("%d packets left with a wrong address after the start", n)
			}
			h.leaksBefore = leaked(t, h)
		})
	}
}

// TestOwnWhileUplinkGoes: the same for what the router itself answers from an
// uplink's address.
func TestOwnWhileUplinkGoes(t *testing.T) {
	whileUplinkGoes(t, func(ctx context.Context, h *house, u *lab.Uplink) *lab.OneWay {
		somebody, own := netip.AddrPortFrom(lab.InternetAddress, 5555), netip.AddrPortFrom(u.Address.Addr(), 7777)
		ask := h.asks(ctx, u, somebody, own.Port())
		answers, err := lab.StartOneWay(ctx, h.Topology.Router, lab.Socket{Local: own}, somebody, time.Millisecond)
		must(h.t, err)
		time.Sleep(50 * time.Millisecond) // a few of both
		ask.Stop()
		return answers
	})
}

// TestForwardedWhileGatewayIsExchanged: port forwards of an uplink whose gateway
// is another machine from one moment to the next (fault 31): what is in use goes
// on, new requests are answered, all by that uplink, and those of the others see
// nothing of it.
func TestForwardedWhileGatewayIsExchanged(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			u, other := h.Uplinks[1], h.Uplinks[0]
			h.doubtsSoon(u)
			server4, server6 := lab.ClientAddress(0)
			serve(t, h.Client())
			h.start(ctx, rig.Config(h.Topology, nil,
				forward("udp", "30077", server4.String()+":7"), forward("udp", "30077", "["+server6.String()+"]:7"),
				forward("tcp", "8000", server4.String()+":80"), forward("tcp", "8000", "["+server6.String()+"]:80")))
			type visit struct {
				on     *lab.Uplink
				from   netip.Addr
				stream *lab.UDPStream
				conn   *lab.Conn
			}
			var visits []*visit
			for _, on := range []*lab.Uplink{u, other} {
				for _, v6 := range []bool{false, true} {
					v := &visit{on: on, from: internet(v6).Addr()}
					local, to := lab.Socket{Local: internet(v6)}, addressOf(on, v6)
					var err error
					v.stream, err = lab.StartUDP(ctx, h.Internet, local, netip.AddrPortFrom(to, 30077), 5*time.Millisecond)
					must(t, err)
					v.conn, err = lab.Connect(ctx, h.Internet, local, netip.AddrPortFrom(to, 8000))
					must(t, err)
					defer v.conn.Close()
					visits = append(visits, v)
				}
			}
			h.until(2*time.Second, "all visitors are answered", func() bool {
				return !slices.ContainsFunc(visits, func(v *visit) bool { return v.stream.Report().Received < 50 })
			})
			must(t, u.Exchange([]byte{2, 0, 0, 0, 0, 0x31}))
			passes(ctx, 3*time.Second) // in which the kernel doubts it, and asks
			h.until(15*time.Second, "the visitors of "+u.Name+" are answered again", func() bool {
				now := time.Now().Add(-500 * time.Millisecond)
				return !slices.ContainsFunc(visits, func(v *visit) bool { return !v.stream.Last(v.from).After(now) })
			})
			for _, v := range visits {
				if err := v.conn.Ping(15 * time.Second); err != nil {
					t.Errorf("a connection that came in by %s, IPv6 %v: %v", v.on.Name, v.from.Is6(), err)
				}
				r := v.stream.Stop()
				t.Logf("UDP that came in by %s, IPv6 %v: %v", v.on.Name, v.from.Is6(), r)
				if v.on == other && r.Lost() > 0 {
					t.Errorf("a stream that came in by %s lost %d packets", v.on.Name, r.Lost())
				}
				only(ctx, t, "new visitors of "+v.on.Name, h.Internet, bound(v.from, netip.AddrPortFrom(addressOf(v.on, v.from.Is6()), 8000)), 5, v.from)
			}
			h.unchanged()
		})
	}
}
