package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Message types: NFNL_SUBSYS_CTNETLINK (include/uapi/linux/netfilter/nfnetlink.h) in the
// upper byte, enum cntl_msg_types of nfnetlink_conntrack.h in the lower.
const (
	msgNew    = 0x100 + iota // IPCTNL_MSG_CT_NEW
	msgGet                   // IPCTNL_MSG_CT_GET
	msgDelete                // IPCTNL_MSG_CT_DELETE
	_                        // IPCTNL_MSG_CT_GET_CTRZERO
	msgCPU                   // IPCTNL_MSG_CT_GET_STATS_CPU
	msgStats                 // IPCTNL_MSG_CT_GET_STATS
)

// Attributes of a message: enum ctattr_type.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaTimeout    = 7
	ctaMark       = 8
	ctaCountOrig  = 9
	ctaCountReply = 10
	ctaID         = 12
	ctaZone       = 18
	ctaTimestamp  = 20
	ctaMarkMask   = 21
)

// Attributes inside those of a message: enum ctattr_counters, ctattr_timestamp,
// ctattr_protoinfo and ctattr_protoinfo_tcp.
const (
	ctaPackets = 1
	ctaBytes   = 2

	ctaTimestampStart = 1

	ctaProtoInfoTCP = 1
	ctaTCPState     = 1
)

// Attributes of a tuple: enum ctattr_tuple, ctattr_ip and ctattr_l4proto.
const (
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoDstPort    = 3
	ctaProtoICMPID     = 4
	ctaProtoICMPType   = 5
	ctaProtoICMPCode   = 6
	ctaProtoICMPv6ID   = 7
	ctaProtoICMPv6Type = 8
	ctaProtoICMPv6Code = 9
)

const (
	nfgenLen  = 4      // struct nfgenmsg
	nlaHdrLen = 4      // struct nlattr
	nlaNested = 0x8000 // NLA_F_NESTED
	nlaMask   = 0x3fff // NLA_TYPE_MASK
)

// appendNFGen appends struct nfgenmsg: family, version 0 (NFNETLINK_V0), resource 0.
func appendNFGen(b []byte, family uint8) []byte { return append(b, family, 0, 0, 0) }

func appendHeader(b []byte, typ uint16, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(nlaHdrLen+n))
	return binary.NativeEndian.AppendUint16(b, typ)
}

// appendU8, appendU16 and appendU32 append an attribute with a number in network byte
// order, padded to four bytes.
func appendU8(b []byte, typ uint16, v uint8) []byte {
	return append(appendHeader(b, typ, 1), v, 0, 0, 0)
}

func appendU16(b []byte, typ uint16, v uint16) []byte {
	return append(binary.BigEndian.AppendUint16(appendHeader(b, typ, 2), v), 0, 0)
}

func appendU32(b []byte, typ uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, typ, 4), v)
}

// appendAddr appends an address; its length, 4 or 16, needs no padding.
func appendAddr(b []byte, typ uint16, a netip.Addr) []byte {
	s := a.AsSlice()
	return append(appendHeader(b, typ, len(s)), s...)
}

// beginNest opens a nested attribute; endNest, given the offset it returned, sets its length.
// What stands inside is always far below the 65,535 bytes that a length can say.
func beginNest(b []byte, typ uint16) ([]byte, int) {
	return appendHeader(b, typ|nlaNested, 0), len(b)
}

func endNest(b []byte, at int) []byte {
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

// appendMark appends the attributes that choose or set the bits of mask.
func appendMark(b []byte, mark, mask uint32) []byte {
	return appendU32(appendU32(b, ctaMark, mark), ctaMarkMask, mask)
}

// appendTuple appends a tuple as ctnetlink_parse_tuple of the kernel reads it.
func appendTuple(b []byte, typ uint16, proto uint8, t Tuple) []byte {
	b, tuple := beginNest(b, typ)

	b, ip := beginNest(b, ctaTupleIP)
	if t.Src.Is4() {
		b = appendAddr(b, ctaIPv4Src, t.Src)
		b = appendAddr(b, ctaIPv4Dst, t.Dst)
	} else {
		b = appendAddr(b, ctaIPv6Src, t.Src)
		b = appendAddr(b, ctaIPv6Dst, t.Dst)
	}
	b = endNest(b, ip)

	b, l4 := beginNest(b, ctaTupleProto)
	b = appendU8(b, ctaProtoNum, proto)
	switch {
	case proto == protoICMP:
		b = appendU16(b, ctaProtoICMPID, t.ICMPID)
		b = appendU8(b, ctaProtoICMPType, t.ICMPType)
		b = appendU8(b, ctaProtoICMPCode, t.ICMPCode)
	case proto == protoICMPv6:
		b = appendU16(b, ctaProtoICMPv6ID, t.ICMPID)
		b = appendU8(b, ctaProtoICMPv6Type, t.ICMPType)
		b = appendU8(b, ctaProtoICMPv6Code, t.ICMPCode)
	case HasPorts(proto):
		b = appendU16(b, ctaProtoSrcPort, t.SrcPort)
		b = appendU16(b, ctaProtoDstPort, t.DstPort)
	}
	b = endNest(b, l4)

	if t.Zone != 0 {
		b = appendU16(b, ctaTupleZone, t.Zone)
	}
	return endNest(b, tuple)
}

// errEntry is wrapped by the errors about an Entry that cannot name a connection.
var errEntry = errors.New("not a connection")

// check refuses an entry whose original tuple the kernel could not look up, or which it
// would take for another connection.
func (e Entry) check() error {
	var ok bool
	switch e.Family {
	case FamilyIPv4:
		ok = e.Orig.Src.Is4() && e.Orig.Dst.Is4()
	case FamilyIPv6:
		ok = e.Orig.Src.Is6() && e.Orig.Dst.Is6()
	default:
		return fmt.Errorf("%w: unknown family %d", errEntry, e.Family)
	}
	if !ok {
		return fmt.Errorf("%w: source %v and destination %v are not of family %d", errEntry, e.Orig.Src, e.Orig.Dst, e.Family)
	}
	return nil
}

// appendKey appends what names one connection: its original tuple and its zone.
func appendKey(b []byte, e Entry) []byte {
	b = appendNFGen(b, e.Family)
	b = appendTuple(b, ctaTupleOrig, e.Proto, e.Orig)
	if e.Zone != 0 {
		b = appendU16(b, ctaZone, e.Zone)
	}
	return b
}

// appendSetMark appends the body of a msgNew without NLM_F_CREATE: an update.
func appendSetMark(b []byte, u MarkUpdate) []byte {
	return appendMark(appendKey(b, u.Entry), u.Mark, u.Mask)
}

// appendDelete appends the body of a msgDelete for one connection. With an ID the kernel
// spares a younger connection that took over the tuple.
func appendDelete(b []byte, e Entry) []byte {
	b = appendKey(b, e)
	if e.ID != 0 {
		b = appendU32(b, ctaID, e.ID)
	}
	return b
}

// appendDeleteByMark appends the body of a msgDelete without a tuple: a filtered flush
// (ctnetlink_flush_conntrack). The kernel heeds its family only where the version is not 0,
// for the sake of old programs that write AF_INET and mean everything
// (ctnetlink_del_conntrack, since Linux 5.2).
func appendDeleteByMark(b []byte, mark, mask uint32, family uint8) []byte {
	b = appendNFGen(b, family)
	if family != FamilyAny {
		b[len(b)-nfgenLen+1] = 1
	}
	return appendMark(b, mark, mask)
}

// appendDeleteOutgoing is appendDeleteByMark for those whose source is changed: with
// CTA_STATUS alone, the bits that are set must be set (ctnetlink_filter_parse_status).
func appendDeleteOutgoing(b []byte, mark, mask uint32, family uint8) []byte {
	return appendU32(appendDeleteByMark(b, mark, mask, family), ctaStatus, uint32(StatusSrcNAT))
}

// appendDump appends the body of a msgGet with NLM_F_DUMP.
func appendDump(b []byte, f Filter) []byte {
	b = appendNFGen(b, f.Family)
	if f.Mask != 0 {
		b = appendMark(b, f.Mark, f.Mask)
	}
	return b
}

func (f Filter) check() error {
	if err := checkFamily(f.Family); err != nil {
		return err
	}
	if f.Mark&^f.Mask != 0 {
		return fmt.Errorf("%w: mark %#x has bits outside mask %#x", ErrMask, f.Mark, f.Mask)
	}
	return nil
}

func checkFamily(family uint8) error {
	switch family {
	case FamilyAny, FamilyIPv4, FamilyIPv6:
		return nil
	}
	return fmt.Errorf("unknown family %d", family)
}
