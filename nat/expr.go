package nat

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// encoded is a rule in the kernel's terms: its expressions, and the anonymous
// sets that they look things up in. Look-ups refer to sets by pointer until
// the transaction gives them their numbers.
type encoded struct {
	exprs  []expr.Any
	sets   []encodedSet
	family byte // the packet's, where an expression made sure of it
}

type encodedSet struct {
	set      *nftables.Set
	elements []nftables.SetElement
	lookup   *expr.Lookup // needs the set's name and id
}

// Registers (linux/netfilter/nf_tables.h): reg is 16 bytes wide; reg32 counts
// the 4-byte registers over the same space, beginning at reg.
const reg = unix.NFT_REG_1

func reg32(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// encode turns a rule's statements into expressions. The tests list the result
// with nft and compare it with the rule's own text.
func encode(r Rule) encoded {
	var e encoded
	for _, s := range r {
		switch s := s.(type) {
		case Match:
			e.load(s.Field, s.Mask)
			e.compare(s)
		case Map:
			e.load(s.Field, s.Mask)
			e.verdicts(s)
		case Lookup:
			e.lookup(s)
		case Update:
			e.change(s.Fields, s.Set, unix.NFT_DYNSET_OP_UPDATE, s.Timeout)
		case Delete:
			e.change(s.Fields, s.Set, dynsetDelete, 0)
		case RestoreMark: // the register still holds the masked mark when it is written: one load less than nft(8) would make of the text
			e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: native(0)},
				&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, and(s.Mask, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: native(0)},
				&expr.Meta{Key: expr.MetaKeyMARK, Register: reg, SourceRegister: true})
		case SetMark:
			e.setMark(s)
		case Verdict:
			e.add(verdict(s))
		case Reset:
			e.add(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		case Masquerade:
			lo, hi := e.protoRegisters(s.Ports)
			e.add(portMasq{&expr.Masq{ToPorts: lo != 0, RegProtoMin: lo, RegProtoMax: hi}})
		case SNAT:
			family := uint32(unix.NFPROTO_IPV4)
			if s.To.Is6() {
				family = unix.NFPROTO_IPV6
			}
			lo, hi := e.protoRegisters(s.Ports)
			e.add(&expr.Immediate{Register: reg, Data: s.To.AsSlice()},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: reg, RegProtoMin: lo, RegProtoMax: hi})
		case SNATPrefix:
			e.snatPrefix(s)
		case DNAT:
			e.dnat(s)
		case MaxSegment: // the expression itself matches TCP only (nft_tcp_header_pointer)
			e.maxSegment(s)
		case Counter:
			e.add(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: s.Name})
		case Note:
		default:
			panic(fmt.Sprintf("nat: statement %T has no encoding", s)) // a new statement without its case here: the first test finds it
		}
	}
	return e
}

func (e *encoded) add(x ...expr.Any) { e.exprs = append(e.exprs, x...) }

// load puts a field into reg. Fields of one family match only packets of that
// family.
func (e *encoded) load(f Field, mask uint32) {
	e.require(f)
	e.fetch(f, mask, reg)
}

// require makes sure that a packet has the field, where fetch would read
// something else. It uses reg.
func (e *encoded) require(f Field) {
	if family := familyOf(f); family != 0 && e.family != family {
		e.family = family
		e.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}})
	}
	switch f {
	case EtherSource:
		e.add(&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)})
	case ICMPv6Type:
		e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_ICMPV6}})
	case TCPFlags:
		e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_TCP}})
	}
}

// fetch loads a field into registers that begin with to.
func (e *encoded) fetch(f Field, mask, to uint32) {
	payload := func(base expr.PayloadBase, offset, length uint32) {
		e.add(&expr.Payload{DestRegister: to, Base: base, Offset: offset, Len: length})
	}
	switch f {
	case InInterface:
		e.add(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: to})
	case OutInterface:
		e.add(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: to})
	case PacketMark:
		e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: to})
		if mask != everyBit {
			e.add(and(mask, 0))
		}
	case ConnMark:
		e.add(&expr.Ct{Key: expr.CtKeyMARK, Register: to}, and(mask, 0))
	case ConnState:
		e.add(&expr.Ct{Key: expr.CtKeySTATE, Register: to})
	case ConnStatus:
		e.add(&expr.Ct{Key: expr.CtKeySTATUS, Register: to})
	case ConnDirection:
		e.add(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: to})
	case Source4:
		payload(expr.PayloadBaseNetworkHeader, 12, 4)
	case Dest4:
		payload(expr.PayloadBaseNetworkHeader, 16, 4)
	case DSCP4: // without ECN
		payload(expr.PayloadBaseNetworkHeader, 1, 1)
		e.add(&expr.Bitwise{SourceRegister: to, DestRegister: to, Len: 1, Mask: []byte{0xfc}, Xor: []byte{0}})
	case Source6:
		payload(expr.PayloadBaseNetworkHeader, 8, 16)
	case Dest6:
		payload(expr.PayloadBaseNetworkHeader, 24, 16)
	case DSCP6:
		payload(expr.PayloadBaseNetworkHeader, 0, 2)
		e.add(&expr.Bitwise{SourceRegister: to, DestRegister: to, Len: 2, Mask: []byte{0x0f, 0xc0}, Xor: []byte{0, 0}})
	case Nexthop4: // the expression itself matches IPv4 only (nft_rt_get_eval)
		e.add(&expr.Rt{Key: expr.RtNexthop4, Register: to})
	case Nexthop6:
		e.add(&expr.Rt{Key: expr.RtNexthop6, Register: to})
	case EtherSource:
		payload(expr.PayloadBaseLLHeader, 6, 6)
	case Protocol:
		e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: to})
	case SourcePort:
		payload(expr.PayloadBaseTransportHeader, 0, 2)
	case DestPort:
		payload(expr.PayloadBaseTransportHeader, 2, 2)
	case ICMPv6Type:
		payload(expr.PayloadBaseTransportHeader, 0, 1)
	case TCPFlags:
		payload(expr.PayloadBaseTransportHeader, 13, 1)
	case DestType:
		e.add(&expr.Fib{Register: to, FlagDADDR: true, ResultADDRTYPE: true})
	case SourceType:
		e.add(&expr.Fib{Register: to, FlagSADDR: true, ResultADDRTYPE: true})
	case IPv6:
		e.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: to})
	case SocketUID:
		e.add(&expr.Meta{Key: expr.MetaKeySKUID, Register: to})
	}
}

// fetchTogether loads fields side by side: each begins a register of 4 bytes.
func (e *encoded) fetchTogether(fields []Field) {
	for _, f := range fields {
		e.require(f)
	}
	at := uint32(0)
	for _, f := range fields {
		if to := reg32(at); len(fields) > 1 {
			e.fetch(f, 0, to)
		} else {
			e.fetch(f, 0, reg)
		}
		at += uint32(registers(f))
	}
}

// lookup looks fields up side by side.
func (e *encoded) lookup(l Lookup) {
	e.fetchTogether(l.Fields)
	e.add(&expr.Lookup{SourceRegister: reg, SetName: l.Set, IsDestRegSet: l.Map})
}

// and is register & mask ^ xor; with xor outside the mask that is "or".
func and(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func (e *encoded) compare(m Match) {
	op := expr.CmpOpEq
	if m.Op == IsNot {
		op = expr.CmpOpNeq
	}
	switch {
	case m.Op == AnyBit || m.Op == NoBit:
		if op = expr.CmpOpNeq; m.Op == NoBit {
			op = expr.CmpOpEq
		}
		all := make([]byte, len(m.Values[0].Raw))
		for _, v := range m.Values {
			for i := range all {
				all[i] |= v.Raw[i]
			}
		}
		zero := make([]byte, len(all))
		e.add(&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(all)), Mask: all, Xor: zero}, &expr.Cmp{Op: op, Register: reg, Data: zero})
	case len(m.Values) == 1 && m.Values[0].Hi != "":
		v := m.Values[0]
		if mask, ok := prefixMask(v); ok {
			e.add(&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
				&expr.Cmp{Op: op, Register: reg, Data: []byte(v.Raw)})
			return
		}
		e.add(&expr.Range{Op: op, Register: reg, FromData: []byte(v.Raw), ToData: []byte(v.Hi)})
	case len(m.Values) == 1:
		if m.Field == IPv6 && m.Op == Is {
			e.family = m.Values[0].Raw[0]
		}
		e.add(&expr.Cmp{Op: op, Register: reg, Data: []byte(m.Values[0].Raw)})
	default:
		set := &nftables.Set{Anonymous: true, Constant: true, KeyType: keyType(m.Field), KeyByteOrder: keyOrder(m.Field)}
		set.Interval = slices.ContainsFunc(m.Values, func(v Value) bool { return v.Hi != "" })
		var elements []nftables.SetElement
		for _, v := range m.Values {
			elements = append(elements, nftables.SetElement{Key: []byte(v.Raw)})
			if !set.Interval {
				continue
			}
			// Among ranges a single value is one, too: without an end it would
			// reach to the next.
			if end, ok := successor(cmp.Or(v.Hi, v.Raw)); ok {
				elements = append(elements, nftables.SetElement{Key: end, IntervalEnd: true})
			}
		}
		lookup := &expr.Lookup{SourceRegister: reg, Invert: m.Op == IsNot}
		e.sets = append(e.sets, encodedSet{set, elements, lookup})
		e.add(lookup)
	}
}

// prefixMask returns the mask under which exactly the values of the range are
// equal; false if there is none, because the range is no prefix.
func prefixMask(v Value) ([]byte, bool) {
	mask := make([]byte, len(v.Raw))
	for i := range mask {
		mask[i] = ^(v.Raw[i] ^ v.Hi[i])
		if v.Raw[i]&^mask[i] != 0 {
			return nil, false
		}
	}
	ones := 0
	for ones < len(mask)*8 && mask[ones/8]&(0x80>>(ones%8)) != 0 {
		ones++
	}
	return mask, slices.Equal(mask, net.CIDRMask(ones, len(mask)*8))
}

// successor returns the number after hi, which ends a range for the kernel;
// false after the last.
func successor(hi string) ([]byte, bool) {
	next := []byte(hi)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

func (e *encoded) verdicts(m Map) {
	set := &nftables.Set{Anonymous: true, Constant: true, IsMap: true, KeyType: keyType(m.Field), KeyByteOrder: keyOrder(m.Field), DataType: nftables.TypeVerdict}
	var elements []nftables.SetElement
	for _, entry := range m.Entries {
		elements = append(elements, nftables.SetElement{Key: []byte(entry.Value.Raw), VerdictData: verdict(entry.Verdict)})
	}
	lookup := &expr.Lookup{SourceRegister: reg, DestRegister: 0, IsDestRegSet: true}
	e.sets = append(e.sets, encodedSet{set, elements, lookup})
	e.add(lookup)
}

func (e *encoded) setMark(s SetMark) {
	if s.Conn {
		e.add(&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, and(^s.Mask, s.Value), &expr.Ct{Key: expr.CtKeyMARK, Register: reg, SourceRegister: true})
		return
	}
	e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, and(^s.Mask, s.Value), &expr.Meta{Key: expr.MetaKeyMARK, Register: reg, SourceRegister: true})
}

func verdict(v Verdict) *expr.Verdict {
	kinds := map[VerdictKind]expr.VerdictKind{Accept: expr.VerdictAccept, Drop: expr.VerdictDrop, Return: expr.VerdictReturn, Goto: expr.VerdictGoto}
	return &expr.Verdict{Kind: kinds[v.Kind], Chain: v.Chain}
}

// keyType names a field's type to nft(8).
func keyType(f Field) nftables.SetDatatype {
	switch f {
	case InInterface, OutInterface:
		return nftables.TypeIFName
	case ConnMark, PacketMark:
		return nftables.TypeMark
	case SocketUID:
		return nftables.TypeUID
	case DSCP4, DSCP6:
		return nftables.TypeDSCP
	case Source4, Dest4, Nexthop4:
		return nftables.TypeIPAddr
	case Source6, Dest6, Nexthop6:
		return nftables.TypeIP6Addr
	case EtherSource:
		return nftables.TypeEtherAddr
	case Protocol:
		return nftables.TypeInetProto
	case SourcePort, DestPort:
		return nftables.TypeInetService
	case ConnState:
		return nftables.TypeCTState
	case ConnStatus:
		return nftables.TypeCTStatus
	case ConnDirection:
		return nftables.TypeCTDir
	case ICMPv6Type:
		return nftables.TypeICMP6Type
	case DestType, SourceType:
		return nftables.TypeFIBAddr
	case IPv6:
		return nftables.TypeNFProto
	}
	return nftables.TypeInvalid
}

// keyOrder tells nft(8) the byte order in which to print a field's values.
func keyOrder(f Field) binaryutil.ByteOrder {
	switch f {
	case InInterface, OutInterface, ConnMark, PacketMark, SocketUID, ConnState, ConnStatus, DestType, SourceType:
		return binaryutil.NativeEndian
	}
	return binaryutil.BigEndian
}
