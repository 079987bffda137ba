package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
)

// resolve finds out whether and how an uplink can carry traffic now.
func (m *maker) resolve(c *config.Uplink) Uplink {
	id := m.IDs.Uplinks[c.Name]
	u := Uplink{Name: c.Name, ID: id, Mark: m.mark(id), Table: m.table(id), Interface: c.Interface, Metered: c.Metered, State: Up}
	u.V4.Wanted = true
	u.V6.Wanted = c.Gateway6.Mode != config.GatewayOff && c.IPv6 != config.IPv6Off && !m.Facts.NoIPv6
	link := m.Facts.Link(c.Interface)
	if reason := linkReason(c.Interface, link); reason != "" {
		u.V4.Reason, u.V6.Reason = reason, reason
	} else {
		m.resolveLeg(c, link, routes.IPv4, c.Gateway, &u.V4)
		if u.V6.Wanted {
			m.resolveLeg(c, link, routes.IPv6, c.Gateway6, &u.V6)
		} else {
			u.V6.Reason = "IPv6 is off here"
		}
	}
	return u
}

// twins leaves one of several uplinks whose next hop in a family is the same:
// neither rules nor the kernel could tell them apart (it refuses such a map,
// and for IPv6 such a multipath route). What is not taken out and
// what is written down goes first, then the lower id: the order of the
// configuration does not matter.
func (m *maker) twins() {
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		var order []int
		for i := range m.Uplinks {
			if m.Uplinks[i].Leg(f).Linked {
				order = append(order, i)
			}
		}
		rank := func(i int) int {
			c := m.Config.Uplinks[i]
			mode := c.Gateway.Mode
			if f == routes.IPv6 {
				mode = c.Gateway6.Mode
			}
			switch {
			case m.out(c.Name) != "":
				return 2
			case mode == config.GatewayAuto:
				return 1
			}
			return 0
		}
		slices.SortFunc(order, func(a, b int) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(m.Uplinks[a].ID, m.Uplinks[b].ID))
		})
		owners := map[routes.Nexthop]string{}
		for _, i := range order {
			u, leg := &m.Uplinks[i], m.Uplinks[i].Leg(f)
			key := routes.Nexthop{Gateway: leg.Nexthop.Gateway, Index: leg.Nexthop.Index}
			owner, taken := owners[key]
			if !taken {
				owners[key] = u.Name
				continue
			}
			through := "no gateway"
			if key.Gateway.IsValid() {
				through = "gateway " + key.Gateway.String()
			}
			*leg = Leg{Wanted: leg.Wanted, Reason: fmt.Sprintf("uplink %s has %s on %s too: they are one for %s", owner, through, u.Interface, f.Name())}
			remedy := "give one of them another gateway"
			if f == routes.IPv6 {
				remedy = "give one of them another gateway6, or write gateway6 = \"off\""
			}
			if m.out(u.Name) == "" {
				m.warn("uplink %s: %s; %s", u.Name, leg.Reason, remedy)
			}
		}
	}
}

// out says why an uplink is taken out, by the configuration or by hand; empty:
// it is not.
func (m *maker) out(name string) string {
	if !m.Config.Uplink(name).Enabled {
		return "enabled = false in the configuration"
	}
	return m.Disabled[name]
}

// judge decides what an uplink is good for, and sums its legs up.
func (m *maker) judge(u *Uplink) {
	if why := m.out(u.Name); why != "" {
		u.State, u.Reason = Disabled, why
		u.V4.Linked, u.V6.Linked = false, false
		return
	}
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		m.judgeLeg(u, f)
	}
	switch {
	case !u.Usable():
		u.State, u.Reason = Down, u.V4.Reason
		if !u.V4.Linked && u.V6.Linked {
			u.Reason = u.V6.Reason
		}
	case !u.V4.Usable:
		u.Reason = "IPv6 only: " + u.V4.Reason
		if u.V6.Degraded {
			u.State, u.Reason = Degraded, u.V6.Reason
		}
	case u.V4.Degraded:
		u.State, u.Reason = Degraded, u.V4.Reason
	case u.V6.Wanted && !u.V6.Usable:
		u.Reason = "IPv4 only: " + u.V6.Reason
	case u.V6.Degraded:
		u.Reason = "IPv6 degraded: " + u.V6.Reason
	case u.V6.Usable:
		u.Reason = cmp.Or(u.V4.Reason, u.V6.Reason)
	default:
		u.Reason = u.V4.Reason
	}
}

// judgeLeg applies what the probes say.
func (m *maker) judgeLeg(u *Uplink, f routes.Family) {
	leg := u.Leg(f)
	if !leg.Linked {
		return
	}
	v := m.Health[health.Leg{Uplink: u.Name, Family: f}]
	leg.Usable = v.State != health.Down
	leg.Degraded = v.State == health.Degraded
	leg.Reason = v.Reason
}

// resolution is how a family finds its neighbours.
func resolution(f routes.Family) string {
	if f == routes.IPv4 {
		return "ARP"
	}
	return "neighbour discovery"
}

func linkReason(name string, l *routes.Link) string {
	switch {
	case l == nil:
		return fmt.Sprintf("interface %s does not exist (yet)", name)
	case !l.Up:
		return fmt.Sprintf("interface %s is switched off (ip link set %s up)", name, name)
	case !l.Carrier:
		return fmt.Sprintf("interface %s has no carrier (cable, modem)", name)
	}
	return ""
}

// resolveLeg finds gateway and addresses of one family.
func (m *maker) resolveLeg(c *config.Uplink, link *routes.Link, f routes.Family, g config.Gateway, leg *Leg) {
	name := f.Name()
	own := m.addresses(link.Index, f)
	chosen := slices.DeleteFunc(slices.Clone(c.Addresses), func(a netip.Addr) bool { return routes.FamilyOf(a) != f })
	if len(chosen) > 0 {
		present := slices.DeleteFunc(slices.Clone(chosen), func(a netip.Addr) bool {
			return !slices.ContainsFunc(own, func(o routes.Addr) bool { return o.Prefix.Addr() == a })
		})
		if len(present) == 0 {
			leg.Reason = fmt.Sprintf("address %s is not on %s (yet)", chosen[0], c.Interface)
			return
		}
		leg.Addresses = present
		own = slices.DeleteFunc(slices.Clone(own), func(o routes.Addr) bool { return !slices.Contains(present, o.Prefix.Addr()) })
	}
	if len(own) == 0 {
		leg.Reason = fmt.Sprintf("%s has no %s address (yet)", c.Interface, name)
		return
	}
	hop := routes.Nexthop{Interface: link.Name, Index: link.Index, Weight: 1}
	switch g.Mode {
	case config.GatewayAddress:
		hop.Gateway, hop.OnLink = g.Addr, g.OnLink
		if m.ownAddress(g.Addr, link.Index) {
			leg.Reason = fmt.Sprintf("gateway %s is this router's own address: write the provider's router", g.Addr)
			m.warn("uplink %s: %s", c.Name, leg.Reason)
			return
		}
		// Of the link-local ones only IPv6's are on every link.
		onLink := g.OnLink || link.PointToPoint || f == routes.IPv6 && g.Addr.IsLinkLocalUnicast()
		if !onLink && !slices.ContainsFunc(m.addresses(link.Index, f), holds(g.Addr)) {
			leg.Reason = fmt.Sprintf("gateway %s is in no subnet of %s: correct it, or if the provider really has it outside, write \"%s onlink\"", g.Addr, c.Interface, g.Addr)
			m.warn("uplink %s: %s", c.Name, leg.Reason)
			return
		}
	case config.GatewayNone:
		if f == routes.IPv6 && !link.PointToPoint {
			leg.Reason = fmt.Sprintf("%s is no point-to-point interface: name the provider's router in gateway6, or write gateway6 = \"off\"", c.Interface)
			m.warn("uplink %s: %s", c.Name, leg.Reason)
			return
		}
	case config.GatewayAuto:
		d, ok := m.learned(link, f, own, len(chosen) > 0)
		switch {
		case ok:
			hop.Gateway, hop.OnLink = d.Gateway, d.OnLink
		case !link.PointToPoint:
			leg.Reason = fmt.Sprintf("no %s gateway known on %s: nobody (DHCP, PPP, RA) has put a default route into table main yet", name, c.Interface)
			return
		}
	}
	if len(leg.Addresses) == 0 {
		leg.Addresses = subnetAddresses(own, hop.Gateway)
	}
	leg.Source = m.fixedSource(c, link, f, hop.Gateway, leg.Addresses, len(chosen) > 0)
	leg.Nexthop, leg.Linked = hop, true
	if slices.ContainsFunc(m.Facts.FailedNeighbours, func(n routes.Neighbour) bool { return n.Index == hop.Index && n.Addr == hop.Gateway }) {
		leg.Unmet = fmt.Sprintf("gateway %s does not answer on %s (%s): look at cable, modem and the provider's router", hop.Gateway, link.Name, resolution(f))
	}
}

// addresses are the usable global addresses of one family on an interface, in
// the kernel's order.
func (m *maker) addresses(index int, f routes.Family) []routes.Addr {
	return slices.DeleteFunc(slices.Clone(m.Facts.Addrs), func(a routes.Addr) bool {
		return a.Index != index || !a.Global || !a.Usable || routes.FamilyOf(a.Prefix.Addr()) != f
	})
}

// ownAddress reports whether a is the router's own; a link-local one has to be
// on that very interface.
func (m *maker) ownAddress(a netip.Addr, index int) bool {
	return slices.ContainsFunc(m.Facts.Addrs, func(o routes.Addr) bool {
		return o.Prefix.Addr() == a && (o.Index == index || !a.IsLinkLocalUnicast())
	})
}

// holds reports whether a gateway is in an address's subnet (as
// inet_ifa_match, linux/inetdevice.h: the peer's where there is one).
func holds(gateway netip.Addr) func(routes.Addr) bool {
	return func(a routes.Addr) bool {
		if a.Peer.IsValid() {
			return a.Peer.Masked().Contains(gateway)
		}
		return a.Prefix.Masked().Contains(gateway)
	}
}

// learned picks the interface's default route in table main: the lowest
// metric; where addresses were chosen, one whose gateway is in their subnets
// goes first.
func (m *maker) learned(link *routes.Link, f routes.Family, own []routes.Addr, chosen bool) (routes.DefaultRoute, bool) {
	var found []routes.DefaultRoute
	for _, d := range m.Facts.Defaults {
		if d.Family == f && d.Index == link.Index && (d.Gateway.IsValid() || link.PointToPoint) {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return routes.DefaultRoute{}, false
	}
	away := func(d routes.DefaultRoute) int {
		if !chosen || slices.ContainsFunc(own, holds(d.Gateway)) {
			return 0
		}
		return 1
	}
	return slices.MinFunc(found, func(a, b routes.DefaultRoute) int {
		return cmp.Or(cmp.Compare(away(a), away(b)), cmp.Compare(a.Metric, b.Metric), a.Gateway.Compare(b.Gateway))
	}), true
}

// subnetAddresses are the addresses of the gateway's subnet; all of them where
// the gateway is in none (point to point, link-local, on-link).
func subnetAddresses(own []routes.Addr, gateway netip.Addr) []netip.Addr {
	var all, near []netip.Addr
	for _, a := range own {
		all = append(all, a.Prefix.Addr())
		if gateway.IsValid() && holds(gateway)(a) {
			near = append(near, a.Prefix.Addr())
		}
	}
	if len(near) > 0 {
		return near
	}
	return all
}

// fixedSource returns the source address that masquerade would not choose by
// itself: for IPv4 it takes the first primary address of the gateway's subnet
// (inet_select_addr), for IPv6 any address of the interface
// (ipv6_dev_get_saddr), which is wrong where uplinks share one. There it is
// wrong for IPv4, too, from the moment when the address goes: masquerade would
// then take another uplink's.
func (m *maker) fixedSource(c *config.Uplink, link *routes.Link, f routes.Family, gateway netip.Addr, addresses []netip.Addr, chosen bool) netip.Addr {
	if m.shared(c.Interface) {
		return addresses[0]
	}
	if !chosen {
		return netip.Addr{}
	}
	if f == routes.IPv6 {
		return addresses[0]
	}
	var first, near netip.Addr
	for _, a := range m.addresses(link.Index, f) {
		if a.Secondary {
			continue
		}
		if !first.IsValid() {
			first = a.Prefix.Addr()
		}
		if !near.IsValid() && gateway.IsValid() && holds(gateway)(a) {
			near = a.Prefix.Addr()
		}
	}
	if !near.IsValid() {
		near = first
	}
	if near == addresses[0] {
		return netip.Addr{}
	}
	return addresses[0]
}
