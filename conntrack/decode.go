package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// errMalformed is wrapped by every error about a message that cannot be understood.
var errMalformed = errors.New("malformed ctnetlink message")

// attrs walks over netlink attributes without copying or allocating.
//
//	for a := (attrs{b: data}); a.next(); { use a.typ, a.val }
//
// The walk must be followed by a look at a.err; it is set at the first attribute whose
// length does not fit.
type attrs struct {
	b   []byte
	typ uint16
	val []byte
	err error
}

func (a *attrs) next() bool {
	if len(a.b) == 0 || a.err != nil {
		return false
	}
	if len(a.b) < nlaHdrLen {
		a.err = fmt.Errorf("%w: %d stray bytes", errMalformed, len(a.b))
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.b))
	if n < nlaHdrLen || n > len(a.b) {
		a.err = fmt.Errorf("%w: attribute of %d bytes with %d bytes left", errMalformed, n, len(a.b))
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.b[2:]) & nlaMask
	a.val = a.b[nlaHdrLen:n]
	// The last attribute may lack its padding.
	a.b = a.b[min((n+3)&^3, len(a.b)):]
	return true
}

func (a *attrs) want(n int) bool {
	if len(a.val) == n {
		return true
	}
	a.err = fmt.Errorf("%w: attribute %d has %d bytes, want %d", errMalformed, a.typ, len(a.val), n)
	return false
}

func (a *attrs) u8() uint8 {
	if !a.want(1) {
		return 0
	}
	return a.val[0]
}

func (a *attrs) u16() uint16 {
	if !a.want(2) {
		return 0
	}
	return binary.BigEndian.Uint16(a.val)
}

func (a *attrs) u32() uint32 {
	if !a.want(4) {
		return 0
	}
	return binary.BigEndian.Uint32(a.val)
}

func (a *attrs) u64() uint64 {
	if !a.want(8) {
		return 0
	}
	return binary.BigEndian.Uint64(a.val)
}

func (a *attrs) addr4() netip.Addr {
	if !a.want(4) {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(a.val))
}

func (a *attrs) addr6() netip.Addr {
	if !a.want(16) {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(a.val))
}

// decodeEntry decodes the body of a message about one connection: struct nfgenmsg and the
// attributes that follow. It needs both tuples; unknown attributes are ignored.
func decodeEntry(data []byte) (Entry, error) {
	if len(data) < nfgenLen {
		return Entry{}, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	e := Entry{Family: data[0]}
	if e.Family != FamilyIPv4 && e.Family != FamilyIPv6 {
		return Entry{}, fmt.Errorf("%w: unknown family %d", errMalformed, e.Family)
	}

	var proto [2]uint8
	var seen [2]bool
	a := attrs{b: data[nfgenLen:]}
	for a.next() {
		switch a.typ {
		case ctaTupleOrig:
			e.Orig, proto[0], a.err = decodeTuple(a.val, e.Family)
			seen[0] = true
		case ctaTupleReply:
			e.Reply, proto[1], a.err = decodeTuple(a.val, e.Family)
			seen[1] = true
		case ctaStatus:
			e.Status = Status(a.u32())
		case ctaTimeout:
			e.Timeout = a.u32()
		case ctaMark:
			e.Mark = a.u32()
		case ctaID:
			e.ID = a.u32()
		case ctaZone:
			e.Zone = a.u16()
		case ctaCountOrig:
			e.Sent, a.err = decodeCounters(a.val)
			e.Counted = true
		case ctaCountReply:
			e.Received, a.err = decodeCounters(a.val)
			e.Counted = true
		case ctaTimestamp:
			e.Start, a.err = decodeStart(a.val)
		case ctaProtoInfo:
			e.TCPState, a.err = decodeProtoInfo(a.val)
		}
	}
	switch {
	case a.err != nil:
		return Entry{}, a.err
	case !seen[0] || !seen[1]:
		return Entry{}, fmt.Errorf("%w: a tuple is missing", errMalformed)
	case proto[0] != proto[1]:
		return Entry{}, fmt.Errorf("%w: protocol %d one way and %d the other", errMalformed, proto[0], proto[1])
	}
	e.Proto = proto[0]
	return e, nil
}

// decodeMark finds the mark in the body of a message about one connection. The kernel may
// leave out a mark of 0.
func decodeMark(data []byte) (uint32, error) {
	if len(data) < nfgenLen {
		return 0, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	var mark uint32
	a := attrs{b: data[nfgenLen:]}
	for a.next() {
		if a.typ == ctaMark {
			mark = a.u32()
			break
		}
	}
	return mark, a.err
}

func decodeCounters(data []byte) (c Counters, err error) {
	a := attrs{b: data}
	for a.next() {
		switch a.typ {
		case ctaPackets:
			c.Packets = a.u64()
		case ctaBytes:
			c.Bytes = a.u64()
		}
	}
	if a.err != nil {
		return Counters{}, a.err
	}
	return c, nil
}

// decodeStart decodes the time at which an entry was made.
func decodeStart(data []byte) (start uint64, err error) {
	a := attrs{b: data}
	for a.next() {
		if a.typ == ctaTimestampStart {
			start = a.u64()
		}
	}
	return start, a.err
}

// decodeProtoInfo finds the state of a TCP connection; of other protocols it is ignored.
func decodeProtoInfo(data []byte) (state TCPState, err error) {
	a := attrs{b: data}
	for a.next() {
		if a.typ != ctaProtoInfoTCP {
			continue
		}
		tcp := attrs{b: a.val}
		for tcp.next() {
			if tcp.typ == ctaTCPState {
				state = TCPState(tcp.u8())
			}
		}
		a.err = tcp.err
	}
	return state, a.err
}

func decodeTuple(data []byte, family uint8) (t Tuple, proto uint8, err error) {
	a := attrs{b: data}
	for a.next() {
		switch a.typ {
		case ctaTupleIP:
			a.err = decodeAddrs(a.val, family, &t)
		case ctaTupleProto:
			proto, a.err = decodeProto(a.val, &t)
		case ctaTupleZone:
			t.Zone = a.u16()
		}
	}
	switch {
	case a.err != nil:
		return Tuple{}, 0, a.err
	case !t.Src.IsValid() || !t.Dst.IsValid():
		return Tuple{}, 0, fmt.Errorf("%w: tuple without addresses of family %d", errMalformed, family)
	}
	return t, proto, nil
}

func decodeAddrs(data []byte, family uint8, t *Tuple) error {
	a := attrs{b: data}
	for a.next() {
		switch {
		case a.typ == ctaIPv4Src && family == FamilyIPv4:
			t.Src = a.addr4()
		case a.typ == ctaIPv4Dst && family == FamilyIPv4:
			t.Dst = a.addr4()
		case a.typ == ctaIPv6Src && family == FamilyIPv6:
			t.Src = a.addr6()
		case a.typ == ctaIPv6Dst && family == FamilyIPv6:
			t.Dst = a.addr6()
		}
	}
	return a.err
}

func decodeProto(data []byte, t *Tuple) (proto uint8, err error) {
	seen := false
	a := attrs{b: data}
	for a.next() {
		switch a.typ {
		case ctaProtoNum:
			proto, seen = a.u8(), true
		case ctaProtoSrcPort:
			t.SrcPort = a.u16()
		case ctaProtoDstPort:
			t.DstPort = a.u16()
		case ctaProtoICMPID, ctaProtoICMPv6ID:
			t.ICMPID = a.u16()
		case ctaProtoICMPType, ctaProtoICMPv6Type:
			t.ICMPType = a.u8()
		case ctaProtoICMPCode, ctaProtoICMPv6Code:
			t.ICMPCode = a.u8()
		}
	}
	if a.err == nil && !seen {
		a.err = fmt.Errorf("%w: tuple without a protocol", errMalformed)
	}
	return proto, a.err
}
