//go:build linux

package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Where the second LAN of these tests is.
var (
	guestRouter, guestRouter6 = netip.MustParsePrefix("10.5.0.1/24"), netip.MustParsePrefix("fd00:5::1/64")
	guestClient, guestClient6 = netip.MustParsePrefix("10.5.0.7/24"), netip.MustParsePrefix("fd00:5::7/64")
)

// guests adds a second LAN with a client to a router.
func guests(t *testing.T, router *lab.NS) *lab.NS {
	t.Helper()
	guest, err := lab.NewNS("guest")
	must(t, err)
	t.Cleanup(guest.Close)
	must(t, lab.Veth(guest, "eth0", router, "guests"))
	must(t, router.Up("guests"))
	must(t, guest.Up("eth0"))
	for _, p := range []netip.Prefix{guestRouter, guestRouter6} {
		must(t, router.AddAddr("guests", p))
	}
	for _, p := range []netip.Prefix{guestClient, guestClient6} {
		must(t, guest.AddAddr("eth0", p))
	}
	must(t, guest.WaitRunning("eth0"))
	for _, g := range []netip.Prefix{guestRouter, guestRouter6} {
		must(t, guest.AddRoute(lab.Route{Gateway: g.Addr(), Interface: "eth0"}))
	}
	return guest
}

// serve starts a server.
func serve(t *testing.T, ns *lab.NS, more ...uint16) *lab.Server {
	t.Helper()
	s, err := lab.NewServer(ns, more...)
	must(t, err)
	t.Cleanup(s.Close)
	return s
}

// forward writes a [[port_forward]] with more lines.
func forward(protocol, port, to string, more ...string) string {
	name := protocol + "-" + port
	if strings.Contains(to, "::") {
		name += "-IPv6"
	}
	if strings.Contains(port, "-") {
		port = fmt.Sprintf("%q", port)
	}
	return fmt.Sprintf("\n[[port_forward]]\nname = %q\nprotocol = %q\nport = %s\nto = %q\n%s\n", name, protocol, port, to, strings.Join(more, "\n"))
}

// nobody asserts that a connection is not answered by a server of the lab.
func nobody(ctx context.Context, t *testing.T, what string, ns *lab.NS, s lab.Socket, to netip.AddrPort) {
	t.Helper()
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if c, err := lab.Connect(short, ns, s, to); err == nil {
		t.Errorf("%s: %s was reached as %s", what, to, c.Seen)
		c.Close()
	}
}

// TestForwardRanges: ranges one for one and to one port, and who may use them.
func TestForwardRanges(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			server4, server6 := lab.ClientAddress(0)
			serve(t, h.Client(), 8005, 9000, 9007, 9010)
			second := lab.InternetAddress.Next()
			h.start(ctx, rig.Config(h.Topology, nil,
				forward("tcp", "8000-8010", server4.String()),
				forward("tcp", "19000-19010", server4.String()+":9000-9010"),
				forward("tcp", "20000-20100", server4.String()+":80"),
				forward("udp", "30000-30100", server4.String()+":7"),
				forward("tcp", "8000-8010", server6.String()),
				forward("tcp", "19000-19010", "["+server6.String()+"]:9000-9010"),
				forward("tcp", "22", server4.String()+":80", fmt.Sprintf("sources = [\"%s/32\", \"192.0.2.0/24\"]", second)),
				forward("tcp", "22-23", "["+server6.String()+"]:80", fmt.Sprintf("sources = [\"%s/128\"]", lab.InternetAddress6)),
				forward("tcp", "25-26", server4.String()+":80", fmt.Sprintf("uplinks = [%q]", h.Uplinks[0].Name))))
			for i, u := range h.Uplinks[:2] {
				a, a6 := u.Address.Addr(), u.Address6.Addr()
				for _, p := range []uint16{8005, 19000, 19007, 19010, 20000, 20055, 20100} {
					only(ctx, t, "range", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(a, p)), 3, lab.InternetAddress)
					if p < 20000 {
						only(ctx, t, "range, IPv6", h.Internet, bound(lab.InternetAddress6, netip.AddrPortFrom(a6, p)), 3, lab.InternetAddress6)
					}
				}
				for _, p := range []uint16{7999, 8004, 8011, 19001, 19011, 20101} {
					nobody(ctx, t, "outside the range", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress, 0)}, netip.AddrPortFrom(a, p))
				}
				echo, err := lab.StartUDP(ctx, h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress, 0)}, netip.AddrPortFrom(a, 30077), 5*time.Millisecond)
				must(t, err)
				h.until(2*time.Second, "UDP in a range is answered", func() bool { return echo.Report().Received > 0 })
				echo.Stop()
				only(ctx, t, "allowed source", h.Internet, bound(second, netip.AddrPortFrom(a, 22)), 3, second)
				nobody(ctx, t, "another source", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress, 0)}, netip.AddrPortFrom(a, 22))
				only(ctx, t, "allowed source, IPv6", h.Internet, bound(lab.InternetAddress6, netip.AddrPortFrom(a6, 23)), 3, lab.InternetAddress6)
				nobody(ctx, t, "another source, IPv6", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress6.Next(), 0)}, netip.AddrPortFrom(a6, 23))
				if i == 0 {
					only(ctx, t, "range of one uplink", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(a, 26)), 3, lab.InternetAddress)
				} else {
					nobody(ctx, t, "range of another uplink", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress, 0)}, netip.AddrPortFrom(a, 26))
				}
			}
		})
	}
}

// echoed asserts that the server at the end of a port forward sees UDP packets
// as from an address, and that its answers get back; or that none does, where
// there is no such address.
func echoed(t *testing.T, what string, from *lab.NS, to netip.AddrPort, want netip.Addr) {
	t.Helper()
	c, err := from.DialUDP(lab.Socket{}, to)
	must(t, err)
	defer c.Close()
	patience := 2 * time.Second
	if !want.IsValid() {
		patience = 300 * time.Millisecond
	}
	must(t, c.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, 100)
	for i := range 3 {
		sent := fmt.Sprint("echo ", i)
		var n int
		if _, err = c.Write([]byte(sent)); err == nil {
			n, err = c.Read(buf)
		}
		if !want.IsValid() {
			if err == nil {
				t.Errorf("%s: %s answers %q", what, to, buf[:n])
			}
			return
		}
		text, back, _ := strings.Cut(string(buf[:n]), "\n")
		if seen, wrong := netip.ParseAddrPort(text); err != nil || wrong != nil || seen.Addr() != want || back != sent {
			t.Errorf("%s: %s answers %q (%v), wanted %q and to be seen as %s", what, to, buf[:n], err, sent, want)
			return
		}
	}
}

// TestHairpin: clients in the server's own LAN and in another one reach it by
// the uplinks' addresses, with TCP and UDP, the server itself does, too, and it
// sees who they are where that is possible.
func TestHairpin(t *testing.T) {
	for name, topology := range topologies {
		for _, lanOnNIC := range []bool{false, true} {
			if lanOnNIC && name != "one NIC" {
				continue
			}
			t.Run(fmt.Sprintf("%s, LAN on it: %v", name, lanOnNIC), func(t *testing.T) {
				ctx := deadline(t, time.Minute)
				h := newHouse(t, topology, lab.Options{Clients: 2, LANOnNIC: lanOnNIC})
				guest := guests(t, h.Topology.Router)
				server4, server6 := lab.ClientAddress(0)
				serve(t, h.Client())
				serve(t, h.Topology.Router)
				text := rig.Config(h.Topology, nil,
					forward("tcp", "8000", server4.String()+":80"), forward("tcp", "8000", "["+server6.String()+"]:80"),
					forward("udp", "8000", server4.String()+":7"), forward("udp", "8000", "["+server6.String()+"]:7"),
					forward("udp", "8001", server4.String()+":7", "hairpin = false"),
					forward("tcp", "9000-9005", server4.String()+":80"), forward("tcp", "8001", server4.String()+":80", "hairpin = false"),
					forward("tcp", "8002", server4.String()+":80", fmt.Sprintf("uplinks = [%q]", h.Uplinks[0].Name)))
				h.start(ctx, strings.Replace(text, fmt.Sprintf("lan = [%q]", h.LAN), fmt.Sprintf("lan = [%q, \"guests\"]", h.LAN), 1))
				for i, u := range h.Uplinks[:2] {
					a, a6 := u.Address.Addr(), u.Address6.Addr()
					for _, from := range []*lab.NS{h.Clients[1], h.Clients[0]} {
						only(ctx, t, from.Name+" in the same LAN", from, lab.To(netip.AddrPortFrom(a, 8000)), 10, lab.LANAddress.Addr())
						only(ctx, t, from.Name+" in the same LAN, IPv6", from, lab.To(netip.AddrPortFrom(a6, 8000)), 10, lab.LANAddress6.Addr())
						only(ctx, t, from.Name+" in the same LAN, range", from, lab.To(netip.AddrPortFrom(a, 9003)), 10, lab.LANAddress.Addr())
						echoed(t, from.Name+" in the same LAN, UDP", from, netip.AddrPortFrom(a, 8000), lab.LANAddress.Addr())
						echoed(t, from.Name+" in the same LAN, UDP over IPv6", from, netip.AddrPortFrom(a6, 8000), lab.LANAddress6.Addr())
						nobody(ctx, t, "hairpin = false", from, lab.Socket{}, netip.AddrPortFrom(a, 8001))
						echoed(t, "hairpin = false, UDP", from, netip.AddrPortFrom(a, 8001), netip.Addr{})
					}
					only(ctx, t, "another LAN", guest, lab.To(netip.AddrPortFrom(a, 8000)), 10, guestClient.Addr())
					only(ctx, t, "another LAN, IPv6", guest, lab.To(netip.AddrPortFrom(a6, 8000)), 10, guestClient6.Addr())
					echoed(t, "another LAN, UDP", guest, netip.AddrPortFrom(a, 8000), guestClient.Addr())
					echoed(t, "another LAN, UDP over IPv6", guest, netip.AddrPortFrom(a6, 8000), guestClient6.Addr())
					echoed(t, "hairpin = false, another LAN, UDP", guest, netip.AddrPortFrom(a, 8001), netip.Addr{})
					nobody(ctx, t, "hairpin = false, another LAN", guest, lab.Socket{}, netip.AddrPortFrom(a, 8001))
					only(ctx, t, "outside", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(a, 8001)), 10, lab.InternetAddress)
					if i == 0 {
						only(ctx, t, "forward of this uplink", guest, lab.To(netip.AddrPortFrom(a, 8002)), 10, guestClient.Addr())
					} else {
						nobody(ctx, t, "forward of another uplink", guest, lab.Socket{}, netip.AddrPortFrom(a, 8002))
					}
					// What is not forwarded is the router's.
					second, _ := lab.ClientAddress(1)
					only(ctx, t, "the router's own service", h.Clients[1], lab.To(netip.AddrPortFrom(a, lab.PortTCP)), 3, second)
				}
				second, _ := lab.ClientAddress(1)
				only(ctx, t, "the router's LAN address", h.Clients[1], lab.To(netip.AddrPortFrom(lab.LANAddress.Addr(), lab.PortTCP)), 3, second)
				nobody(ctx, t, "the router's LAN address", h.Clients[1], lab.Socket{}, netip.AddrPortFrom(lab.LANAddress.Addr(), 8000))
			})
		}
	}
}

// TestHairpinFollowsAddress: when an uplink's address changes, clients use the
// new one; while its cable is out they go on using the old one.
func TestHairpinFollowsAddress(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Clients: 2})
	server, _ := lab.ClientAddress(0)
	serve(t, h.Client())
	h.start(ctx, rig.Config(h.Topology, nil, forward("tcp", "8000", server.String()+":80")))
	u := h.Uplinks[0]
	old := netip.AddrPortFrom(u.Address.Addr(), 8000)
	only(ctx, t, "at first", h.Clients[1], lab.To(old), 3, lab.LANAddress.Addr())
	must(t, u.Carrier(false))
	h.until(5*time.Second, "the uplink is down", func() bool {
		s, err := h.Status(ctx)
		return err == nil && s.Uplinks[0].State == "down"
	})
	only(ctx, t, "without a cable", h.Clients[1], lab.To(old), 3, lab.LANAddress.Addr())
	must(t, u.Carrier(true))
	next := u.Address.Addr().Next()
	must(t, u.Renumber(netip.PrefixFrom(next, u.Address.Bits()), u.Gateway))
	h.until(5*time.Second, "the new address works", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Second) // what began too early may hang
		defer cancel()
		c, err := lab.Connect(short, h.Clients[1], lab.Socket{}, netip.AddrPortFrom(next, 8000))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestForwardRemoved: a reload that removes or changes a forward ends its
// connections, and no others.
func TestForwardRemoved(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Clients: 2})
	serve(t, h.Client())
	serve(t, h.Clients[1])
	both := func(protocol, port, at string, client int) string {
		a, a6 := lab.ClientAddress(client)
		return forward(protocol, port, a.String()+":"+at) + forward(protocol, port, "["+a6.String()+"]:"+at)
	}
	every := func(port string) string { return both("tcp", port, "80", 0) + both("udp", port, "7", 0) }
	stays := every("8000")
	h.start(ctx, rig.Config(h.Topology, nil, stays, every("8001"), both("tcp", "8002", "80", 0)))
	type open struct {
		name string
		ping func(patience time.Duration) error
	}
	tcp := func(from *lab.NS, a netip.Addr, port uint16) open {
		t.Helper()
		c, err := lab.Connect(ctx, from, lab.Socket{}, netip.AddrPortFrom(a, port))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return open{fmt.Sprintf("TCP from %s to %s port %d", from.Name, a, port), c.Ping}
	}
	// What is sent all the time must not begin again while a reload is under way.
	udp := func(from *lab.NS, a netip.Addr, port uint16) open {
		t.Helper()
		s, err := lab.StartUDP(ctx, from, lab.Socket{}, netip.AddrPortFrom(a, port), 5*time.Millisecond)
		must(t, err)
		t.Cleanup(func() { s.Stop() })
		return open{fmt.Sprintf("UDP from %s to %s port %d", from.Name, a, port), func(patience time.Duration) error {
			const late = 10 // answers to what was sent before
			before := s.Report().Received
			for end := time.Now().Add(patience); s.Report().Received <= before+late; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					return fmt.Errorf("%d answers in %v", s.Report().Received-before, patience)
				}
			}
			return nil
		}}
	}
	ways := []func(*lab.NS, netip.Addr, uint16) open{tcp, udp}
	connect := func(port uint16, ways ...func(*lab.NS, netip.Addr, uint16) open) (all []open) {
		t.Helper()
		for _, u := range h.Uplinks {
			for _, from := range []*lab.NS{h.Internet, h.Clients[1]} {
				for _, way := range ways {
					all = append(all, way(from, u.Address.Addr(), port), way(from, u.Address6.Addr(), port))
				}
			}
		}
		return all
	}
	check := func(what string, all []open, alive bool) {
		t.Helper()
		patience := 2 * time.Second
		if !alive {
			patience = 300 * time.Millisecond
		}
		var wait sync.WaitGroup
		for _, c := range all {
			wait.Go(func() {
				if err := c.ping(patience); (err == nil) != alive {
					t.Errorf("%s: %s: %v", what, c.name, err)
				}
			})
		}
		wait.Wait()
	}
	stay, go1, go2 := connect(8000, ways...), connect(8001, ways...), connect(8002, tcp)
	stay = append(stay, tcp(h.Clients[1], lab.InternetAddress, 80), tcp(h.Clients[1], lab.InternetAddress6, 80))
	check("before", slices.Concat(stay, go1, go2), true)
	must(t, h.Reconfigure(ctx, rig.Config(h.Topology, nil, stays, both("tcp", "8002", "80", 0))))
	check("removed", go1, false)
	check("removed, others", slices.Concat(stay, go2), true)
	must(t, h.Reconfigure(ctx, rig.Config(h.Topology, nil, stays, both("tcp", "8002", "80", 1), every("8003"))))
	check("changed", go2, false)
	check("changed, others", stay, true)
	go3 := connect(8003, ways...)
	check("new", go3, true)
	must(t, h.End(syscall.SIGKILL))
	h.configure(rig.Config(h.Topology, nil, stays, both("tcp", "8002", "80", 1)))
	must(t, h.Run(ctx))
	check("removed while no agent ran", go3, false)
	check("removed while no agent ran, others", stay, true)
	only(ctx, t, "where it leads now", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(h.Uplinks[0].Address.Addr(), 8002)), 3, lab.InternetAddress)
}

// TestManyForwards: ten thousand forwards work, and changing one is quick.
func TestManyForwards(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	server, server6 := lab.ClientAddress(0)
	serve(t, h.Client())
	var all strings.Builder
	for i := range 5000 {
		all.WriteString(forward("tcp", fmt.Sprint(10000+i), server.String()+":80"))
		all.WriteString(forward("tcp", fmt.Sprint(10000+i), "["+server6.String()+"]:80"))
	}
	begin := time.Now()
	h.start(ctx, rig.Config(h.Topology, nil, all.String()))
	started := time.Since(begin)
	for _, port := range []uint16{10000, 12345, 14999} {
		only(ctx, t, "one of many", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(h.Uplinks[1].Address.Addr(), port)), 3, lab.InternetAddress)
		only(ctx, t, "one of many, IPv6", h.Internet, bound(lab.InternetAddress6, netip.AddrPortFrom(h.Uplinks[1].Address6.Addr(), port)), 3, lab.InternetAddress6)
	}
	begin = time.Now()
	must(t, h.Reconfigure(ctx, rig.Config(h.Topology, nil, all.String(), forward("tcp", "9999", server.String()+":80"))))
	t.Logf("10,000 forwards: started in %v, one more in %v", started, time.Since(begin))
	only(ctx, t, "one more", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(h.Uplinks[0].Address.Addr(), 9999)), 3, lab.InternetAddress)
}

// segments connects and returns the largest segments that both ends send, in
// bytes, without the time stamps that each has.
func segments(ctx context.Context, t *testing.T, from, at *lab.NS, local, listen, to netip.AddrPort) (client, server int) {
	t.Helper()
	l, err := at.ListenTCP(lab.Socket{Local: listen})
	must(t, err)
	defer l.Close()
	c, err := from.DialTCP(ctx, lab.Socket{Local: local}, to)
	must(t, err)
	defer c.Close()
	must(t, l.SetDeadline(time.Now().Add(2*time.Second)))
	s, err := l.AcceptTCP()
	must(t, err)
	defer s.Close()
	return segment(t, c), segment(t, s)
}

func segment(t *testing.T, c *net.TCPConn) (size int) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); failed == nil {
			size = int(info.Snd_mss)
		}
	}))
	must(t, failed)
	return size
}

// TestMTU: both ends of each connection by an uplink with a small MTU keep
// within it, and connections by another uplink do not.
func TestMTU(t *testing.T) {
	const small, stamps = 1400, 12 // bytes
	for name, topology := range topologies {
		for _, configured := range []bool{true, false} {
			if name == "one NIC" && !configured {
				continue // its uplinks share the interface's
			}
			t.Run(fmt.Sprintf("%s, configured: %v", name, configured), func(t *testing.T) {
				ctx := deadline(t, time.Minute)
				h := newHouse(t, topology, lab.Options{})
				server, server6 := lab.ClientAddress(0)
				h.start(ctx, uplinkTablesWith(h, []int{0, 1}, []int{1, 1}, func(i int) string {
					more := fmt.Sprintf("destinations = [\"198.51.100.%d/32\", \"2001:db8:ffff::%d/128\"]\n", 10+i, 10+i)
					if i == 0 && configured {
						more += fmt.Sprintf("mtu = %d\n", small)
					}
					return more
				}, forward("tcp", "8000", server.String()), forward("tcp", "8000", server6.String())))
				if !configured {
					must(t, h.Topology.Router.SetMTU(h.Uplinks[0].Interface, small))
					h.until(2*time.Second, "the interface's MTU is in force", func() bool {
						out, _, _, err := h.Command("show", "nft")
						return err == nil && strings.Contains(out, "maxseg")
					})
				}
				for i, u := range h.Uplinks[:2] {
					for v6, header := range map[bool]int{false: 40, true: 60} {
						want := 1500 - header - stamps
						if i == 0 {
							want = small - header - stamps
						}
						inside, public, far := server, u.Address.Addr(), netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", 10+i))
						if v6 {
							inside, public, far = server6, u.Address6.Addr(), netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%d", 10+i))
						}
						for _, c := range []struct {
							what              string
							from, at          *lab.NS
							local, listen, to netip.AddrPort
						}{
							{"a client's", h.Client(), h.Internet, netip.AddrPort{}, netip.AddrPortFrom(far, 7777), netip.AddrPortFrom(far, 7777)},
							{"the router's", h.Topology.Router, h.Internet, netip.AddrPort{}, netip.AddrPortFrom(far, 7777), netip.AddrPortFrom(far, 7777)},
							{"to a port forward", h.Internet, h.Client(), netip.AddrPortFrom(far, 0), netip.AddrPortFrom(inside, 8000), netip.AddrPortFrom(public, 8000)},
							{"to the router", h.Internet, h.Topology.Router, netip.AddrPortFrom(far, 0), netip.AddrPortFrom(public, 7777), netip.AddrPortFrom(public, 7777)},
						} {
							if client, server := segments(ctx, t, c.from, c.at, c.local, c.listen, c.to); client != want || server != want {
								t.Errorf("%s by %s (IPv6 %v): the ends send %d and %d bytes at once, wanted %d", c.what, u.Name, v6, client, server, want)
							}
						}
					}
				}
			})
		}
	}
}

// TestShadow: a client whose source port is that of one of the router's own
// services does not get what is meant for that service (CVE-2021-3773).
func TestShadow(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			client4, client6 := lab.ClientAddress(0)
			for _, port := range []uint16{53, 123, 500, 1194, 4500, 5060, 51820} {
				for _, p := range []struct{ client, far netip.Addr }{{client4, lab.InternetAddress}, {client6, lab.InternetAddress6}} {
					shadow(t, h, netip.AddrPortFrom(p.client, port), netip.AddrPortFrom(p.far, 7000))
				}
			}
		})
	}
}

// shadow has a client send from a port to the internet, and somebody there to
// that port of the router.
func shadow(t *testing.T, h *house, client, far netip.AddrPort) {
	t.Helper()
	somebody, err := h.Internet.ListenUDP(lab.Socket{Local: far})
	must(t, err)
	defer somebody.Close()
	attacker, err := h.Client().DialUDP(lab.Socket{Local: client}, far)
	must(t, err)
	defer attacker.Close()
	// It can be answered, from one and the same port.
	buf := make([]byte, 100)
	must(t, somebody.SetDeadline(time.Now().Add(2*time.Second)))
	must(t, attacker.SetDeadline(time.Now().Add(2*time.Second)))
	_, err = attacker.Write([]byte("shadow"))
	must(t, err)
	_, seen, err := somebody.ReadFromUDPAddrPort(buf)
	must(t, err)
	_, err = somebody.WriteToUDPAddrPort([]byte("answer"), seen)
	must(t, err)
	if n, err := attacker.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("%s: answered %q, %v", client, buf[:n], err)
	}
	public := netip.AddrPortFrom(seen.Addr().Unmap(), client.Port())
	service, err := h.Topology.Router.ListenUDP(lab.Socket{Local: public})
	must(t, err)
	defer service.Close()
	_, err = somebody.WriteToUDPAddrPort([]byte("service"), public)
	must(t, err)
	must(t, service.SetDeadline(time.Now().Add(2*time.Second)))
	n, _, err := service.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "service" {
		t.Errorf("the router's service at %s did not get what was sent to it (%v); the client sent from %s", public, err, seen)
	}
	// The router's own traffic keeps its port.
	_, err = service.WriteToUDPAddrPort([]byte("own"), far)
	must(t, err)
	if _, own, err := somebody.ReadFromUDPAddrPort(buf); err != nil || own.Port() != client.Port() {
		t.Errorf("the router's own traffic from port %d comes from %s: %v", client.Port(), own, err)
	}
}

// TestShadowReserved: the same for ports that somebody has reserved, before the
// agent starts and while it runs.
func TestShadowReserved(t *testing.T) {
	const reserved = "net/ipv4/ip_local_reserved_ports"
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			must(t, h.Topology.Router.Sysctl(reserved, "40000,45000-45002\n"))
			h.start(ctx, rig.Config(h.Topology, nil))
			client4, client6 := lab.ClientAddress(0)
			shadows := func(ports ...uint16) {
				t.Helper()
				for _, port := range ports {
					shadow(t, h, netip.AddrPortFrom(client4, port), netip.AddrPortFrom(lab.InternetAddress, 7000))
					shadow(t, h, netip.AddrPortFrom(client6, port), netip.AddrPortFrom(lab.InternetAddress6, 7000))
				}
			}
			shadows(53, 40000, 45002, 51820)

			// What nobody has reserved is kept, each time to another port there.
			there := uint16(8000)
			seen := func(port uint16) uint16 {
				there++
				return h.seenFrom(netip.AddrPortFrom(client4, port), netip.AddrPortFrom(lab.InternetAddress, there))
			}
			for _, port := range []uint16{51821, 44999} {
				if got := seen(port); got != port {
					t.Errorf("port %d, which is no service's, is seen as %d", port, got)
				}
			}
			must(t, h.Topology.Router.Sysctl(reserved, "40000,51821\n"))
			begin := time.Now()
			h.until(15*time.Second, "51821 is protected", func() bool { return seen(51821) != 51821 })
			t.Logf("protected after %.0f ms", ms(time.Since(begin)))
			shadows(53, 40000, 51821)
			if got := seen(45001); got != 45001 { // 45002 has one that it keeps
				t.Errorf("port 45001, which is no service's any more, is seen as %d", got)
			}
			h.unchanged()
		})
	}
}

// seenFrom sends from a port of the client, and returns the one that the
// internet sees.
func (h *house) seenFrom(client, far netip.AddrPort) uint16 {
	h.t.Helper()
	there, err := h.Internet.ListenUDP(lab.Socket{Local: far})
	must(h.t, err)
	defer there.Close()
	here, err := h.Client().DialUDP(lab.Socket{Local: client}, far)
	must(h.t, err)
	defer here.Close()
	must(h.t, there.SetDeadline(time.Now().Add(2*time.Second)))
	_, err = here.Write([]byte("who"))
	must(h.t, err)
	_, from, err := there.ReadFromUDPAddrPort(make([]byte, 10))
	must(h.t, err)
	return from.Port()
}
