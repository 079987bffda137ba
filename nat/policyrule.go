package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// PolicyRule sends new connections to a policy. All that is given must match;
// each list means any of its elements, an empty one anything.
type PolicyRule struct {
	Name        string // for people; it becomes no part of the rules in the kernel
	From, To    []netip.Prefix
	ToLists     []string  // the destination is in one of these Spec.Lists
	Interfaces  []string  // by which clients' packets come in
	MACs        [][6]byte // Ethernet sources
	Protocols   []uint8   // IPPROTO_*
	Ports       []PortRange
	SourcePorts []PortRange // ports without Protocols: of TCP and UDP
	DSCP        []uint8     // 0..63
	Local       bool        // the router's own connections, and no client's
	UIDs        []uint32    // of the sockets' owners; with Local only
	Policy      uint32      // mark of one of Spec.Policies; of none: no mark, the default policy
}

// PortRange is a range of ports, Hi included.
type PortRange struct{ Lo, Hi uint16 }

// part is a PolicyRule, or what it says of one family or one DSCP: fields that
// all must match.
type part struct {
	family  byte // NFPROTO_IPV4, NFPROTO_IPV6; 0: both
	fields  []partField
	verdict Verdict
}

// partField is a field and what it may be: values, or what is in a list's set.
type partField struct {
	field Field
	spans []span
	set   string
}

func (f partField) equal(o partField) bool {
	return f.field == o.field && f.set == o.set && slices.Equal(f.spans, o.spans)
}

// partOrder is the order in which a part's fields are compared: those that cost
// least first.
var partOrder = []Field{InInterface, SocketUID, IPv6, Protocol, SourcePort, DestPort, DSCP4, DSCP6, Source4, Dest4, Source6, Dest6, EtherSource}

// parts takes a rule apart. There may be none: such a rule matches nothing.
func (r PolicyRule) parts(v Verdict) []part {
	base := part{verdict: v}
	var names, macs, uids []span
	for _, name := range r.Interfaces {
		names = append(names, point(ifname(name).Raw))
	}
	for _, m := range r.MACs {
		macs = append(macs, point(string(m[:])))
	}
	for _, u := range r.UIDs {
		uids = append(uids, point(string(native(u))))
	}
	base.add(InInterface, names)
	base.add(EtherSource, macs)
	base.add(SocketUID, uids)
	if !base.addTransport(r) {
		return nil
	}
	if len(r.From) == 0 && len(r.To) == 0 && len(r.DSCP) == 0 && len(r.ToLists) == 0 {
		return []part{base.sorted()}
	}
	var all []part
	for _, v6 := range []bool{false, true} {
		p := base
		p.fields = slices.Clone(base.fields)
		p.family = nfproto(v6).Raw[0]
		if !p.addPrefixes(source(v6), r.From, v6) || !p.addPrefixes(destination(v6), r.To, v6) {
			continue
		}
		for _, p := range p.withLists(r.ToLists, v6) {
			if len(r.DSCP) == 0 {
				all = append(all, p.sorted())
			}
			for _, d := range slices.Compact(slices.Sorted(slices.Values(r.DSCP))) {
				one := p
				one.fields = slices.Clone(p.fields)
				one.add(choose(v6, DSCP6, DSCP4), []span{point(dscp(v6, d))})
				all = append(all, one.sorted())
			}
		}
	}
	return all
}

// dscp is a DSCP where it stands in the first bytes of a packet: above ECN in
// the second byte of IPv4, behind the version in the first two of IPv6.
func dscp(v6 bool, d uint8) string {
	if v6 {
		return string(binary.BigEndian.AppendUint16(nil, uint16(d&0x3f)<<6))
	}
	return string([]byte{d & 0x3f << 2})
}

func point(raw string) span { return span{raw, raw} }

// add adds a field; one that may be anything is none.
func (p *part) add(f Field, list []span) {
	p.addOrdered(f, joined(f, spans(list)))
}

// addOrdered is add for ranges that joined has made.
func (p *part) addOrdered(f Field, list []span) {
	if len(list) > 0 {
		p.fields = append(p.fields, partField{field: f, spans: list})
	}
}

// sorted puts the fields in order. What only the family says becomes a field,
// too, where no other field says it.
func (p part) sorted() part {
	if p.family != 0 && !slices.ContainsFunc(p.fields, func(f partField) bool { return familyOf(f.field) != 0 }) {
		p.add(IPv6, []span{point(string([]byte{p.family}))})
	}
	slices.SortStableFunc(p.fields, func(a, b partField) int {
		return slices.Index(partOrder, a.field) - slices.Index(partOrder, b.field)
	})
	return p
}

// addTransport adds protocols and ports; false if no protocol can have the
// ports.
func (p *part) addTransport(r PolicyRule) bool {
	protocols := slices.Clone(r.Protocols)
	if len(r.Ports) > 0 || len(r.SourcePorts) > 0 {
		if len(protocols) == 0 {
			protocols = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}
		}
		if protocols = slices.DeleteFunc(protocols, func(x uint8) bool { return !hasPorts(x) }); len(protocols) == 0 {
			return false
		}
	}
	var list []span
	for _, x := range protocols {
		list = append(list, point(string([]byte{x})))
	}
	p.add(Protocol, list)
	return p.addPorts(SourcePort, r.SourcePorts) && p.addPorts(DestPort, r.Ports)
}

func (p *part) addPorts(f Field, ports []PortRange) bool {
	var list []span
	for _, x := range ports {
		if x.Lo <= x.Hi {
			list = append(list, span{string(binary.BigEndian.AppendUint16(nil, x.Lo)), string(binary.BigEndian.AppendUint16(nil, x.Hi))})
		}
	}
	if len(ports) > 0 && len(list) == 0 {
		return false
	}
	if list = joined(f, spans(list)); !slices.Equal(list, everything(f)) {
		p.add(f, list)
	}
	return true
}

// addPrefixes adds the addresses of one family; false if there are only others.
func (p *part) addPrefixes(f Field, all []netip.Prefix, v6 bool) bool {
	n := 0
	for _, x := range all {
		if x.Addr().Is6() == v6 {
			n++
		}
	}
	list := make([]span, 0, n)
	for _, x := range all {
		if x.Addr().Is6() == v6 {
			list = append(list, prefixSpan(x))
		}
	}
	if len(all) > 0 && n == 0 {
		return false
	}
	if list = joined(f, spans(list)); !slices.Equal(list, everything(f)) {
		p.addOrdered(f, list)
	}
	return true
}

// everything is the list of all values of a field.
func everything(f Field) []span {
	n := fieldBytes(f)
	return []span{{strings.Repeat("\x00", n), strings.Repeat("\xff", n)}}
}

func prefixSpan(x netip.Prefix) span {
	lo := x.Masked().Addr().AsSlice()
	if x.IsSingleIP() {
		return point(string(lo))
	}
	hi := slices.Clone(lo)
	for i := x.Bits(); i < len(hi)*8; i++ {
		hi[i/8] |= 0x80 >> (i % 8)
	}
	return span{string(lo), string(hi)}
}

// familyOf is the family of the packets that have a field; 0: both.
func familyOf(f Field) byte {
	switch f {
	case Source4, Dest4, DSCP4:
		return unix.NFPROTO_IPV4
	case Source6, Dest6, DSCP6, ICMPv6Type:
		return unix.NFPROTO_IPV6
	}
	return 0
}

// chosen is what PolicyRules become: rules for clients and for the router's own
// connections, and the sets that they look things up in.
type chosen struct {
	clients, own []Chain // each leads to the next; the last one may be without rules
	sets         []Set
	chains       []Chain // of long sets
}

// policyRules compiles PolicyRules.
func policyRules(rules []PolicyRule, policies []Policy) chosen {
	targets, locals := map[uint32]Verdict{}, map[uint32]Verdict{}
	for _, p := range policies {
		targets[p.Mark], locals[p.Mark] = Verdict{Goto, p.chain()}, Verdict{Goto, p.localChain()}
	}
	var clients, own []*group
	for _, r := range rules {
		targets, groups := targets, &clients
		if r.Local {
			targets, groups = locals, &own
		}
		target, ok := targets[r.Policy]
		if !ok {
			target = Verdict{Kind: Return}
		}
		for _, p := range r.parts(target) {
			*groups = join(*groups, p)
		}
	}
	var c chosen
	c.clients, c.own = c.groupRules(clients, rulesChain), c.groupRules(own, ownRulesChain)
	return c
}

// groupRules makes a rule of each group, and another chain behind each long set.
func (c *chosen) groupRules(groups []*group, name string) []Chain {
	chains := []Chain{{Name: name}}
	for _, g := range groups {
		here, rest := &chains[len(chains)-1], fmt.Sprintf("%s-%d", name, len(chains)+1)
		pieces := len(c.chains)
		here.Rules = append(here.Rules, c.groupRule(g, rest))
		if len(c.chains) > pieces {
			here.Rules = append(here.Rules, Rule{Verdict{Goto, rest}})
			chains = append(chains, Chain{Name: rest})
		}
	}
	return chains
}

// maxValues is how many values a rule compares with in its own text; more of
// them make a named set.
const maxValues = 16

// groupRule makes one rule of a group. Behind it, what is in no piece of a long
// set goes on in the chain rest.
func (c *chosen) groupRule(g *group, rest string) Rule {
	var rule Rule
	first, varying := g.parts[0], g.varying
	if len(varying) == 0 {
		varying = first.long()
	}
	for i, f := range first.fields {
		if !slices.Contains(varying, i) {
			if f.set != "" {
				rule = append(rule, Lookup{Fields: []Field{f.field}, Set: f.set})
				continue
			}
			rule = append(rule, c.match(f.field, f.spans))
		}
	}
	same := !slices.ContainsFunc(g.elements, func(e Element) bool { return e.Verdict != first.verdict })
	switch {
	case len(varying) == 0:
		return append(rule, first.verdict)
	case len(g.varying) == 0:
		f := first.fields[varying[0]]
		return append(rule, c.pieces(setOf(f.field, f.spans), first.verdict, rest))
	case len(g.varying) == 1 && same:
		field := first.fields[g.varying[0]].field
		list := make([]span, len(g.elements))
		for i, e := range g.elements {
			list[i] = span{e.Lo, e.Hi}
		}
		list = joined(field, list)
		if long(field, len(list)) {
			return append(rule, c.pieces(setOf(field, list), first.verdict, rest))
		}
		return append(rule, c.match(field, list), first.verdict)
	}
	s := Set{Verdicts: true, Elements: g.elements}
	for _, i := range g.varying {
		s.Fields = append(s.Fields, first.fields[i].field)
	}
	if len(s.Fields) == 1 && long(s.Fields[0], len(s.Elements)) {
		return append(rule, c.pieces(s, Verdict{}, rest))
	}
	return append(rule, c.lookup(s))
}

// long returns the index of the field with the longest long list, alone; nil if
// there is none.
func (p part) long() []int {
	var best []int
	for i, f := range p.fields {
		if long(f.field, len(f.spans)) && (best == nil || len(f.spans) > len(p.fields[best[0]].spans)) {
			best = []int{i}
		}
	}
	return best
}

// match compares a field with values, or looks many up in a set.
func (c *chosen) match(f Field, list []span) Statement {
	if len(list) <= maxValues {
		m := Match{Field: f}
		for _, s := range list {
			v := s.value(f)
			switch f {
			case DSCP4:
				v.Text = fmt.Sprint(s.lo[0] >> 2)
			case DSCP6:
				v.Text = fmt.Sprint(binary.BigEndian.Uint16([]byte(s.lo)) >> 6)
			case IPv6:
				v = nfproto(s.lo == ipv6.Raw)
			}
			m.Values = append(m.Values, v)
		}
		return m
	}
	return c.lookup(setOf(f, list))
}

// setOf makes a set of ranges.
func setOf(f Field, list []span) Set {
	s := Set{Fields: []Field{f}, Elements: make([]Element, len(list))}
	for i, x := range list {
		s.Elements[i] = Element{Lo: x.lo, Hi: x.hi}
	}
	return s
}

// lookup adds a set to the table, once, and looks its fields up in it.
func (c *chosen) lookup(s Set) Lookup {
	s = s.named()
	if !slices.ContainsFunc(c.sets, func(o Set) bool { return o.Name == s.Name }) {
		c.sets = append(c.sets, s)
	}
	return Lookup{Fields: s.Fields, Map: s.Verdicts, Set: s.Name}
}
