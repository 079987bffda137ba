package conntrack

import (
	"fmt"
	"net/netip"
	"strings"
)

// Address families of an Entry and of a Filter: the kernel's AF_INET and AF_INET6.
const (
	FamilyAny  uint8 = 0
	FamilyIPv4 uint8 = 2
	FamilyIPv6 uint8 = 10
)

// Protocols whose tuples have a form of their own; the numbers are those of the IP header.
const (
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoGRE     = 47
	protoICMPv6  = 58
	protoSCTP    = 132
	protoUDPLite = 136
)

// A Tuple identifies one direction of a connection. Tuples are comparable with ==.
type Tuple struct {
	// Src and Dst are the addresses in the packets of this direction. For the reply
	// direction of a NATed connection they are not simply those of the other one exchanged.
	Src, Dst netip.Addr

	// SrcPort and DstPort are the ports (for GRE: the keys). Zero for ICMP and for
	// protocols without ports.
	SrcPort, DstPort uint16

	// ICMPID, ICMPType and ICMPCode are set for ICMP and ICMPv6 only.
	ICMPID             uint16
	ICMPType, ICMPCode uint8

	// Zone is the conntrack zone of this direction alone; zero for nearly everybody.
	// A zone of both directions is in Entry.Zone.
	Zone uint16
}

// An Entry is one connection as the kernel listed it. Entries are comparable with ==.
type Entry struct {
	// Family is FamilyIPv4 or FamilyIPv6.
	Family uint8

	// Proto is the number of the IP protocol, such as 6 for TCP.
	Proto uint8

	// Orig is the tuple of the packets that opened the connection, before any NAT;
	// Reply is the tuple of the answers as they arrive.
	Orig, Reply Tuple

	// Mark is the whole connection mark, foreign bits included.
	Mark uint32

	// Status is what the kernel knows about the connection.
	Status Status

	// Zone is the conntrack zone of both directions, 0 by default.
	Zone uint16

	// ID tells this connection from a later one with the same tuples; 0 when unknown.
	// It is the kernel's hash of the entry, not a small number.
	ID uint32

	// Timeout is the number of seconds after which the entry ends if no packet comes.
	Timeout uint32

	// Sent and Received count what went in the direction of Orig and of Reply; Counted says
	// whether the kernel counted at all. It does for connections that began while
	// net.netfilter.nf_conntrack_acct was 1.
	Sent, Received Counters
	Counted        bool

	// Start is when the entry was made, in nanoseconds since 1970 by the clock of the wall.
	// It is 0 for connections that began while net.netfilter.nf_conntrack_timestamp was 0.
	Start uint64

	// TCPState is how far a TCP connection has come; 0 for all others, and in a flowtable.
	TCPState TCPState
}

// Counters are those of one direction of a connection.
type Counters struct {
	Packets uint64

	// Bytes are those of whole IP packets, headers included.
	Bytes uint64
}

// String writes the entry much as the conntrack program does, on one line.
func (e Entry) String() string {
	var b strings.Builder
	b.WriteString(ProtocolName(e.Proto))
	writeTuple(&b, e.Proto, e.Orig)
	b.WriteString(" reply")
	writeTuple(&b, e.Proto, e.Reply)
	fmt.Fprintf(&b, " mark=0x%08x status=%s", e.Mark, e.Status)
	if e.Zone != 0 {
		fmt.Fprintf(&b, " zone=%d", e.Zone)
	}
	return b.String()
}

func writeTuple(b *strings.Builder, proto uint8, t Tuple) {
	fmt.Fprintf(b, " src=%s dst=%s", t.Src, t.Dst)
	switch {
	case IsICMP(proto):
		fmt.Fprintf(b, " type=%d code=%d id=%d", t.ICMPType, t.ICMPCode, t.ICMPID)
	case HasPorts(proto):
		fmt.Fprintf(b, " sport=%d dport=%d", t.SrcPort, t.DstPort)
	}
	if t.Zone != 0 {
		fmt.Fprintf(b, " zone=%d", t.Zone)
	}
}

// ProtocolName returns the usual name of an IP protocol that the kernel tracks by more than
// its addresses, such as "tcp", and "proto-50" for the others.
func ProtocolName(p uint8) string {
	switch p {
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoDCCP:
		return "dccp"
	case protoGRE:
		return "gre"
	case protoICMPv6:
		return "icmpv6"
	case protoSCTP:
		return "sctp"
	case protoUDPLite:
		return "udplite"
	}
	return fmt.Sprintf("proto-%d", p)
}

// IsICMP reports whether the kernel describes this protocol's tuples by type, code and id.
func IsICMP(proto uint8) bool { return proto == protoICMP || proto == protoICMPv6 }

// HasPorts reports whether the kernel describes this protocol's tuples by two 16-bit numbers.
func HasPorts(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoDCCP, protoGRE, protoSCTP, protoUDPLite:
		return true
	}
	return false
}

// A Filter chooses the entries of a list. The kernel applies it. The zero Filter chooses all.
type Filter struct {
	// Mark and Mask choose the entries with mark & Mask == Mark. Mask 0 chooses all, and
	// Mark must then be 0.
	Mark, Mask uint32

	// Family chooses one address family; FamilyAny chooses both.
	Family uint8
}

// A MarkUpdate says which bits of one connection's mark are to become what: the bits in
// Mask become those of Mark, all others stay as they are in the kernel at that moment.
type MarkUpdate struct {
	Entry      Entry
	Mark, Mask uint32
}
