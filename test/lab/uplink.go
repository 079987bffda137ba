//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Uplink is one of the router's connections to the internet, as the provider has arranged it.
type Uplink struct {
	ID        int // from 1
	Name      string
	Interface string // of the router
	Address   netip.Prefix
	Gateway   netip.Addr   // invalid on a point to point wire (TUN)
	Address6  netip.Prefix // invalid with NoIPv6, as are the others below
	Gateway6  netip.Addr   // link-local
	Delegated netip.Prefix // routed to Address6
	DNS, DNS6 netip.Addr   // answer only behind this provider
	Private   netip.Addr   // another address that answers only behind this provider; invalid if there is none
	Provider  *Provider

	lab  *Topology
	hub  *NS // the shared segment that its provider is plugged into; nil: a cable of its own
	wire *Wire
	kind WireKind
}

// newUplink completes an uplink which has its IPv4 side.
func newUplink(t *Topology, id int, u Uplink) *Uplink {
	u.ID, u.lab, u.kind = id, t, t.options.Wires[id]
	if u.kind == TUN {
		u.Gateway = netip.Addr{}
	}
	if !t.options.NoIPv6 {
		u.Address6 = netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::2/64", id))
		u.Gateway6 = netip.MustParseAddr(fmt.Sprintf("fe80::%x:1", id))
		u.Delegated = netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x:ff00::/56", id))
		u.DNS6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:ffaa:%x::53", id))
	}
	u.Provider = &Provider{uplink: &u}
	return &u
}

// Plug makes the cable between router and provider (after Unplug: again, with the same name and a new index), and configures both ends.
func (u *Uplink) Plug() error {
	router, provider := u.lab.Router, u.Provider.NS
	switch hub := u.hub; {
	case hub != nil:
		if err := Veth(provider, customerSide, hub, u.Name); err != nil {
			return err
		}
		if err := plugIn(hub, u.Name); err != nil {
			return err
		}
	case u.kind == Cable:
		if err := Veth(router, u.Interface, provider, customerSide); err != nil {
			return err
		}
	default:
		wire, err := NewWire(u.kind, router, u.Interface, provider, customerSide)
		if err != nil {
			return err
		}
		u.wire = wire
	}
	if err := u.Provider.plugged(); err != nil {
		return err
	}
	if err := router.Up(u.Interface); err != nil {
		return err
	}
	if err := u.configure(); err != nil {
		return err
	}
	return u.waitRunning()
}

// waitRunning waits until both ends, and what is between them, have seen the carrier.
func (u *Uplink) waitRunning() error {
	if err := errors.Join(u.lab.Router.WaitRunning(u.Interface), u.Provider.NS.WaitRunning(customerSide)); err != nil {
		return err
	}
	switch {
	case u.hub != nil:
		return u.hub.WaitRunning("router", u.Name)
	case u.wire != nil && u.wire.line != nil:
		return u.wire.line.WaitRunning()
	}
	return nil
}

// Unplug deletes the router's interface, as pulling a USB modem does.
func (u *Uplink) Unplug() error {
	if u.hub != nil {
		return errors.New("unplugging: the uplinks share their NIC")
	}
	if u.wire != nil {
		u.wire.Close()
		u.wire = nil
		return nil
	}
	return u.lab.Router.Delete(u.Interface)
}

// Wire returns the wire of an uplink that is not a cable, where delay and loss are set; nil for a cable, and while unplugged.
func (u *Uplink) Wire() *Wire { return u.wire }

// Carrier takes the carrier from the router's interface, as pulling the cable does, or gives it back. The router's interface must
// be up.
func (u *Uplink) Carrier(on bool) error {
	provider := u.Provider.NS
	var err error
	switch hub := u.hub; {
	case hub != nil && on:
		err = hub.Up("router")
	case hub != nil:
		err = hub.Down("router")
	case u.wire != nil:
		err = u.wire.Carrier(on)
	case on:
		err = u.Provider.configure()
	default:
		err = provider.Down(customerSide)
	}
	if err != nil || !on {
		return err
	}
	return u.waitRunning()
}

// Vanish takes the provider's gateway from the wire, or puts it back: nothing answers any more, not even to ARP, and the router's carrier stays.
// For uplinks of a shared segment, and for wires.
func (u *Uplink) Vanish(gone bool) error {
	switch {
	case u.hub != nil && gone:
		return u.hub.Down(u.Name)
	case u.hub != nil:
		return errors.Join(u.hub.Up(u.Name), u.waitRunning())
	case u.wire == nil:
		return fmt.Errorf("vanishing: uplink %s is a cable of its own, use a wire", u.Name)
	case gone:
		u.wire.Loss(1)
	default:
		u.wire.Loss(0)
	}
	return nil
}

// Exchange makes another machine the provider's gateway, with the same address: it has a new MAC address and tells nobody.
func (u *Uplink) Exchange(mac net.HardwareAddr) error { return u.Provider.NS.SetMAC(customerSide, mac) }

// configure gives the router's interface its addresses, and main its default routes if the options want them. It may be called again, as after
// the interface was set down and up.
func (u *Uplink) configure() error {
	router := u.lab.Router
	var errs error
	if u.kind == TUN {
		errs = errors.Join(errs, present(router.AddPeerAddr(u.Interface, u.Address.Addr(), u.Provider.gateway4())))
	} else {
		errs = errors.Join(errs, present(router.AddAddr(u.Interface, u.Address)))
	}
	if u.Address6.IsValid() {
		errs = errors.Join(errs, present(router.AddAddr(u.Interface, u.Address6)))
	}
	return errors.Join(errs, u.Lease())
}

// Lease does what DHCP clients and router advertisements do: it writes the uplink's default routes to main, if the options want them.
func (u *Uplink) Lease() error {
	if !u.lab.options.DefaultRoutes {
		return nil
	}
	return errors.Join(u.lab.Router.ReplaceRoute(u.defaultRoute()), u.defaultRoute6(u.lab.Router.ReplaceRoute))
}

// defaultRoute is the route of a DHCP or PPP client.
func (u *Uplink) defaultRoute() Route {
	return Route{Gateway: u.Gateway, Interface: u.Interface, Metric: 100 + u.ID, Protocol: unix.RTPROT_DHCP}
}

// defaultRoute6 calls f with the route of a router advertisement.
func (u *Uplink) defaultRoute6(f func(Route) error) error {
	if !u.Address6.IsValid() {
		return nil
	}
	return f(Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Gateway: u.gateway6(), Interface: u.Interface, Metric: 100 + u.ID, Protocol: unix.RTPROT_RA})
}

// gateway6 is the next hop; a point to point wire has none.
func (u *Uplink) gateway6() netip.Addr {
	if u.kind == TUN {
		return netip.Addr{}
	}
	return u.Gateway6
}

// Renumber gives the uplink another IPv4 address, and gateway, as a provider does at night: the old ones are gone, on both sides. What
// leaves with the old address from now on is a leak. Not for point to point wires.
func (u *Uplink) Renumber(addr netip.Prefix, gateway netip.Addr) error {
	if u.kind == TUN {
		return errors.New("renumbering: point to point wires are not supported")
	}
	router, provider, old := u.lab.Router, u.Provider, *u
	u.Address, u.Gateway = addr, gateway
	if err := provider.watch(host(old.Address.Addr())); err != nil { // both are right for this moment
		return err
	}
	if err := errors.Join(provider.configure(), provider.routeBack(u.lab.Internet)); err != nil {
		return err
	}
	if u.lab.options.DefaultRoutes {
		if err := router.DelRoute(old.defaultRoute()); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	if addr != old.Address { // else the kernel would end connections some time later (masq_inet_event), also new ones
		if err := router.DelAddr(u.Interface, old.Address); err != nil {
			return err
		}
	}
	if err := u.configure(); err != nil {
		return err
	}
	if gateway != old.Gateway {
		if err := provider.NS.DelAddr(customerSide, netip.PrefixFrom(old.Gateway, old.Address.Bits())); err != nil {
			return err
		}
	}
	return provider.watch()
}

// Redelegate makes the provider delegate another prefix in place of the old one, which is within the same /48. The router is not told. What
// leaves with the old one is a leak from the moment when settled is called.
func (u *Uplink) Redelegate(prefix netip.Prefix) (settled func() error, err error) {
	old := u.Delegated
	u.Delegated = prefix
	if err := u.Provider.watch(old); err != nil { // both are right for this moment
		return nil, err
	}
	if err := u.Provider.configure(); err != nil {
		return nil, err
	}
	if err := u.Provider.NS.DelRoute(Route{Dst: old, Gateway: u.Address6.Addr(), Interface: customerSide}); err != nil {
		return nil, err
	}
	return func() error { return u.Provider.watch() }, nil
}

// present makes "is there already" a success.
func present(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
