package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/nat"
	"multiroute/routes"
)

// nat makes marks, bindings, masquerade, port forwards and guard. It knows
// uplinks by name and address even while they are down, so that an uplink that
// comes or goes changes routes, not rules.
func (m *maker) nat() {
	s := &m.NAT
	s.Mask, s.LAN, s.Routed, s.Guard, s.Notes = m.router.MarkMask, m.router.LAN, m.router.Routed, m.router.Guard, m.Notes
	for i, u := range m.Uplinks {
		c := m.Config.Uplinks[i]
		n := nat.Uplink{Name: u.Name, ID: u.ID, Mark: u.Mark, Interface: u.Interface, NoIPv6: !u.V6.Wanted, Routed6: c.IPv6 == config.IPv6Routed, Translations: u.Translations, Delegated: u.Delegated, Counted: m.counted(u)}
		for _, leg := range []Leg{u.V4, u.V6} {
			if leg.Source.IsValid() {
				n.Source = append(n.Source, leg.Source)
			}
			if leg.Nexthop.Gateway.IsValid() {
				m.Gateways = append(m.Gateways, leg.Nexthop.Gateway)
			}
			if !m.shared(u.Interface) && !slices.Contains(m.router.LAN, u.Interface) {
				continue // one uplink and nothing else here: the interface says it all
			}
			n.Addresses = append(n.Addresses, leg.Addresses...)
			if leg.Nexthop.Gateway.IsValid() {
				n.Gateways = append(n.Gateways, leg.Nexthop.Gateway)
				n.MACs = append(n.MACs, m.macs(leg.Nexthop)...)
			}
		}
		s.Uplinks = append(s.Uplinks, n)
	}
	// By id: the order of the configuration must not rewrite rules.
	slices.SortFunc(s.Uplinks, func(a, b nat.Uplink) int { return cmp.Compare(a.ID, b.ID) })
	for _, name := range m.router.LAN {
		if !slices.ContainsFunc(m.Uplinks, func(u Uplink) bool { return u.Interface == name }) {
			continue
		}
		link := m.Facts.Link(name)
		if link == nil {
			continue
		}
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			for _, p := range m.clientNetworks(link.Index, f) {
				s.Networks = append(s.Networks, nat.Network{Interface: name, Prefix: p})
			}
		}
	}
	for _, f := range m.families() {
		if a := m.ownSource(f); a.IsValid() {
			s.Own = append(s.Own, a)
		}
	}
	for _, p := range m.Policies {
		s.Policies = append(s.Policies, nat.Policy{Name: p.Name, ID: p.ID, Mark: p.Mark, Bypass: p.Bypass})
	}
	m.forwards()
	m.mtus()
	m.services()
}

// clientNetworks are the subnets of clients on an interface that uplinks use
// too: those with no uplink in them; where there is none, clients and gateways
// share the uplinks' own.
func (m *maker) clientNetworks(index int, f routes.Family) []netip.Prefix {
	var apart, all []netip.Prefix
	for _, a := range m.addresses(index, f) {
		p := a.Prefix.Masked()
		all = append(all, p)
		if !slices.ContainsFunc(m.Uplinks, func(u Uplink) bool { return slices.ContainsFunc(u.Leg(f).Addresses, p.Contains) }) {
			apart = append(apart, p)
		}
	}
	if len(apart) > 0 {
		return apart
	}
	return all
}

func (m *maker) macs(h routes.Nexthop) [][6]byte {
	var macs [][6]byte
	for _, n := range m.Facts.Neighbours {
		if n.Index == h.Index && n.Addr == h.Gateway {
			macs = append(macs, n.MAC)
		}
	}
	return macs
}
