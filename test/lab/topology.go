//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxUplinks is how many uplinks a topology can have.
const MaxUplinks = 64

// Options describes a topology. The zero value is the house of the documentation: one client, DSL and cable.
type Options struct {
	Uplinks         int              // default 2 (NewRouter), 3 (NewSingleNIC); at most MaxUplinks (3 on a single NIC)
	Clients         int              // namespaces in the LAN, each with a MAC address of its own; default 1
	ClientAddresses int              // addresses of each client, default 1: 192.168.0.10, .11, ... one client after the other
	Forward         bool             // the router forwards from the start; otherwise that is left to the program under test
	DefaultRoutes   bool             // main has a default route per uplink, as DHCP clients and router advertisements leave them: metric 100 + ID
	NoIPv6          bool             // the uplinks have IPv4 only
	LANOnNIC        bool             // NewSingleNIC: the clients are on the uplinks' NIC, too
	Apart           bool             // NewSingleNIC: the last uplink has a NIC of its own
	Wires           map[int]WireKind // uplinks (by ID) that are not a veth cable; NewRouter only
}

// The LAN of every topology.
var (
	LANAddress  = netip.MustParsePrefix("192.168.0.1/24") // the router's
	LANAddress6 = netip.MustParsePrefix("fd00:1::1/64")
)

// The internet. Every address of the two prefixes answers, as do Targets and Targets6.
var (
	InternetAddress  = netip.MustParseAddr("198.51.100.1")
	InternetAddress6 = netip.MustParseAddr("2001:db8:ffff::1")
	InternetPrefix   = netip.MustParsePrefix("198.51.100.0/24")
	InternetPrefix6  = netip.MustParsePrefix("2001:db8:ffff::/48")
)

// Topology is a LAN, a router, its uplinks and the internet. Nothing in the router is configured but addresses (and what Options asks for).
type Topology struct {
	Router   *NS
	Clients  []*NS
	Internet *NS
	Switch   *NS // the bridge br0: the shared segment of NewSingleNIC; nil where there is none
	Uplinks  []*Uplink
	LAN      string // the router's interface to the clients
	Server   *Server

	options Options
	lanHub  *NS
}

// Client returns the first client.
func (t *Topology) Client() *NS { return t.Clients[0] }

// Close removes everything.
func (t *Topology) Close() {
	if t.Server != nil {
		t.Server.Close()
	}
	var wait sync.WaitGroup // the kernel takes its time to close a packet socket
	for _, u := range t.Uplinks {
		wait.Go(func() {
			u.Provider.close()
			if u.wire != nil {
				u.wire.Close()
			}
		})
	}
	wait.Wait()
	for _, ns := range append([]*NS{t.Router, t.Internet, t.Switch, t.lanHub}, t.Clients...) {
		if ns != nil {
			ns.Close()
		}
	}
}

// Leaks adds up the leaks of all providers; the error lists some, and is nil if there were none.
func (t *Topology) Leaks() error {
	var errs error
	for _, u := range t.Uplinks {
		n, samples, err := u.Provider.Leaks()
		if err != nil {
			errs = errors.Join(errs, err)
		}
		if n > 0 {
			errs = errors.Join(errs, fmt.Errorf("provider %s: %d leaked packets, such as %v", u.Name, n, samples[:min(len(samples), 4)]))
		}
	}
	return errs
}

// build makes what all topologies share: the namespaces, the internet, the providers' upstream, the LAN.
func (t *Topology) build() (err error) {
	if t.Router, err = NewNS("router"); err != nil {
		return err
	}
	if t.Internet, err = NewNS("internet"); err != nil {
		return err
	}
	forward := [][2]string{{"net/ipv4/ip_forward", "0"}}
	if t.options.Forward {
		forward = forwarding
	}
	if err := t.Router.sysctls(forward); err != nil {
		return err
	}
	if err := t.buildInternet(); err != nil {
		return err
	}
	for _, u := range t.Uplinks {
		if err := u.Provider.build(t.Internet); err != nil {
			return fmt.Errorf("building provider %s: %w", u.Name, err)
		}
	}
	return nil
}

// buildInternet gives the internet its addresses.
func (t *Topology) buildInternet() error {
	ns := t.Internet
	if err := ns.sysctls(forwarding); err != nil { // providers reach each other
		return err
	}
	// To answer from an address of a local prefix which no interface has is allowed in IPv4 anyway.
	if err := ns.Sysctl("net/ipv6/ip_nonlocal_bind", "1"); err != nil {
		return err
	}
	for _, addr := range slices.Concat([]netip.Addr{InternetAddress, InternetAddress6}, Targets, Targets6) {
		if err := ns.AddAddr("lo", host(addr)); err != nil {
			return err
		}
	}
	for _, prefix := range []netip.Prefix{InternetPrefix, InternetPrefix6} {
		if err := ns.AddRoute(Route{Dst: prefix, Interface: "lo", Type: unix.RTN_LOCAL}); err != nil {
			return err
		}
	}
	return nil
}

// buildLAN makes the clients, and connects them to the router's interface t.LAN, which it makes, or to the switch.
func (t *Topology) buildLAN() error {
	n, perClient := max(t.options.Clients, 1), max(t.options.ClientAddresses, 1)
	if n*perClient > 240 {
		return fmt.Errorf("building the LAN: %d addresses do not fit", n*perClient)
	}
	hub := t.Switch
	if !t.options.LANOnNIC {
		hub = nil
	}
	if hub == nil && n > 1 {
		var err error
		if hub, err = newSwitch("lan"); err != nil {
			return err
		}
		t.lanHub = hub
		if err := Veth(t.Router, t.LAN, hub, "router"); err != nil {
			return err
		}
		if err := plugIn(hub, "router"); err != nil {
			return err
		}
	}
	for i := range n {
		client, err := NewNS(fmt.Sprintf("client%d", i+1))
		if err != nil {
			return err
		}
		t.Clients = append(t.Clients, client)
		if hub == nil {
			err = Veth(client, "eth0", t.Router, t.LAN)
		} else {
			port := client.Name
			if err = Veth(client, "eth0", hub, port); err == nil {
				err = plugIn(hub, port)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := t.Router.Up(t.LAN); err != nil {
		return err
	}
	for _, addr := range []netip.Prefix{LANAddress, LANAddress6} {
		if err := t.Router.AddAddr(t.LAN, addr); err != nil {
			return err
		}
	}
	next := 10
	for _, client := range t.Clients {
		if err := client.Up("eth0"); err != nil {
			return err
		}
		for range perClient {
			for _, base := range []netip.Prefix{LANAddress, LANAddress6} {
				if err := client.AddAddr("eth0", netip.PrefixFrom(nth(base.Addr(), next-1), base.Bits())); err != nil {
					return err
				}
			}
			next++
		}
		for _, gateway := range []netip.Addr{LANAddress.Addr(), LANAddress6.Addr()} {
			if err := client.AddRoute(Route{Gateway: gateway, Interface: "eth0"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ClientAddress returns the i-th address (from 0) of the LAN's clients, in both families.
func ClientAddress(i int) (v4, v6 netip.Addr) {
	return nth(LANAddress.Addr(), 9+i), nth(LANAddress6.Addr(), 9+i)
}

// finish waits for all carriers and starts the server.
func (t *Topology) finish() (err error) {
	if err := t.waitRunning(); err != nil {
		return err
	}
	t.Server, err = NewServer(t.Internet)
	return err
}

// waitRunning waits until every namespace has seen the carriers of all its interfaces: what arrives before that may be dropped.
func (t *Topology) waitRunning() error {
	for _, u := range t.Uplinks {
		if err := u.Provider.NS.WaitRunning(); err != nil {
			return err
		}
		if w := u.wire; w != nil && w.line != nil {
			if err := w.line.WaitRunning(); err != nil {
				return err
			}
		}
	}
	for _, ns := range append([]*NS{t.Router, t.Internet, t.Switch, t.lanHub}, t.Clients...) {
		if ns == nil {
			continue
		}
		if err := ns.WaitRunning(); err != nil {
			return err
		}
	}
	return nil
}

// newSwitch makes a namespace with a bridge br0.
func newSwitch(name string) (*NS, error) {
	ns, err := NewNS(name)
	if err != nil {
		return nil, err
	}
	if err = ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err == nil {
		err = ns.Bridge("br0")
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// plugIn plugs a port into a switch.
func plugIn(hub *NS, port string) error {
	if err := hub.Master(port, "br0"); err != nil {
		return err
	}
	return hub.Up(port)
}

// nth returns the address n after addr.
func nth(addr netip.Addr, n int) netip.Addr {
	b := addr.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
