package probe

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
)

// ARP for IPv4 over Ethernet (RFC 826).
const (
	lengthARP  = 28
	requestARP = 1
	replyARP   = 2
)

// appendARP appends the question who has target.
func appendARP(b []byte, mac []byte, source, target netip.Addr) []byte {
	b = append(b, 0, 1, 8, 0, 6, 4, 0, requestARP)
	b = append(b, mac[:6]...)
	b = append(b, source.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, target.AsSlice()...)
}

// parseARP reads an ARP reply: who says that he has the address from, and whom
// he says it to.
func parseARP(b []byte) (from, to netip.Addr, mac [6]byte, ok bool) {
	if len(b) < lengthARP || [8]byte(b) != [8]byte{0, 1, 8, 0, 6, 4, 0, replyARP} {
		return from, to, mac, false
	}
	return netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:])), [6]byte(b[18:]), true
}

// filterARP passes ARP replies from gateway; from none if that has no IPv4 address. The program sees packets from the
// ARP header on.
func filterARP(gateway netip.Addr) []bpf.Instruction {
	addr := [4]byte{}
	if gateway.Is4() {
		addr = gateway.As4()
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: replyARP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 14, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(addr[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

// Neighbour discovery (RFC 4861).
const (
	lengthND    = 24
	hopsND      = 255  // packets that came from farther off have less
	solicitedND = 0x40 // in byte 4
)

// appendSolicitation appends the question who has target. The kernel fills in the
// checksum.
func appendSolicitation(b []byte, mac []byte, target netip.Addr) []byte {
	b = append(b, neighbourAsk6, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	if len(mac) == 6 {
		b = append(b, 1, 1) // option: our own link-layer address
		b = append(b, mac...)
	}
	return b
}

// parseAdvertisement reads the ICMPv6 message of a neighbour that was asked: the
// address it says it has.
func parseAdvertisement(b []byte) (netip.Addr, bool) {
	if len(b) < lengthND || b[0] != neighbourReply6 || b[1] != 0 || b[4]&solicitedND == 0 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b[8:])), true
}

// filterND passes advertisements of gateway. The program sees packets from the
// ICMPv6 header on.
func filterND(gateway netip.Addr) []bpf.Instruction {
	addr := gateway.As16()
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbourReply6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 20, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(addr[12:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

// solicitedNode is the multicast address on which a neighbour is asked for.
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	group := [16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}
	return netip.AddrFrom16(group)
}
