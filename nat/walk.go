package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection.
type Packet struct {
	In                   string // the interface it comes in by; empty: the router sends it
	Out                  string // the interface by which the router sends it, before rules choose a policy
	Source, Destination  netip.Addr
	SourcePort, DestPort uint16     // 0 where the protocol has none
	Nexthop              netip.Addr // the gateway to Out; invalid: the destination is a neighbour
	Protocol             uint8      // IPPROTO_*
	MAC                  [6]byte    // of who sent the frame
	DSCP                 uint8
	UID                  uint32 // the owner of the router's socket
	ToRouter             bool   // the destination is an address of the router
}

// Walk is a packet on its way through a Ruleset, as the kernel would take it:
// Prerouting and Forward, or Output, and then Postrouting. Each reports whether
// the packet passes; Trace tells what it met.
type Walk struct {
	w walker
	p packet
}

// Walk begins the way of a packet that nobody has seen before. Holds tells what
// is in dynamic sets, whose keys are a packet's fields as in Value.Raw; nil:
// nothing.
func (r Ruleset) Walk(p Packet, holds func(set, key string) bool) *Walk {
	return &Walk{walker{rules: r, holds: holds}, packet{in: p.In, out: p.Out, src: p.Source, dst: p.Destination, nexthop: p.Nexthop, mac: p.MAC, proto: p.Protocol,
		sport: p.SourcePort, dport: p.DestPort, dscp: p.DSCP, uid: p.UID, toUs: p.ToRouter, conn: &conn{state: stateNew, first: true}}}
}

// Prerouting is what happens before what came in is routed.
func (w *Walk) Prerouting() bool { return w.w.hook(Prerouting, &w.p) }

// Output is what happens to what the router sends.
func (w *Walk) Output() bool { return w.w.hook(Output, &w.p) }

// Forward is what happens to what came in and was routed to another interface,
// by the gateway nexthop if that is valid.
func (w *Walk) Forward(out string, nexthop netip.Addr) bool {
	w.p.out, w.p.nexthop = out, nexthop
	return w.w.hook(Forward, &w.p)
}

// Postrouting is what happens when the way is known for good.
func (w *Walk) Postrouting(out string, nexthop netip.Addr) bool {
	w.p.out, w.p.nexthop = out, nexthop
	return w.w.hook(Postrouting, &w.p)
}

// Mark is the packet's mark now, ConnMark its connection's.
func (w *Walk) Mark() uint32 { return w.p.mark }

// ConnMark is the mark of the connection now.
func (w *Walk) ConnMark() uint32 { return w.p.conn.mark }

// Destination is where the packet goes now, after a port forward.
func (w *Walk) Destination() netip.AddrPort { return netip.AddrPortFrom(w.p.dst, w.p.dport) }

// Source says what the source becomes: an address, one that the kernel chooses
// (masquerade), or neither: it stays.
func (w *Walk) Source() (to netip.Addr, masquerade bool) { return w.p.conn.snat, w.p.conn.masq }

// Trace lists the verdicts that the packet met: the chain's name and the rule.
func (w *Walk) Trace() []string { return w.w.trace }

// Lookups lists what the walk has looked up in constant sets, in order.
func (w *Walk) Lookups() []Asked { return w.w.asked }

// Err tells what kept the walk from being one: rules that Compile does not make.
func (w *Walk) Err() error { return w.w.err }

// packet is what the interpreter knows of one packet.
type packet struct {
	in, out  string // interfaces; "" for the router itself
	src, dst netip.Addr
	nexthop  netip.Addr // the gateway that routing chose; invalid: dst is a neighbour
	mac      [6]byte
	proto    uint8
	middle   bool // TCP: neither SYN nor RST
	reset    bool // it was answered with a reset
	sport    uint16
	dport    uint16
	dscp     uint8
	uid      uint32 // of the router's own
	toUs     bool   // dst is an address of the router
	mark     uint32
	segment  uint16 // what a SYN was lowered to; 0: nothing
	conn     *conn  // nil: untracked
}

// conn is a packet's connection.
type conn struct {
	mark    uint32
	state   uint32 // of this packet: bits of "ct state"
	status  uint32
	reply   bool
	first   bool // nobody saw a packet of it yet: nat chains run
	snat    netip.Addr
	masq    bool
	ports   PortRange // what the source's port is to be in; zero: nothing
	dnat    netip.AddrPort
	natDone [2]bool // source, destination
}

const (
	stateNew         = 8
	statusConfirmed  = 1 << 3
	statusSNAT       = 1 << 4
	statusDNAT       = 1 << 5
	natHookDest      = -100 // where the kernel runs all nat chains, whatever their own priority
	natHookSource    = 100
	verdictNone      = VerdictKind("")
	maxChainsInARule = 50
)

// walker runs packets through a ruleset.
type walker struct {
	rules Ruleset
	holds func(set, key string) bool // whether a dynamic set has an element; nil: all are empty
	// changed are the elements that packets of the walk added (true) or deleted,
	// by set and key.
	changed map[[2]string]bool
	trace   []string
	chains  []string // where it has been
	asked   []Asked
	at      Asked // the next one's place
	err     error // the first that went wrong; the packet is dropped then
}

func (w *walker) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// hook runs all chains of one hook; false means dropped.
func (w *walker) hook(h Hook, p *packet) bool {
	type entry struct {
		priority int
		chains   []Chain
		nat      bool
	}
	var entries []entry
	natAt := entry{priority: natHookDest, nat: true}
	if h == Postrouting {
		natAt.priority = natHookSource
	}
	for _, c := range w.rules.Chains {
		switch {
		case c.Hook != h:
		case c.Type == NAT:
			natAt.chains = append(natAt.chains, c)
		default:
			entries = append(entries, entry{priority: int(c.Priority), chains: []Chain{c}})
		}
	}
	slices.SortStableFunc(natAt.chains, func(a, b Chain) int { return int(a.Priority - b.Priority) })
	entries = append(entries, natAt)
	slices.SortStableFunc(entries, func(a, b entry) int { return a.priority - b.priority })
	for _, e := range entries {
		kind := 1
		if h == Postrouting {
			kind = 0
		}
		if e.nat && (p.conn == nil || !p.conn.first || p.conn.natDone[kind] || p.conn.state != stateNew) {
			continue
		}
		for _, c := range e.chains {
			if !w.base(c, p) {
				w.trace = append(w.trace, "dropped by "+c.Name)
				return false
			}
			if e.nat && p.conn.natDone[kind] {
				break
			}
		}
		if e.nat {
			p.conn.natDone[kind] = true // a null binding
		}
	}
	return true
}

// base runs a base chain; its policy is accept.
func (w *walker) base(c Chain, p *packet) bool {
	for range maxChainsInARule {
		v := w.chain(c, p)
		switch v.Kind {
		case Drop:
			return false
		case Goto: // never comes back: what ends there takes the policy
			next := w.rules.Chain(v.Chain)
			if next == nil {
				w.fail("walking through the rules: there is no chain %s", v.Chain)
				return false
			}
			c = *next
		default:
			return true
		}
	}
	w.fail("walking through the rules: chain %s leads in a circle", c.Name)
	return false
}

func (w *walker) chain(c Chain, p *packet) Verdict {
	w.chains = append(w.chains, c.Name)
	for i, r := range c.Rules {
		w.at = Asked{Chain: c.Name, Rule: i}
		if v, done := w.rule(c.Name, r, p); done {
			return v
		}
	}
	return Verdict{}
}

// rule returns the rule's verdict, if it has one for this packet.
func (w *walker) rule(chain string, r Rule, p *packet) (Verdict, bool) {
	for _, s := range r {
		switch s := s.(type) {
		case Match:
			matches := p.matches(s)
			if raw, ok := p.field(s.Field, s.Mask); ok && s.inSet() {
				w.ask("", []Field{s.Field}, raw, says(matches != (s.Op == IsNot)))
			}
			if !matches {
				return Verdict{}, false
			}
		case Map:
			raw, ok := p.field(s.Field, s.Mask)
			if !ok {
				return Verdict{}, false
			}
			i := slices.IndexFunc(s.Entries, func(e MapEntry) bool { return e.Value.Raw == raw })
			if i < 0 {
				w.ask("", []Field{s.Field}, raw, "")
				return Verdict{}, false
			}
			w.ask("", []Field{s.Field}, raw, s.Entries[i].Verdict.String())
			w.trace = append(w.trace, chain+": "+s.Entries[i].Verdict.String())
			return s.Entries[i].Verdict, true
		case Lookup:
			e, ok := w.lookup(s, p)
			if !ok {
				return Verdict{}, false
			}
			if s.Map {
				w.trace = append(w.trace, chain+": "+e.Verdict.String())
				return e.Verdict, true
			}
		case Update:
			if !w.change(s.Set, s.Fields, p, true) {
				return Verdict{}, false
			}
		case Delete:
			if !w.change(s.Set, s.Fields, p, false) {
				return Verdict{}, false
			}
		case RestoreMark:
			if p.mark != 0 || p.conn == nil || p.conn.mark&s.Mask == 0 {
				return Verdict{}, false
			}
			p.mark = p.conn.mark & s.Mask
		case SetMark:
			if s.Conn {
				p.conn.mark = p.conn.mark&^s.Mask | s.Value
			} else {
				p.mark = p.mark&^s.Mask | s.Value
			}
		case Verdict:
			w.trace = append(w.trace, chain+": "+r.String())
			return s, true
		case Reset:
			w.trace = append(w.trace, chain+": "+r.String())
			p.reset = true
			return Verdict{Kind: Drop}, true
		case Masquerade:
			p.conn.masq, p.conn.natDone[0], p.conn.ports = true, true, s.Ports
			p.conn.status |= statusSNAT
			return Verdict{Kind: Accept}, true
		case SNAT:
			if s.To.Is6() != p.src.Is6() {
				continue
			}
			p.conn.snat, p.conn.natDone[0], p.conn.ports = s.To, true, s.Ports
			if s.To != p.src {
				p.conn.status |= statusSNAT
			}
			return Verdict{Kind: Accept}, true
		case SNATPrefix:
			p.conn.snat, p.conn.natDone[0] = s.Translate(p.src), true
			if p.conn.snat != p.src {
				p.conn.status |= statusSNAT
			}
			return Verdict{Kind: Accept}, true
		case DNAT:
			to, ok := w.dnat(s, p)
			if !ok {
				return Verdict{}, false
			}
			p.conn.dnat, p.conn.natDone[1] = to, true
			p.conn.status |= statusDNAT
			p.dst, p.dport, p.toUs = to.Addr(), to.Port(), false
			return Verdict{Kind: Accept}, true
		case MaxSegment:
			p.segment = s.Size
		case Note, Counter:
		default:
			w.fail("walking through the rules: no walk knows %T", s)
			return Verdict{Kind: Drop}, true
		}
	}
	return Verdict{}, false
}

// key is the packet's fields side by side; false if it lacks one.
func (p *packet) key(fields []Field) (string, bool) {
	key := ""
	for _, f := range fields {
		raw, ok := p.field(f, 0)
		if !ok {
			return "", false
		}
		key += raw
	}
	return key, true
}

// inDynamic reports whether a dynamic set has the key.
func (w *walker) inDynamic(set, key string) bool {
	if added, ok := w.changed[[2]string{set, key}]; ok {
		return added
	}
	return w.holds != nil && w.holds(set, key)
}

// change adds the packet's fields to a dynamic set, or deletes them; false if
// the packet lacks one.
func (w *walker) change(set string, fields []Field, p *packet, add bool) bool {
	if !slices.ContainsFunc(w.rules.Dynamic, func(d Dynamic) bool { return d.Name == set && d.Packets && slices.Equal(d.Fields, fields) }) {
		w.fail("walking through the rules: packets cannot change set %s", set)
		return false
	}
	key, ok := p.key(fields)
	if !ok {
		return false
	}
	if w.changed == nil {
		w.changed = map[[2]string]bool{}
	}
	w.changed[[2]string{set, key}] = add
	return true
}

// lookup finds the element that the packet is in.
func (w *walker) lookup(l Lookup, p *packet) (Element, bool) {
	if slices.ContainsFunc(w.rules.Dynamic, func(d Dynamic) bool { return d.Name == l.Set }) {
		w.at.number++
		key, ok := p.key(l.Fields)
		return Element{}, ok && w.inDynamic(l.Set, key)
	}
	i := slices.IndexFunc(w.rules.Sets, func(s Set) bool { return s.Name == l.Set })
	if i < 0 {
		w.fail("walking through the rules: there is no set %s", l.Set)
		return Element{}, false
	}
	s := w.rules.Sets[i]
	var values []string
	for _, f := range l.Fields {
		raw, ok := p.field(f, 0)
		if !ok {
			return Element{}, false
		}
		values = append(values, raw)
	}
	var found []Element
	for _, e := range s.Elements {
		if e.holds(values) {
			found = append(found, e)
		}
	}
	key := strings.Join(values, "")
	switch len(found) {
	case 0:
		w.ask(s.Name, s.Fields, key, "")
		return Element{}, false
	case 1:
		what := says(true)
		if s.Verdicts {
			what = found[0].Verdict.String()
		}
		w.ask(s.Name, s.Fields, key, what)
		return found[0], true
	}
	w.fail("walking through the rules: elements of set %s overlap", l.Set)
	return Element{}, false
}

// dnat finds where a DNAT leads the packet; false: it does not. The kernel asks
// for the family before it looks a source up, and behind the look-up otherwise.
func (w *walker) dnat(d DNAT, p *packet) (netip.AddrPort, bool) {
	ours := p.src.Is6() == d.IPv6
	if d.BySource && !ours {
		return netip.AddrPort{}, false
	}
	key, _ := p.key(d.fields())
	e, ok := d.entry(p.proto, p.src, p.dport)
	if !ok {
		w.ask("", d.fields(), key, "")
		return netip.AddrPort{}, false
	}
	w.ask("", d.fields(), key, dataText(d.element(e).Val))
	if d.KeepPort {
		return netip.AddrPortFrom(e.To.Addr(), p.dport), ours
	}
	return e.To, ours
}

// holds reports whether the values, one of each field, are in the element.
func (e Element) holds(values []string) bool {
	at := 0
	for _, v := range values {
		end := at + len(v)
		if v < e.Lo[at:end] || v > e.Hi[at:end] {
			return false
		}
		at = end
	}
	return true
}

// matches compares as the kernel does: what a packet does not have makes the
// rule end.
func (p *packet) matches(m Match) bool {
	raw, ok := p.field(m.Field, m.Mask)
	if !ok {
		return false
	}
	if m.Op == AnyBit || m.Op == NoBit {
		some := slices.ContainsFunc(m.Values, func(v Value) bool {
			for i := range v.Raw {
				if v.Raw[i]&raw[i] != 0 {
					return true
				}
			}
			return false
		})
		return some == (m.Op == AnyBit)
	}
	found := slices.ContainsFunc(m.Values, func(v Value) bool {
		return v.Hi == "" && v.Raw == raw || v.Hi != "" && v.Raw <= raw && raw <= v.Hi
	})
	return found != (m.Op == IsNot)
}

// field is the field's value, as the kernel loads it; false if the packet has
// none.
func (p *packet) field(f Field, mask uint32) (string, bool) {
	number := func(n uint32) string { return string(native(n)) }
	ip := func(a netip.Addr, v6 bool) (string, bool) { return string(a.AsSlice()), a.Is6() == v6 }
	hop := p.nexthop
	if !hop.IsValid() {
		hop = p.dst
	}
	switch f {
	case InInterface:
		return ifname(p.in).Raw, true
	case OutInterface:
		return ifname(p.out).Raw, true
	case ConnState:
		if p.conn == nil {
			return number(64), true
		}
		return number(p.conn.state), true
	case Source4, Source6:
		return ip(p.src, f == Source6)
	case Dest4, Dest6:
		return ip(p.dst, f == Dest6)
	case Nexthop4, Nexthop6:
		return func() (string, bool) { s, _ := ip(hop, true); return s, p.dst.Is6() == (f == Nexthop6) }()
	case EtherSource:
		return string(p.mac[:]), p.in != ""
	case Protocol:
		return string([]byte{p.proto}), true
	case SourcePort:
		return string(binary.BigEndian.AppendUint16(nil, p.sport)), true
	case PacketMark:
		return number(p.mark & mask), true
	case SocketUID:
		return number(p.uid), p.in == ""
	case DSCP4, DSCP6:
		return dscp(f == DSCP6, p.dscp), p.src.Is6() == (f == DSCP6)
	case DestPort:
		return string(binary.BigEndian.AppendUint16(nil, p.dport)), true
	case SourceType:
		if p.in == "" {
			return local.Raw, true
		}
		return number(1), true
	case DestType:
		if p.toUs {
			return local.Raw, true
		}
		return number(1), true
	case TCPFlags:
		if p.middle {
			return "\x10", p.proto == 6
		}
		return syn.Raw, p.proto == 6
	case ICMPv6Type:
		return "\x80", p.dst.Is6() && p.proto == 58 // an echo request
	case IPv6:
		return nfproto(p.dst.Is6()).Raw, true
	}
	if p.conn == nil || p.conn.state == 1 { // what is invalid has no connection (nf_conntrack_in, net/netfilter/nf_conntrack_core.c)
		return "", false
	}
	switch f {
	case ConnMark:
		return number(p.conn.mark & mask), true
	case ConnStatus:
		return number(p.conn.status), true
	case ConnDirection:
		if p.conn.reply {
			return reply.Raw, true
		}
		return "\x00", true
	}
	return "", false
}

// forwarded walks a packet that routing sends on; false: dropped. route may
// change the way after the mark is known.
func (w *walker) forwarded(p *packet, route func(*packet)) bool {
	out := p.out
	p.out = ""
	if !w.hook(Prerouting, p) {
		return false
	}
	p.out = out
	if route != nil {
		route(p)
	}
	return w.hook(Forward, p) && w.hook(Postrouting, p)
}

// received walks a packet to the router itself.
func (w *walker) received(p *packet) bool {
	p.out = ""
	return w.hook(Prerouting, p) && w.hook(Input, p)
}

// sent walks a packet of the router's own.
func (w *walker) sent(p *packet) bool {
	p.in = ""
	if !w.hook(Output, p) {
		return false
	}
	return w.hook(Postrouting, p)
}
