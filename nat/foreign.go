package nat

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Foreign is what other programs have in nftables, iptables-nft's included: as
// much of it as tells what becomes of our packets there (Foreign.Walk). It is
// read and never written.
type Foreign struct {
	Chains []ForeignChain
	sets   map[setKey]*foreignSet
}

// ForeignChain is a chain of somebody else's.
type ForeignChain struct {
	Family   Family
	Table    string
	Name     string
	Type     ChainType // "" for a regular chain; so are the next three
	Hook     Hook
	Priority int32
	Drop     bool   // the policy
	uses     uint32 // how many rules are in it or lead there
	rules    []foreignRule
}

// Family is nftables' family of a table.
type Family uint8

// String is the family as nft(8) writes it.
func (f Family) String() string {
	switch f {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_ARP:
		return "arp"
	}
	return "netdev"
}

// String names the chain as nft(8) does.
func (c ForeignChain) String() string { return fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name) }

// foreignRule is a rule of somebody else's: what it asks, and what it does where
// all of that holds.
type foreignRule struct {
	conditions []condition
	verdict    *foreignVerdict // nil: on to the next rule
	verdicts   *condition      // or: as a map says
	effects    []Effect
}

type foreignVerdict struct {
	code  int32 // linux/netfilter.h, enum nft_verdicts
	chain string
}

// Effect is what a rule does to a packet beside its verdict.
type Effect struct {
	Kind EffectKind
	// Bits are those of the mark that it may change: EffectMark, EffectConnMark.
	Bits uint32
}

// EffectKind is a kind of Effect.
type EffectKind int

// The effects that can get in our way.
const (
	EffectMark       EffectKind = iota // writes the packet's mark
	EffectConnMark                     // writes the connection's mark
	EffectMasquerade                   // NAT to the interface's address
	EffectSNAT                         // NAT to a fixed address
	EffectNotrack                      // keeps the packet from conntrack
	EffectOffload                      // puts the connection into a flowtable
)

// property is something that a rule may ask of a packet, and that Walk knows.
type property int

const (
	unknown property = iota
	inName
	outName
	inIndex
	outIndex
	networkFamily
	etherType
	transport
	ctState
	iptablesState // ctState, and whether the connection is NATed
	ctStatus
	packetMark
	connMark
)

// condition is one thing that a rule asks.
type condition struct {
	property  property
	mask, xor []byte // applied before; none: the whole of it
	not       bool
	value     []byte // to be equal to
	set       *foreignSet
}

// setKey names a set; rules and sets are joined after both were read.
type setKey struct {
	family      Family
	table, name string
}

// foreignSet is a set or verdict map, if it is one of single values.
type foreignSet struct {
	plain    bool // neither intervals nor several fields, and its elements were read
	elements []foreignElement
}

type foreignElement struct {
	key     []byte
	verdict *foreignVerdict
}

// register is what is in one of nftables' registers while a rule runs.
type register struct {
	condition
	written []byte // a constant
}

// ruleDecoder follows one rule's expressions.
type ruleDecoder struct {
	rule      foreignRule
	registers map[uint32]register
	set       func(name string) *foreignSet
}

// decodeForeignChain reads a chain; ours are no one else's.
func decodeForeignChain(m netlink.Message) (c ForeignChain, err error) {
	d, err := decodeChain(m)
	if err != nil {
		return c, err
	}
	c = ForeignChain{Family: Family(m.Data[0]), Table: d.table, Name: d.name, Type: ChainType(d.typ), Priority: int32(d.priority)}
	if d.typ != "" {
		for name, number := range hookNumbers {
			if number == d.hook && c.Family.network() {
				c.Hook = name
			}
		}
	}
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_POLICY:
			c.Drop = ad.Uint32() == 0 // NF_DROP
		case unix.NFTA_CHAIN_USE:
			c.uses = ad.Uint32()
		}
	})
	return c, err
}

// network reports whether the family's hooks are IP's.
func (f Family) network() bool {
	return f == unix.NFPROTO_INET || f == unix.NFPROTO_IPV4 || f == unix.NFPROTO_IPV6
}

// decodeForeignRule reads a rule and says in which chain it is. What it does not
// know counts as something that may hold or not.
func decodeForeignRule(m netlink.Message, sets func(setKey) *foreignSet) (chain setKey, r foreignRule, err error) {
	head, err := decodeRule(m)
	if err != nil {
		return setKey{}, r, err
	}
	chain = setKey{Family(m.Data[0]), head.table, head.chain}
	d := ruleDecoder{registers: map[uint32]register{}, set: func(name string) *foreignSet { return sets(setKey{chain.family, chain.table, name}) }}
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_RULE_EXPRESSIONS {
			each(ad, unix.NFTA_LIST_ELEM, d.expression)
		}
	})
	return chain, d.rule, err
}

// each calls fn with the content of every attribute of a type in a list.
func each(ad *netlink.AttributeDecoder, typ uint16, fn func(*netlink.AttributeDecoder)) {
	ad.Nested(func(n *netlink.AttributeDecoder) error {
		n.ByteOrder = binary.BigEndian
		for n.Next() {
			if n.Type() == typ {
				n.Nested(func(x *netlink.AttributeDecoder) error {
					x.ByteOrder = binary.BigEndian
					fn(x)
					return nil
				})
			}
		}
		return nil
	})
}

// parts are the attributes of one expression, by type.
type parts map[uint16][]byte

func (p parts) number(typ uint16) uint32 {
	if b := p[typ]; len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p parts) text(typ uint16) string { return string(bytes.TrimRight(p[typ], "\x00")) }

// register is the number of the first 4 bytes of a register: the kernel has two
// numberings of the same space (linux/netfilter/nf_tables.h).
func (p parts) register(typ uint16) uint32 {
	n := p.number(typ)
	if n >= unix.NFT_REG_1 && n <= unix.NFT_REG_4 {
		return unix.NFT_REG32_00 + 4*(n-unix.NFT_REG_1)
	}
	return n
}

// data is the bytes in a nested NFTA_DATA_VALUE.
func (p parts) data(typ uint16) []byte { return p.nested(typ)[unix.NFTA_DATA_VALUE] }

func (p parts) nested(typ uint16) parts {
	inner := parts{}
	if ad, err := netlink.NewAttributeDecoder(p[typ]); err == nil {
		for ad.Next() {
			inner[ad.Type()] = ad.Bytes()
		}
	}
	return inner
}

func (p parts) verdict(typ uint16) *foreignVerdict {
	v, ok := p.nested(typ)[unix.NFTA_DATA_VERDICT]
	if !ok {
		return nil
	}
	inner := parts{0: v}.nested(0)
	return &foreignVerdict{int32(inner.number(unix.NFTA_VERDICT_CODE)), inner.text(unix.NFTA_VERDICT_CHAIN)}
}

// expression returns an expression's name and attributes.
func expression(ad *netlink.AttributeDecoder) (name string, p parts) {
	p = parts{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			p = parts{0: ad.Bytes()}.nested(0)
		}
	}
	return name, p
}

func (d *ruleDecoder) expression(ad *netlink.AttributeDecoder) {
	name, p := expression(ad)
	switch name {
	case "counter", "log", "comment", "last":
	case "meta":
		d.meta(p)
	case "ct":
		d.ct(p)
	case "bitwise":
		d.bitwise(p)
	case "cmp":
		c := d.registers[p.register(unix.NFTA_CMP_SREG)].condition
		c.value = p.data(unix.NFTA_CMP_DATA)
		switch p.number(unix.NFTA_CMP_OP) {
		case unix.NFT_CMP_EQ:
		case unix.NFT_CMP_NEQ:
			c.not = true
		default:
			c.property = unknown
		}
		d.rule.conditions = append(d.rule.conditions, c)
	case "lookup":
		c := d.registers[p.register(unix.NFTA_LOOKUP_SREG)].condition
		c.set, c.not = d.set(p.text(unix.NFTA_LOOKUP_SET)), p.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
		switch _, result := p[unix.NFTA_LOOKUP_DREG]; {
		case !result:
			d.rule.conditions = append(d.rule.conditions, c)
		case p.number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT:
			d.rule.verdicts = &c
		default:
			d.rule.conditions = append(d.rule.conditions, condition{})
			d.registers[p.register(unix.NFTA_LOOKUP_DREG)] = register{}
		}
	case "immediate":
		if p.number(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_VERDICT {
			d.rule.verdict = p.verdict(unix.NFTA_IMMEDIATE_DATA)
		} else {
			d.registers[p.register(unix.NFTA_IMMEDIATE_DREG)] = register{written: p.data(unix.NFTA_IMMEDIATE_DATA)}
		}
	case "reject":
		d.drop()
	case "masq", "redir":
		if name == "masq" {
			d.effect(EffectMasquerade, 0)
		}
	case "nat":
		if p.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_SNAT {
			d.effect(EffectSNAT, 0)
		}
	case "notrack":
		d.effect(EffectNotrack, 0)
	case "flow_offload":
		d.effect(EffectOffload, 0)
	case "match":
		d.match(p)
	case "target":
		d.target(p)
	default:
		d.rule.conditions = append(d.rule.conditions, condition{})
		clear(d.registers)
	}
}

func (d *ruleDecoder) effect(kind EffectKind, bits uint32) {
	d.rule.effects = append(d.rule.effects, Effect{kind, bits})
}

func (d *ruleDecoder) drop() { d.rule.verdict = &foreignVerdict{code: verdictDrop} }

func (d *ruleDecoder) meta(p parts) {
	key := p.number(unix.NFTA_META_KEY)
	if _, writes := p[unix.NFTA_META_SREG]; writes {
		if key == unix.NFT_META_MARK {
			d.effect(EffectMark, d.registers[p.register(unix.NFTA_META_SREG)].changes(packetMark))
		}
		return
	}
	known := map[uint32]property{unix.NFT_META_IIFNAME: inName, unix.NFT_META_OIFNAME: outName, unix.NFT_META_IIF: inIndex, unix.NFT_META_OIF: outIndex,
		unix.NFT_META_NFPROTO: networkFamily, unix.NFT_META_PROTOCOL: etherType, unix.NFT_META_L4PROTO: transport, unix.NFT_META_MARK: packetMark}
	d.registers[p.register(unix.NFTA_META_DREG)] = register{condition: condition{property: known[key]}}
}

func (d *ruleDecoder) ct(p parts) {
	key := p.number(unix.NFTA_CT_KEY)
	if _, writes := p[unix.NFTA_CT_SREG]; writes {
		if key == unix.NFT_CT_MARK {
			d.effect(EffectConnMark, d.registers[p.register(unix.NFTA_CT_SREG)].changes(connMark))
		}
		return
	}
	known := map[uint32]property{unix.NFT_CT_STATE: ctState, unix.NFT_CT_STATUS: ctStatus, unix.NFT_CT_MARK: connMark}
	d.registers[p.register(unix.NFTA_CT_DREG)] = register{condition: condition{property: known[key]}}
}

func (d *ruleDecoder) bitwise(p parts) {
	r := d.registers[p.register(unix.NFTA_BITWISE_SREG)]
	r.written = nil
	const operation = 6 // NFTA_BITWISE_OP

	if p.number(operation) != 0 || r.mask != nil { // no mask and xor, or two of them
		r = register{}
	} else {
		r.mask, r.xor = p.data(unix.NFTA_BITWISE_MASK), p.data(unix.NFTA_BITWISE_XOR)
	}
	d.registers[p.register(unix.NFTA_BITWISE_DREG)] = r
}

// changes returns the bits of a mark that writing the register to it may change.
func (r register) changes(own property) uint32 {
	if r.property != own || len(r.mask) != 4 || len(r.xor) != 4 {
		return ^uint32(0)
	}
	return ^binary.NativeEndian.Uint32(r.mask) | binary.NativeEndian.Uint32(r.xor)
}

// match takes in a match of iptables' that nftables has no words for.
func (d *ruleDecoder) match(p parts) {
	const (
		stateFlag  = 1 // XT_CONNTRACK_STATE
		flagsAt    = 146
		invertAt   = 148
		stateAt    = 150
		statesSize = 152
	)
	info := p[unix.NFTA_MATCH_INFO]
	switch name := p.text(unix.NFTA_MATCH_NAME); {
	case name == "comment":
		return
	case name == "conntrack" && p.number(unix.NFTA_MATCH_REV) == 3 && len(info) >= statesSize && binary.NativeEndian.Uint16(info[flagsAt:]) == stateFlag:
		// struct xt_conntrack_mtinfo3 (linux/netfilter/xt_conntrack.h)
		states := binary.NativeEndian.AppendUint32(nil, uint32(binary.NativeEndian.Uint16(info[stateAt:])))
		d.rule.conditions = append(d.rule.conditions, condition{property: iptablesState, mask: states, xor: make([]byte, 4), value: make([]byte, 4),
			not: binary.NativeEndian.Uint16(info[invertAt:])&stateFlag == 0})
	default:
		d.rule.conditions = append(d.rule.conditions, condition{})
	}
}

// target takes in a target of iptables' that nftables has no words for.
func (d *ruleDecoder) target(p parts) {
	info := p[unix.NFTA_TARGET_INFO]
	word := func(i int) uint32 {
		if len(info) < 4*i+4 {
			return ^uint32(0)
		}
		return binary.NativeEndian.Uint32(info[4*i:])
	}
	switch p.text(unix.NFTA_TARGET_NAME) {
	case "REJECT":
		d.drop()
	case "MASQUERADE":
		d.effect(EffectMasquerade, 0)
	case "SNAT":
		d.effect(EffectSNAT, 0)
	case "NOTRACK":
		d.effect(EffectNotrack, 0)
	case "CT":
		if len(info) >= 2 && binary.NativeEndian.Uint16(info)&1 != 0 { // XT_CT_NOTRACK
			d.effect(EffectNotrack, 0)
		}
	case "MARK": // struct xt_mark_tginfo2: mark, mask
		d.effect(EffectMark, word(1)|word(0))
	case "CONNMARK": // struct xt_connmark_tginfo1: ctmark, ctmask, nfmask, mode
		const restore = 2
		if len(info) >= 13 && info[12] == restore {
			d.effect(EffectMark, word(2))
		} else {
			d.effect(EffectConnMark, word(1))
		}
	case "FLOWOFFLOAD":
		d.effect(EffectOffload, 0)
	}
}

// decodeForeignSet reads what kind of set it is.
func decodeForeignSet(m netlink.Message) (setKey, *foreignSet, error) {
	s, err := decodeSet(m)
	if err != nil {
		return setKey{}, nil, err
	}
	plain := s.flags&(unix.NFT_SET_INTERVAL|unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL) == 0
	return setKey{Family(m.Data[0]), s.table, s.name}, &foreignSet{plain: plain}, nil
}

// decodeForeignElements adds elements to a set.
func decodeForeignElements(m netlink.Message, s *foreignSet) error {
	return eachElement(m, func(p parts) {
		s.elements = append(s.elements, foreignElement{p.data(unix.NFTA_SET_ELEM_KEY), p.verdict(unix.NFTA_SET_ELEM_DATA)})
	})
}

// eachElement calls fn with every element of a set in a message.
func eachElement(m netlink.Message, fn func(parts)) error {
	return attributes(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		each(ad, unix.NFTA_LIST_ELEM, func(x *netlink.AttributeDecoder) {
			p := parts{}
			for x.Next() {
				p[x.Type()] = x.Bytes()
			}
			fn(p)
		})
	})
}

// wanted returns the names of the sets whose elements Walk can use.
func (f *Foreign) wanted() []setKey {
	used := map[*foreignSet]bool{}
	for _, c := range f.Chains {
		for _, r := range c.rules {
			for _, x := range r.conditions {
				used[x.set] = used[x.set] || x.property != unknown && x.set != nil && x.set.plain
			}
			if r.verdicts != nil {
				used[r.verdicts.set] = true
			}
		}
	}
	var names []setKey
	for k, s := range f.sets {
		if used[s] {
			names = append(names, k)
		}
	}
	return names
}

// Chain returns the chain of that family, table and name, or nil.
func (f *Foreign) Chain(family Family, table, name string) *ForeignChain {
	for i := range f.Chains {
		if c := &f.Chains[i]; c.Family == family && c.Table == table && c.Name == name {
			return c
		}
	}
	return nil
}
