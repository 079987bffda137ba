package nat

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
)

// Ruleset is a whole table: named sets, and chains in the order in which they
// are written.
type Ruleset struct {
	Sets    []Set
	Dynamic []Dynamic
	Chains  []Chain
}

// Chain is one chain. A regular chain has no Hook.
type Chain struct {
	Name     string
	Type     ChainType
	Hook     Hook
	Priority int32
	Rules    []Rule

	prints []string // the rules' fingerprints, where nobody changes rules any more; nil: not made yet
}

// ChainType is nft's chain type.
type ChainType string

// The chain types (nft(8), CHAINS).
const (
	Filter ChainType = "filter"
	NAT    ChainType = "nat"
	Route  ChainType = "route" // routes a packet again when its mark changed
)

// Hook is a netfilter hook; empty for a regular chain.
type Hook string

// The hooks we use (linux/netfilter.h, enum nf_inet_hooks).
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
)

// The priorities we use (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities).
const (
	priorityMangle = -150
	priorityDNAT   = -100
	priorityFilter = 0
	prioritySNAT   = 100
)

// Rule is a list of statements, evaluated from left to right until one does
// not match.
type Rule []Statement

// Statement is one part of a rule. The implementations below are all there
// are: Match, Map, Lookup, Update, Delete, RestoreMark, SetMark, Verdict, Reset, Masquerade, SNAT,
// SNATPrefix, DNAT, MaxSegment, Counter, Note.
type Statement interface {
	fmt.Stringer
}

// Field is a property of a packet or of its connection.
type Field int

// The fields that rules look at.
const (
	InInterface Field = iota
	OutInterface
	ConnMark // under a mask
	ConnState
	ConnStatus
	ConnDirection
	Source4
	Dest4
	Source6
	Dest6
	Nexthop4 // the gateway that routing chose, or the destination where there is none
	Nexthop6
	EtherSource
	Protocol // of the transport header; all protocols with ports
	DestPort
	DestType // address type of the destination for routing (fib)
	IPv6     // whether the packet is IPv6
	ICMPv6Type
	TCPFlags
	PacketMark // under a mask
	SourcePort
	SocketUID // the user whose socket sends; the router's own packets only
	DSCP4
	DSCP6
	SourceType // address type of the source for routing (fib)
)

var fieldText = [...]string{"iifname", "oifname", "ct mark", "ct state", "ct status", "ct direction", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr",
	"rt ip nexthop", "rt ip6 nexthop", "ether saddr", "meta l4proto", "th dport", "fib daddr type", "meta nfproto", "icmpv6 type", "tcp flags",
	"meta mark", "th sport", "meta skuid", "ip dscp", "ip6 dscp", "fib saddr type"}

// Value is one value of a field: as nft writes it and as the kernel compares
// it. Hi is set for a range (the last value in it).
type Value struct {
	Text string
	Raw  string // bytes in the kernel's order for that field
	Hi   string
}

// Op is how Match compares.
type Op int

// The comparisons.
const (
	Is     Op = iota // one of the values
	IsNot            // none of the values
	AnyBit           // has at least one bit of the values set
	NoBit            // has no bit of the values set
)

const everyBit = 1<<32 - 1

// Match goes on to the next statement if the field compares.
type Match struct {
	Field  Field
	Mask   uint32 // marks only; everyBit: the whole mark
	Op     Op
	Values []Value
}

func (m Match) String() string {
	var b strings.Builder
	b.WriteString(fieldName(m.Field, m.Mask))
	switch {
	case m.Op == IsNot:
		b.WriteString(" !=")
	case m.Op == NoBit:
		b.WriteString(" !")
	case m.Op == AnyBit && m.Field == ConnStatus: // "ct status snat" means "has the bit"; so it does for states
	}
	switch {
	case m.Op == AnyBit || m.Op == NoBit:
		texts := make([]string, len(m.Values))
		for i, v := range m.Values {
			texts[i] = v.Text
		}
		fmt.Fprintf(&b, " %s", strings.Join(texts, ","))
	case len(m.Values) == 1:
		fmt.Fprintf(&b, " %s", m.Values[0].Text)
	default:
		texts := make([]string, len(m.Values))
		for i, v := range m.Values {
			texts[i] = v.Text
		}
		fmt.Fprintf(&b, " { %s }", strings.Join(texts, ", "))
	}
	return b.String()
}

// inSet reports whether the kernel compares by a look-up in a set of the rule.
func (m Match) inSet() bool { return (m.Op == Is || m.Op == IsNot) && len(m.Values) > 1 }

func fieldName(f Field, mask uint32) string {
	if (f == ConnMark || f == PacketMark) && mask != everyBit {
		return fmt.Sprintf("%s & 0x%08x", fieldText[f], mask)
	}
	return fieldText[f]
}

// Map takes the verdict of the value that the field has; it goes on to the
// next statement if there is none. One look-up, however many entries.
type Map struct {
	Field   Field
	Mask    uint32 // ConnMark only
	Entries []MapEntry
}

// MapEntry is one entry of a Map.
type MapEntry struct {
	Value   Value
	Verdict Verdict
}

func (m Map) String() string {
	texts := make([]string, len(m.Entries))
	for i, e := range m.Entries {
		texts[i] = fmt.Sprintf("%s : %s", e.Value.Text, e.Verdict)
	}
	return fmt.Sprintf("%s vmap { %s }", fieldName(m.Field, m.Mask), strings.Join(texts, ", "))
}

// RestoreMark puts our bits of the connection's mark on a packet that has no
// mark at all; it goes on to the next statement if it did. It is what the
// marks' chains do, for most packets at less than half the price: where
// another program marks packets too, those chains keep its bits. (One
// assignment that keeps them takes Linux 6.13: bitwise with two registers.)
type RestoreMark struct{ Mask uint32 }

func (r RestoreMark) String() string {
	return fmt.Sprintf("meta mark 0x00000000 ct mark & 0x%08x != 0x00000000 meta mark set ct mark & 0x%08x", r.Mask, r.Mask)
}

// SetMark writes our bits of the packet's or the connection's mark and keeps
// all others.
type SetMark struct {
	Conn  bool // the connection's mark; else the packet's
	Mask  uint32
	Value uint32
}

func (s SetMark) String() string {
	what := "meta mark"
	if s.Conn {
		what = "ct mark"
	}
	return fmt.Sprintf("%s set %s & 0x%08x | 0x%08x", what, what, ^s.Mask, s.Value)
}

// VerdictKind is what a Verdict does.
type VerdictKind string

// The verdicts.
const (
	Accept VerdictKind = "accept" // this chain only: other base chains still run
	Drop   VerdictKind = "drop"
	Return VerdictKind = "return"
	Goto   VerdictKind = "goto"
)

// Verdict ends a rule.
type Verdict struct {
	Kind  VerdictKind
	Chain string // Goto only
}

func (v Verdict) String() string {
	if v.Kind == Goto {
		return "goto " + v.Chain
	}
	return string(v.Kind)
}

// Reset drops a TCP packet and answers it with a reset, in the name of the one
// it went to (nf_send_reset, net/ipv4/netfilter/nf_reject_ipv4.c). It stands
// behind a match of TCP, in forward and output.
type Reset struct{}

func (Reset) String() string { return "reject with tcp reset" }

// Masquerade NATs the source to the first address of the outgoing interface in
// whose subnet the gateway is (inet_select_addr, net/ipv4/devinet.c).
type Masquerade struct {
	Ports PortRange // the source's port is one of these, where it is known to have one; zero: it stays if it can
}

func (m Masquerade) String() string {
	if m.Ports == (PortRange{}) {
		return "masquerade"
	}
	return "masquerade to " + m.Ports.text()
}

// SNAT NATs the source to a given address.
type SNAT struct {
	To    netip.Addr
	Ports PortRange // as Masquerade's
}

func (s SNAT) String() string {
	switch {
	case s.To.Is4():
		return "snat ip to " + s.To.String() + s.Ports.text()
	case s.Ports == (PortRange{}):
		return "snat ip6 to " + s.To.String()
	}
	return "snat ip6 to [" + s.To.String() + "]" + s.Ports.text()
}

func protocolText(p uint8) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return fmt.Sprint(p)
}

// Note does nothing but stay readable in the rule's comment in the kernel.
type Note string

func (n Note) String() string { return fmt.Sprintf("comment %q", string(n)) }

// String prints the rule as nft does.
func (r Rule) String() string {
	texts := make([]string, len(r))
	for i, s := range r {
		texts[i] = s.String()
	}
	return strings.Join(texts, " ")
}

// fingerprintPrefix marks our rules' comments. A change of how statements
// become expressions must change it, so that an upgraded agent rewrites rules
// whose text is still the same.
const fingerprintPrefix = "multiroute:1:"

// Fingerprint identifies the rule's whole content, sets included. It is the
// rule's comment in the kernel, because expressions cannot be read back
// reliably. It names the sets and counters that the rule needs.
func (r Rule) Fingerprint() string {
	h := fnv.New64a()
	h.Write([]byte(r.String()))
	fingerprint := fmt.Sprintf("%s%016x", fingerprintPrefix, h.Sum64())
	for _, s := range r {
		switch s := s.(type) {
		case Note:
			fingerprint += " " + string(s)
		case Lookup:
			fingerprint += " @" + s.Set
		case Counter:
			fingerprint += " " + counterSign + s.Name
		}
	}
	return fingerprint
}

// fingerprints are those of all rules.
func (c Chain) fingerprints() []string {
	if c.prints != nil {
		return c.prints
	}
	all := make([]string, len(c.Rules))
	for i, r := range c.Rules {
		all[i] = r.Fingerprint()
	}
	return all
}

// fingerprinted is the same Ruleset, for who compares it more than once and does
// not change it: fingerprints take longer to make than to compare.
func (r Ruleset) fingerprinted() Ruleset {
	r.Chains = slices.Clone(r.Chains)
	for i := range r.Chains {
		r.Chains[i].prints = r.Chains[i].fingerprints()
	}
	return r
}

// String prints the table as nft(8) would list it.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, name := range r.counters() {
		fmt.Fprintf(&b, "\tcounter %s {\n\t\tpackets 0 bytes 0\n\t}\n\n", name)
	}
	for _, s := range r.Sets {
		fmt.Fprintf(&b, "\t%s %s {\n\t\t%s\n\t}\n\n", s.kind(), s.Name, strings.Join(s.definition(), "\n\t\t"))
	}
	for _, d := range r.Dynamic {
		fmt.Fprintf(&b, "\tset %s {\n\t\t%s\n\t}\n\n", d.Name, strings.Join(d.definition(), "\n\t\t"))
	}
	for i, c := range r.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
		}
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Chain returns the chain called name, or nil.
func (r Ruleset) Chain(name string) *Chain {
	i := slices.IndexFunc(r.Chains, func(c Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Chains[i]
}
