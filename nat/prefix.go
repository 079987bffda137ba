package nat

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Translation gives what leaves an uplink the uplink's own IPv6 prefix and keeps
// the rest of the address: every client has an address of its own there.
type Translation struct {
	Inside, Outside netip.Prefix // of one length; where they are the same, it leaves as it is
	// Except are addresses in Inside that are masqueraded: what they would become
	// is the router's own.
	Except []netip.Addr
}

// asItIs reports whether the translation changes nothing.
func (t Translation) asItIs() bool { return t.Inside == t.Outside }

// SNATPrefix NATs the source one to one to another prefix (NF_NAT_RANGE_NETMAP,
// nft_nat_setup_netmap, net/netfilter/nft_nat.c; Linux 5.8). IPv6 only.
type SNATPrefix struct{ To netip.Prefix }

func (s SNATPrefix) String() string { return "snat ip6 prefix to " + s.To.String() }

// Translate returns what a source becomes: the prefix, and the host's own bits.
func (s SNATPrefix) Translate(a netip.Addr) netip.Addr {
	to, host := s.To.Masked().Addr().As16(), a.As16()
	for i := s.To.Bits(); i < len(to)*8; i++ {
		to[i/8] |= host[i/8] & (0x80 >> (i % 8))
	}
	return netip.AddrFrom16(to)
}

// snatPrefix loads the first and the last address of the prefix; the bits in
// which they differ are the host's.
func (e *encoded) snatPrefix(s SNATPrefix) {
	to := prefixes([]netip.Prefix{s.To})[0]
	first, last := reg32(0), reg32(4)
	e.add(&expr.Immediate{Register: first, Data: []byte(to.Raw)}, &expr.Immediate{Register: last, Data: []byte(to.Hi)},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: first, RegAddrMax: last, Prefix: true})
}

// translations NAT clients' connections of the uplink by prefix. The router's
// own are masqueraded, from whatever address: nobody out there should find it by
// an address of its LAN.
func (c *compiler) translations(u Uplink) []Rule {
	var rules []Rule
	if u.Mark == 0 {
		return nil // nothing is bound to it
	}
	for _, t := range u.Translations {
		rule := Rule{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(u.Mark)}}, Match{Field: Source6, Values: prefixes([]netip.Prefix{t.Inside})}}
		if len(t.Except) > 0 {
			rule = append(rule, Match{Field: Source6, Op: IsNot, Values: addresses(t.Except)})
		}
		rules = append(rules, append(rule, Match{Field: SourceType, Op: IsNot, Values: []Value{local}}, SNATPrefix{t.Outside}))
	}
	return rules
}

// unasked drops what nobody behind the router asked for and what comes in to an
// address of an uplink's own prefix. Routing would answer it with "unreachable",
// from any address of the interface, and on a shared one that is another
// uplink's. Port forwards are about addresses of the router.
func (c *compiler) unasked() []Rule {
	var own []netip.Prefix
	for _, u := range c.Uplinks {
		if u.Delegated.IsValid() {
			own = append(own, u.Delegated)
		}
	}
	if len(own) == 0 || !c.Guard {
		return nil
	}
	var rules []Rule
	rest := []Statement{Match{Field: Dest6, Values: prefixes(own)}, Match{Field: DestType, Op: IsNot, Values: []Value{local}}, Verdict{Kind: Drop}}
	outside := Match{Field: InInterface}
	for _, name := range c.interfaces {
		inside := prefixes(family(c.networks(name), true))
		if len(inside) == 0 {
			outside.Values = append(outside.Values, ifname(name))
			continue
		}
		// What clients send is judged when it leaves.
		rules = append(rules, slices.Concat(Rule{Match{Field: InInterface, Values: []Value{ifname(name)}}, Match{Field: Source6, Op: IsNot, Values: inside}}, rest))
	}
	if len(outside.Values) > 0 {
		rules = append(rules, slices.Concat(Rule{outside}, rest))
	}
	return rules
}

// translated is the guard's rule about connections NATed by prefix. The kernel
// ends a masqueraded one when its packets leave by another interface
// (nf_nat_oif_changed, net/netfilter/nf_nat_masquerade.c), but not these. In
// answers are the chains that let them leave by their uplink's interface only.
func (c *compiler) translated(answers Map) []Rule {
	var inside []netip.Prefix
	m := Map{Field: answers.Field, Mask: answers.Mask}
	for _, u := range c.Uplinks {
		for _, t := range u.Translations {
			inside = append(inside, t.Inside)
		}
		i := slices.IndexFunc(answers.Entries, func(e MapEntry) bool { return e.Value == mark(u.Mark) })
		if i >= 0 && len(u.Translations) > 0 {
			m.Entries = append(m.Entries, answers.Entries[i])
		}
	}
	if len(m.Entries) == 0 {
		return nil
	}
	return []Rule{{Match{Field: Source6, Values: prefixes(inside)}, Match{Field: ConnStatus, Op: AnyBit, Values: []Value{snat}}, m}}
}

// asTheyAre gives v to the packets of connections whose clients have the
// uplink's own prefix already: leaving by the uplink's interface, or coming in.
func (c *compiler) asTheyAre(leaving bool, v Verdict) []Rule {
	field, way := Dest6, InInterface
	if leaving {
		field, way = Source6, OutInterface
	}
	var rules []Rule
	for _, u := range c.Uplinks {
		var own []netip.Prefix
		for _, t := range u.Translations {
			if t.asItIs() && u.Mark != 0 {
				own = append(own, t.Inside)
			}
		}
		if len(own) == 0 {
			continue
		}
		rule := Rule{Match{Field: way, Values: []Value{ifname(u.Interface)}}, Match{Field: field, Values: prefixes(own)},
			Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(u.Mark)}}}
		if !leaving {
			rule = append(rule, Match{Field: ConnState, Op: AnyBit, Values: []Value{established, related}})
			if all := c.outUplink(IsNot); len(c.Networks) == 0 { // nothing goes from one uplink to another
				rule = append(rule, all)
			}
		}
		rules = append(rules, append(rule, v))
	}
	return rules
}
