package nat

import "slices"

// maxEntries bounds the entries of one map: one netlink attribute holds 64 KiB.
const maxEntries = 500

// portForwards changes the destination of connections that came in from an
// uplink to one of the router's own addresses.
func (c *compiler) portForwards() {
	if len(c.Forwards) == 0 || len(c.Uplinks) == 0 {
		return
	}
	rules := []Rule{
		{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(0)}}, Verdict{Kind: Return}},
		{Match{Field: DestType, Op: IsNot, Values: []Value{local}}, Verdict{Kind: Return}},
	}
	some := Map{Field: ConnMark, Mask: c.Mask}
	for _, u := range c.Uplinks {
		if u.Mark == 0 {
			continue // binds nothing, so nothing comes in by it
		}
		if r := dnat(c.Forwards, func(f PortForward) bool { return slices.Contains(f.Uplinks, u.ID) }); len(r) > 0 {
			if all := c.forAll(); len(all) > 0 {
				r = append(r, all...)
			}
			c.chain(Chain{Name: u.chain(forwardChain), Rules: r})
			some.Entries = append(some.Entries, MapEntry{mark(u.Mark), Verdict{Goto, u.chain(forwardChain)}})
		}
	}
	if len(some.Entries) > 0 {
		rules = append(rules, Rule{some})
	}
	rules = append(rules, c.forAll()...)
	c.chain(Chain{Name: "forward_ports", Type: NAT, Hook: Prerouting, Priority: priorityDNAT, Rules: rules})
}

func (c *compiler) forAll() []Rule {
	return dnat(c.Forwards, func(f PortForward) bool { return len(f.Uplinks) == 0 })
}

func dnat(forwards []PortForward, chosen func(PortForward) bool) []Rule {
	var rules []Rule
	for _, v6 := range []bool{false, true} {
		var entries []DNATEntry
		taken := map[[2]uint16]bool{} // the first forward of a port wins
		for _, f := range forwards {
			port := [2]uint16{uint16(f.Protocol), f.Port}
			if chosen(f) && f.To.Addr().Is6() == v6 && !taken[port] {
				taken[port] = true
				entries = append(entries, DNATEntry{f.Protocol, f.Port, f.To})
			}
		}
		for chunk := range slices.Chunk(entries, maxEntries) {
			rules = append(rules, Rule{DNAT{IPv6: v6, Entries: chunk}})
		}
	}
	return rules
}
