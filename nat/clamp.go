package nat

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MaxSegment lowers the largest segment that the sender of a TCP packet with
// SYN asks for, in bytes; it never raises it (nft_exthdr_tcp_set_eval,
// net/netfilter/nft_exthdr.c). Where the packet has no such option it stays as
// it is.
type MaxSegment struct{ Size uint16 }

func (m MaxSegment) String() string { return fmt.Sprintf("tcp option maxseg size set %d", m.Size) }

func (e *encoded) maxSegment(m MaxSegment) {
	e.add(&expr.Immediate{Register: reg, Data: binary.BigEndian.AppendUint16(nil, m.Size)},
		&expr.Exthdr{SourceRegister: reg, Op: expr.ExthdrOpTcpopt, Type: unix.TCPOPT_MAXSEG, Offset: 2, Len: 2})
}

// clampChain lowers the segments of an uplink's connections.
const clampChain = "clamp-"

// clamp lowers the segments of connections by uplinks with an MTU, in both
// directions: both ends say in their SYN how much they take. It is done when
// the connection is bound to its uplink. "rt mtu" would not do: for the answer
// it looks the route up without a mark (get_tcpmss, net/netfilter/nft_rt.c).
// What the router itself receives never reaches postrouting. Other packets pay
// for one comparison, and for none where there is nothing to clamp.
func (c *compiler) clamp() {
	m := Map{Field: ConnMark, Mask: c.Mask}
	for _, u := range c.Uplinks {
		if u.Mark == 0 || u.MTU == 0 {
			continue
		}
		const ip, ip6, header = 20, 40, 20 // bytes
		rules := []Rule{{Match{Field: IPv6, Values: []Value{ipv4}}, MaxSegment{uint16(u.MTU - ip - header)}}}
		if !u.NoIPv6 {
			rules = append(rules, Rule{Match{Field: IPv6, Values: []Value{ipv6}}, MaxSegment{uint16(u.MTU - ip6 - header)}})
		}
		c.chain(Chain{Name: u.chain(clampChain), Rules: rules})
		m.Entries = append(m.Entries, MapEntry{mark(u.Mark), Verdict{Goto, u.chain(clampChain)}})
	}
	if len(m.Entries) == 0 {
		return
	}
	rules := []Rule{{Match{Field: TCPFlags, Op: AnyBit, Values: []Value{syn}}, m}}
	c.chain(Chain{Name: "clamp", Type: Filter, Hook: Postrouting, Priority: prioritySNAT + 1, Rules: rules})
	c.chain(Chain{Name: "clamp-own", Type: Filter, Hook: Input, Priority: priorityMangle, Rules: rules})
}
