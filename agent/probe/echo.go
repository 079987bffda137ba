package probe

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"multiroute/routes"
)

// ICMP types (RFC 792, RFC 4443).
const (
	echoReply4      = 0
	unreachable4    = 3
	echoRequest4    = 8
	timeExceeded4   = 11
	unreachable6    = 1
	timeExceeded6   = 3
	echoRequest6    = 128
	echoReply6      = 129
	neighbourAsk6   = 135
	neighbourReply6 = 136
)

// tooBig4 is the code of an IPv4 "unreachable" that is none: the packet does not
// fit somewhere. Our probes fit everywhere.
const tooBig4 = 4

const (
	echoHeader   = 8
	echoLength   = echoHeader + len(nonce{})
	header4      = 20 // without options, as in our probes
	header6      = 40
	protocolAt4  = 9
	sourceAt4    = 12
	targetAt4    = 16
	nextHeaderAt = 6
	sourceAt6    = 8
	targetAt6    = 24
)

// appendEcho appends an echo request. The kernel fills in the checksum of IPv6.
func appendEcho(b []byte, family routes.Family, id, sequence uint16, n nonce) []byte {
	start := len(b)
	kind := byte(echoRequest4)
	if family == routes.IPv6 {
		kind = echoRequest6
	}
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, sequence)
	b = append(b, n[:]...)
	if family == routes.IPv4 {
		binary.BigEndian.PutUint16(b[start+2:], checksum(b[start:]))
	}
	return b
}

// checksum is the internet checksum of an even number of bytes (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// heard is what an ICMP message says about an echo request.
type heard struct {
	failed     bool // an error message about it; otherwise the reply
	kind, code byte // of an error
	from, to   netip.Addr
	source     netip.Addr // of an error: where the request came from
	target     netip.Addr // of an error: where it went; of a reply: from
	id         uint16
	sequence   uint16
	nonce      []byte // of an error: as much of it as is quoted; part of the message
}

// parseICMP4 reads what a raw IPv4 socket received: a packet from its IP header
// on. It is false for everything but echo replies and errors about echo requests.
func parseICMP4(b []byte) (heard, bool) {
	from, to, protocol, b, ok := parseHeader4(b)
	if !ok || protocol != unix.IPPROTO_ICMP || len(b) < echoHeader {
		return heard{}, false
	}
	h := heard{from: from, to: to, kind: b[0], code: b[1]}
	switch {
	case h.kind == echoReply4:
		h.target = from
		return h.echo(b, echoReply4)
	case h.kind == unreachable4 && h.code != tooBig4, h.kind == timeExceeded4:
		h.failed = true
		h.source, h.target, protocol, b, ok = parseHeader4(b[echoHeader:])
		if !ok || protocol != unix.IPPROTO_ICMP {
			return heard{}, false
		}
		return h.echo(b, echoRequest4)
	}
	return heard{}, false
}

// parseICMP6 reads what a raw ICMPv6 socket received: a packet after its headers.
func parseICMP6(b []byte, from, to netip.Addr) (heard, bool) {
	if len(b) < echoHeader {
		return heard{}, false
	}
	h := heard{from: from, to: to, kind: b[0], code: b[1]}
	switch h.kind {
	case echoReply6:
		h.target = from
		return h.echo(b, echoReply6)
	case unreachable6, timeExceeded6:
		h.failed = true
		quoted := b[echoHeader:]
		if len(quoted) < header6 || quoted[0]>>4 != 6 || quoted[nextHeaderAt] != unix.IPPROTO_ICMPV6 {
			return heard{}, false
		}
		h.source = netip.AddrFrom16([16]byte(quoted[sourceAt6:]))
		h.target = netip.AddrFrom16([16]byte(quoted[targetAt6:]))
		return h.echo(quoted[header6:], echoRequest6)
	}
	return heard{}, false
}

// parseHeader4 takes an IPv4 header off a packet or the beginning of one. Later
// fragments are refused.
func parseHeader4(b []byte) (from, to netip.Addr, protocol byte, rest []byte, ok bool) {
	if len(b) < header4 || b[0]>>4 != 4 {
		return from, to, 0, nil, false
	}
	length := int(b[0]&0xf) * 4
	if length < header4 || length > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return from, to, 0, nil, false
	}
	from = netip.AddrFrom4([4]byte(b[sourceAt4:]))
	to = netip.AddrFrom4([4]byte(b[targetAt4:]))
	return from, to, b[protocolAt4], b[length:], true
}

// echo reads the echo message b, which must be of that kind.
func (h heard) echo(b []byte, kind byte) (heard, bool) {
	if len(b) < echoHeader || b[0] != kind || b[1] != 0 {
		return heard{}, false
	}
	h.id = binary.BigEndian.Uint16(b[4:])
	h.sequence = binary.BigEndian.Uint16(b[6:])
	h.nonce = b[echoHeader:]
	return h, true
}

// words says what an error means.
func (h heard) words() string {
	if h.kind == timeExceeded4 && h.from.Is4() || h.kind == timeExceeded6 && h.from.Is6() {
		return "routing loop"
	}
	return "unreachable"
}

// echoFilter passes what may be about our echo requests, so that the pings of
// others wake nobody. The programs see IPv4 packets from the IP header on, and
// IPv6 packets from the ICMP header on.
func echoFilter(family routes.Family, id uint16) []bpf.Instruction {
	const all = 1 << 16
	if family == routes.IPv4 {
		return []bpf.Instruction{
			bpf.LoadMemShift{Off: 0}, // X: length of the IP header
			bpf.LoadIndirect{Off: 0, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: echoReply4, SkipTrue: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unreachable4, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: timeExceeded4, SkipTrue: 5},
			bpf.LoadIndirect{Off: echoHeader + header4 + 4, Size: 2},
			bpf.Jump{Skip: 1},
			bpf.LoadIndirect{Off: 4, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
			bpf.RetConstant{Val: all},
			bpf.RetConstant{Val: 0},
		}
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: echoReply6, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unreachable6, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: timeExceeded6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: echoHeader + header6 + 4, Size: 2},
		bpf.Jump{Skip: 1},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
		bpf.RetConstant{Val: all},
		bpf.RetConstant{Val: 0},
	}
}
