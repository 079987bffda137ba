package plan

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/nat"
	"multiroute/routes"
)

// prefixes finds the prefixes that clients have, and what becomes of them on
// the uplinks that translate. It does not ask whether an uplink works: then one
// that comes or goes changes routes, not rules.
func (m *maker) prefixes() {
	inside := m.insidePrefixes()
	for i := range m.Uplinks {
		u, c := &m.Uplinks[i], &m.Config.Uplinks[i]
		if c.IPv6 != config.IPv6Prefix || !u.V6.Wanted {
			continue
		}
		own, why := m.ownPrefix(u, c)
		if !own.IsValid() {
			if u.V6.Linked { // else there is more to say of it
				m.warn("uplink %s: clients are masqueraded over IPv6: %s", c.Name, why)
			}
			continue
		}
		u.Delegated = own
		var without []netip.Prefix
		u.Translations, without = translations(inside, own, m.takenIn(own, u))
		for _, p := range without {
			m.warn("uplink %s: the clients of %s are masqueraded over IPv6: its prefix %s has no room for theirs", c.Name, p, own)
		}
		for j := range u.Translations {
			m.except(&u.Translations[j])
		}
	}
}

// insidePrefixes are the clients' IPv6 prefixes, those of the LAN interfaces,
// sorted and without those inside another.
func (m *maker) insidePrefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, name := range m.router.LAN {
		link := m.Facts.Link(name)
		if link == nil {
			continue
		}
		if slices.ContainsFunc(m.Uplinks, func(u Uplink) bool { return u.Interface == name }) {
			all = append(all, m.clientNetworks(link.Index, routes.IPv6)...)
			continue
		}
		for _, a := range m.addresses(link.Index, routes.IPv6) {
			all = append(all, a.Prefix.Masked())
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var apart []netip.Prefix
	for _, p := range all {
		if n := len(apart); !p.IsSingleIP() && (n == 0 || !apart[n-1].Overlaps(p)) {
			apart = append(apart, p)
		}
	}
	return apart
}

// providerBits is how much two addresses of one provider have in common at
// least: no registry gives a provider a smaller block than a /32.
const providerBits = 32

// ownPrefix finds the prefix that an uplink's provider has delegated, or says
// why there is none. A wrong one would be a leak, so what is not certain is
// nobody's.
func (m *maker) ownPrefix(u *Uplink, c *config.Uplink) (netip.Prefix, string) {
	if c.Prefix6.Mode == config.Prefix6Fixed {
		return c.Prefix6.Prefix, ""
	}
	var found []netip.Prefix
	for _, p := range m.Facts.Delegated {
		if m.provider(p) == u.Name {
			found = append(found, p)
		}
	}
	if len(found) > 0 {
		// One that is more like another uplink's address may be that one's, whose
		// address went with its interface. Else the one with the most room.
		return slices.MinFunc(found, func(a, b netip.Prefix) int {
			return cmp.Or(cmp.Compare(m.common(u, b), m.common(u, a)), cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
		}), ""
	}
	if c.Prefix6.Mode == config.Prefix6Within {
		return netip.Prefix{}, fmt.Sprintf("table main has no delegated prefix in %s (yet)", c.Prefix6.Prefix)
	}
	// The subnet of a line that leads to nobody but this router is its own, as
	// with mobile providers (RFC 7278). On a cable the provider's router would
	// look for each client there.
	if link := m.Facts.Link(c.Interface); link != nil && link.PointToPoint {
		for _, a := range m.addresses(link.Index, routes.IPv6) {
			if p := a.Prefix.Masked(); p.Bits() <= 64 && slices.Contains(u.V6.Addresses, a.Prefix.Addr()) && !a.Peer.IsValid() {
				return p, ""
			}
		}
	}
	if len(m.Facts.Delegated) > 0 {
		return netip.Prefix{}, fmt.Sprintf(`none of the delegated prefixes %s is certainly its own: write prefix6 = "in " and its provider's block`, m.Facts.Delegated)
	}
	return netip.Prefix{}, `no prefix is delegated (yet): have the DHCPv6 client ask for one (prefix delegation), or write prefix6`
}

// provider names the uplink whose provider has delegated p: by the
// configuration, or because its address is the provider's, too, and has more in
// common with p than any other's, or because no other uplink has IPv6. It returns
// "" where that is not certain.
func (m *maker) provider(p netip.Prefix) string {
	best, most, alone, others := "", providerBits-1, "", false
	for i := range m.Config.Uplinks {
		c := &m.Config.Uplinks[i]
		switch c.Prefix6.Mode {
		case config.Prefix6Fixed:
			if c.Prefix6.Prefix.Overlaps(p) {
				return ""
			}
			continue // it has that one, and not p
		case config.Prefix6Within:
			if c.Prefix6.Prefix.Bits() <= p.Bits() && c.Prefix6.Prefix.Contains(p.Addr()) {
				return c.Name
			}
			continue
		}
		if m.Uplinks[i].V6.Wanted {
			others, alone = others || alone != "", c.Name
		}
		switch common := m.common(&m.Uplinks[i], p); {
		case common > most:
			best, most = c.Name, common
		case common == most:
			best = ""
		}
	}
	switch {
	case most >= providerBits:
		return best
	case others:
		return ""
	}
	return alone
}

// common is how many bits of p an uplink's addresses begin with.
func (m *maker) common(u *Uplink, p netip.Prefix) int {
	link := m.Facts.Link(u.Interface)
	if link == nil {
		return 0
	}
	most := 0
	for _, o := range m.addresses(link.Index, routes.IPv6) {
		a := o.Prefix.Addr()
		if !m.shared(u.Interface) || slices.Contains(u.V6.Addresses, a) || slices.Contains(m.Config.Uplink(u.Name).Addresses, a) {
			most = max(most, commonBits(a, p))
		}
	}
	return most
}

func commonBits(a netip.Addr, p netip.Prefix) int {
	x, y := a.As16(), p.Addr().As16()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return min(i*8+bits.LeadingZeros8(d), p.Bits())
		}
	}
	return p.Bits()
}

// takenIn lists what hosts beside the router have of an uplink's own prefix.
func (m *maker) takenIn(own netip.Prefix, u *Uplink) []netip.Prefix {
	link := m.Facts.Link(u.Interface)
	var taken []netip.Prefix
	for _, a := range m.Facts.Addrs {
		p := a.Prefix.Masked()
		wholeLine := p == own && link != nil && link.Index == a.Index && link.PointToPoint
		if a.Global && p.Addr().Is6() && p.Overlaps(own) && !wholeLine {
			taken = append(taken, p)
		}
	}
	return taken
}

// translations gives each of the inside prefixes, which are sorted, one of the
// same length in own, and returns those for which there is no room. What is in
// own already stays. Others keep their number of the subnet where they can, so
// that it depends on nothing else; else it is the lowest one that is free.
func translations(inside []netip.Prefix, own netip.Prefix, taken []netip.Prefix) (all []nat.Translation, without []netip.Prefix) {
	const most = 1 << 12 // subnets that are tried
	outside := map[netip.Prefix]netip.Prefix{}
	use := func(p, to netip.Prefix) bool {
		if slices.ContainsFunc(taken, to.Overlaps) {
			return false
		}
		outside[p], taken = to, append(taken, to)
		return true
	}
	taken = slices.Clone(taken)
	for _, p := range inside {
		if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			outside[p], taken = p, append(taken, p)
		}
	}
	for _, p := range inside {
		if _, done := outside[p]; !done && own.Bits() <= p.Bits() {
			use(p, subnet(own, p))
		}
	}
	for _, p := range inside {
		if _, done := outside[p]; done || own.Bits() > p.Bits() {
			continue
		}
		next := netip.PrefixFrom(own.Addr(), p.Bits())
		for n := 0; n < most && own.Contains(next.Addr()) && !use(p, next); n++ {
			next = after(next)
		}
	}
	for _, p := range inside {
		if to, ok := outside[p]; ok {
			all = append(all, nat.Translation{Inside: p, Outside: to})
		} else {
			without = append(without, p)
		}
	}
	return all, without
}

// subnet is the one in own that has p's length and, behind own's, p's bits.
func subnet(own, p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(nat.SNATPrefix{To: own}.Translate(p.Addr()), p.Bits()).Masked()
}

// after is the next prefix of the same length.
func after(p netip.Prefix) netip.Prefix {
	a := p.Addr().As16()
	for i, add := (p.Bits()-1)/8, 1<<(7-(p.Bits()-1)%8); i >= 0 && add > 0; i-- {
		sum := int(a[i]) + add
		a[i], add = byte(sum), sum>>8
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), p.Bits())
}

// except leaves out clients that would get an address of the router itself.
func (m *maker) except(t *nat.Translation) {
	if t.Inside == t.Outside {
		return
	}
	for _, o := range m.Facts.Addrs {
		if a := o.Prefix.Addr(); t.Outside.Contains(a) {
			t.Except = append(t.Except, nat.SNATPrefix{To: t.Inside}.Translate(a))
		}
	}
}
