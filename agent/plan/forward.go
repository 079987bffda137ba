package plan

import (
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/nat"
	"multiroute/routes"
)

// forwards makes port forwards, and finds the addresses by which clients use
// them.
func (m *maker) forwards() {
	var hairpin []routes.Family
	m.NAT.Forwards = Forwards(m.Config, m.IDs)
	for _, p := range m.Config.PortForwards {
		if p.Hairpin {
			hairpin = append(hairpin, routes.FamilyOf(p.To))
		}
	}
	if len(m.router.LAN) == 0 {
		return
	}
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		if !slices.Contains(hairpin, f) {
			continue
		}
		for i := range m.NAT.Uplinks {
			u := &m.NAT.Uplinks[i]
			u.Public = append(u.Public, m.public(m.Config.Uplink(u.Name), f)...)
		}
	}
}

// Forwards returns the port forwards of a configuration whose uplinks have those
// IDs.
func Forwards(c *config.Config, ids IDs) []nat.PortForward {
	var all []nat.PortForward
	for _, p := range c.PortForwards {
		f := nat.PortForward{Protocol: p.Protocol, Port: p.Ports.Lo, To: netip.AddrPortFrom(p.To, p.ToPorts.Lo),
			OneForOne: p.Ports.Lo != p.Ports.Hi && p.ToPorts.Lo != p.ToPorts.Hi, Sources: p.Sources, Hairpin: p.Hairpin}
		if p.Ports.Hi != p.Ports.Lo {
			f.Last = p.Ports.Hi
		}
		for _, name := range p.Uplinks {
			f.Uplinks = append(f.Uplinks, ids.Uplinks[name])
		}
		all = append(all, f)
	}
	return all
}

// public returns the addresses by which the internet knows an uplink. They are
// its own while it is down, too. What is in a subnet of clients is theirs: there
// the router's own services are.
func (m *maker) public(c *config.Uplink, f routes.Family) []netip.Addr {
	link := m.Facts.Link(c.Interface)
	if link == nil {
		return nil
	}
	var all []netip.Addr
	for _, a := range m.addresses(link.Index, f) {
		all = append(all, a.Prefix.Addr())
	}
	own := c.Addresses
	if m.shared(c.Interface) || slices.Contains(m.router.LAN, c.Interface) {
		// What comes in to another address from outside is not told from clients'.
		i := slices.IndexFunc(m.Uplinks, func(u Uplink) bool { return u.Name == c.Name })
		own = m.Uplinks[i].Leg(f).Addresses
	} else if len(own) == 0 {
		own = all
	}
	return slices.DeleteFunc(slices.Clone(own), func(a netip.Addr) bool {
		return !slices.Contains(all, a) || slices.ContainsFunc(m.NAT.Networks, func(n nat.Network) bool { return n.Prefix.Contains(a) })
	})
}

// mtus finds the uplinks whose packets are smaller than Ethernet's.
func (m *maker) mtus() {
	const ethernet = 1500 // bytes: if_ether.h ETH_DATA_LEN
	for i := range m.NAT.Uplinks {
		u := &m.NAT.Uplinks[i]
		mtu := m.Config.Uplink(u.Name).MTU
		if link := m.Facts.Link(u.Interface); link != nil && link.MTU > 0 && (mtu == 0 || link.MTU < mtu) {
			mtu = link.MTU
		}
		if mtu < ethernet {
			u.MTU = mtu
		}
	}
}
