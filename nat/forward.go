package nat

import (
	"net/netip"
	"slices"
)

// PortForward leads ports of the uplinks' addresses to a server.
type PortForward struct {
	Protocol uint8 // IPPROTO_TCP, IPPROTO_UDP
	Port     uint16
	Last     uint16         // the last port of a range; 0: Port alone
	To       netip.AddrPort // where Port leads
	// OneForOne: the ports behind Port lead to those behind To's. Else all lead
	// to To's.
	OneForOne bool
	Uplinks   []int          // IDs; empty: all
	Sources   []netip.Prefix // who may use it, of To's family; empty: all
	Hairpin   bool           // clients may use it, too, by the uplinks' Public addresses
}

func (f PortForward) last() uint16 { return max(f.Port, f.Last) }

// target is where a port of the forward leads.
func (f PortForward) target(port uint16) netip.AddrPort {
	if f.OneForOne {
		return netip.AddrPortFrom(f.To.Addr(), f.To.Port()+port-f.Port)
	}
	return f.To
}

// Equal reports whether two forwards do the same.
func (f PortForward) Equal(o PortForward) bool {
	return f.Protocol == o.Protocol && f.Port == o.Port && f.last() == o.last() && f.To == o.To && f.OneForOne == o.OneForOne &&
		f.Hairpin == o.Hairpin && slices.Equal(f.Uplinks, o.Uplinks) && slices.Equal(f.Sources, o.Sources)
}

// Leads reports whether the forward leads a source's packets to a port of an
// uplink's address to a server: those that come in by it or, with client, from
// the LAN.
func (f PortForward) Leads(protocol uint8, source netip.Addr, port uint16, uplink int, client bool, to netip.AddrPort) bool {
	return f.Protocol == protocol && f.Port <= port && port <= f.last() && f.target(port) == to &&
		(len(f.Sources) == 0 || slices.ContainsFunc(f.Sources, func(p netip.Prefix) bool { return p.Contains(source) })) &&
		(len(f.Uplinks) == 0 || slices.Contains(f.Uplinks, uplink)) && (f.Hairpin || !client)
}

// portForwards changes the destination of connections to one of the router's
// own addresses that came in from an uplink, and of clients' to the public ones.
func (c *compiler) portForwards() {
	if len(c.Forwards) == 0 || len(c.Uplinks) == 0 {
		return
	}
	hairpin := c.hairpins()
	all := c.dnat(hairpin, func(f PortForward) bool { return len(f.Uplinks) == 0 })
	if hairpin && len(all) > 0 {
		c.chain(Chain{Name: forwardAll, Rules: all})
		all = []Rule{{Verdict{Goto, forwardAll}}}
	}
	some := Map{Field: ConnMark, Mask: c.Mask}
	public := [2]Map{{Field: Dest4}, {Field: Dest6}}
	seen := map[netip.Addr]bool{}
	for _, u := range c.Uplinks {
		if u.Mark == 0 {
			continue // binds nothing, so nothing comes in by it
		}
		target := forwardAll
		if r := c.dnat(hairpin, func(f PortForward) bool { return slices.Contains(f.Uplinks, u.ID) }); len(r) > 0 {
			target = u.chain(forwardChain)
			c.chain(Chain{Name: target, Rules: append(r, all...)})
			some.Entries = append(some.Entries, MapEntry{mark(u.Mark), Verdict{Goto, target}})
		} else if len(all) == 0 {
			continue
		}
		for _, a := range u.Public {
			if m := &public[index(a.Is6())]; !seen[a] { // of two uplinks with one address the first gets it
				seen[a] = true
				m.Entries = append(m.Entries, MapEntry{address(a), Verdict{Goto, target}})
			}
		}
	}
	unbound := Verdict{Kind: Return}
	if hairpin {
		unbound = Verdict{Goto, "hairpin"}
		c.chain(Chain{Name: "hairpin", Rules: c.hairpin(public)})
	}
	rules := []Rule{
		{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(0)}}, unbound},
		{Match{Field: DestType, Op: IsNot, Values: []Value{local}}, Verdict{Kind: Return}},
	}
	if len(some.Entries) > 0 {
		rules = append(rules, Rule{some})
	}
	c.chain(Chain{Name: "forward_ports", Type: NAT, Hook: Prerouting, Priority: priorityDNAT, Rules: append(rules, all...)})
}

// forwardAll is the chain for the forwards of all uplinks, where clients use
// them, too.
const forwardAll = forwardChain + "all"

func index(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// hairpins reports whether clients can use a forward by a public address.
func (c *compiler) hairpins() bool {
	return len(c.LAN) > 0 && slices.ContainsFunc(c.Forwards, func(f PortForward) bool { return f.Hairpin }) &&
		slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Mark != 0 && len(u.Public) > 0 })
}

// hairpin leads clients that ask for an uplink's address to its forwards.
// Routing brings them from there to a server that is connected or in the main
// table, whatever policy a rule has chosen.
func (c *compiler) hairpin(public [2]Map) []Rule {
	rules := []Rule{{Match{Field: InInterface, Op: IsNot, Values: c.lan()}, Verdict{Kind: Return}}}
	for _, m := range public {
		if len(m.Entries) > 0 {
			rules = append(rules, Rule{m})
		}
	}
	return rules
}

// lan lists the interfaces with clients, each once.
func (c *compiler) lan() []Value {
	var names []Value
	for _, name := range c.LAN {
		if v := ifname(name); !slices.Contains(names, v) {
			names = append(names, v)
		}
	}
	return names
}

// around masquerades what went to a server by a public address and leaves by
// the interface that it came from: client and server are neighbours there, and
// the server would answer the client directly, with an address that the client
// does not know.
// What is bound to an uplink came from there, where it shares the interface.
func (c *compiler) around(name string) Rule {
	return Rule{Match{Field: OutInterface, Values: []Value{ifname(name)}}, Match{Field: InInterface, Values: []Value{ifname(name)}},
		Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(0)}},
		Match{Field: ConnStatus, Op: AnyBit, Values: []Value{dnatted}}, Masquerade{}}
}

// dnat makes a map of the forwards that are chosen, or several: by family, and
// for those that a hash cannot hold, because they have ranges or sources, or
// those that keep the port. With hairpin, those that are not for clients come
// last. The first forward of a port wins.
func (c *compiler) dnat(hairpin bool, chosen func(PortForward) bool) []Rule {
	type kind struct {
		v6, bySource, keep, bound bool
	}
	entries := map[kind][]DNATEntry{}
	taken := map[uint32]bool{} // by family, protocol and port
	for _, f := range c.Forwards {
		if !chosen(f) {
			continue
		}
		v6 := f.To.Addr().Is6()
		k := kind{v6: v6, bound: hairpin && !f.Hairpin, bySource: len(f.Sources) > 0}
		for _, r := range f.free(func(port uint16) bool {
			key := uint32(index(v6))<<24 | uint32(f.Protocol)<<16 | uint32(port)
			was := taken[key]
			taken[key] = true
			return !was
		}) {
			k := k
			e := DNATEntry{Protocol: f.Protocol, Port: r[0], To: f.target(r[0])}
			if r[0] != r[1] {
				k.bySource = true
				k.keep = f.OneForOne && f.To.Port() == f.Port
			}
			if !k.bySource {
				entries[k] = append(entries[k], e)
				continue
			}
			e.Last = r[1]
			for _, source := range sources(f.Sources, v6) {
				e.Source = source
				entries[k] = append(entries[k], e)
			}
		}
	}
	var rules []Rule
	for _, bound := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			for _, k := range []kind{{v6, false, false, bound}, {v6, true, false, bound}, {v6, true, true, bound}} {
				if len(entries[k]) == 0 {
					continue
				}
				var rule Rule
				if bound {
					rule = Rule{Match{Field: ConnMark, Mask: c.Mask, Op: IsNot, Values: []Value{mark(0)}}}
				}
				if k.bySource { // nft(8) asks for it
					rule = append(rule, Match{Field: Protocol, Values: []Value{tcp, udp}})
				}
				rules = append(rules, append(rule, DNAT{IPv6: v6, BySource: k.bySource, KeepPort: k.keep, Entries: entries[k]}))
			}
		}
	}
	return rules
}

// free cuts the forward's ports into ranges that one entry can hold and that
// nobody has taken: single ports where the target's port follows the port.
func (f PortForward) free(take func(uint16) bool) [][2]uint16 {
	alone := f.OneForOne && f.To.Port() != f.Port
	var all [][2]uint16
	for port := int(f.Port); port <= int(f.last()); port++ {
		p := uint16(port)
		switch n := len(all); {
		case !take(p):
		case n > 0 && !alone && int(all[n-1][1]) == port-1:
			all[n-1][1] = p
		default:
			all = append(all, [2]uint16{p, p})
		}
	}
	return all
}

// sources are prefixes that do not overlap; all of the family where there are
// none.
func sources(all []netip.Prefix, v6 bool) []netip.Prefix {
	switch {
	case len(all) > 0:
		return apart(family(all, v6))
	case v6:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
}
