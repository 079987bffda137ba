package nat

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A client that sends from the port of one of the router's own services would
// keep that port on the uplink's address, and get what its far end sends to the
// service ("port shadow", CVE-2021-3773). So clients never have such a port
// there, whatever they choose. One client's port is still one port for all far
// ends (find_appropriate_src, net/netfilter/nf_nat_core.c).

// servicesChain NATs the connections of clients that send from a service's port.
const servicesChain = "masquerading-services"

// apartFromServices has clients' connections that begin at a service's port
// NATed to another one. Most begin at none. A comparison with the ports that the
// kernel does not give away, and one with the others, find that out for less than
// one look-up of ranges costs, and then nobody asks for the protocol.
func (c *compiler) apartFromServices() []Rule {
	if len(c.Services) == 0 {
		return nil
	}
	all := make([]span, len(c.Services))
	for i, r := range c.Services {
		all[i] = span{port16(r.Lo), port16(r.Hi)}
	}
	c.chain(Chain{Name: servicesChain, Rules: c.masquerade(c.ClientPorts)})
	var values []Value
	for _, s := range joined(SourcePort, spans(all)) {
		values = append(values, s.value(SourcePort))
	}
	var rules []Rule
	for _, ports := range [][]Value{values[:1], values[1:]} {
		if len(ports) > 0 {
			rules = append(rules, Rule{Match{Field: SourcePort, Values: ports}, Match{Field: Protocol, Values: []Value{tcp, udp}},
				Match{Field: SourceType, Op: IsNot, Values: []Value{local}}, Verdict{Goto, servicesChain}})
		}
	}
	return rules
}

func port16(n uint16) string { return string(binary.BigEndian.AppendUint16(nil, n)) }

// text is how nft writes the ports that NAT chooses from; none: nothing.
func (r PortRange) text() string {
	if r == (PortRange{}) {
		return ""
	}
	return fmt.Sprintf(":%d-%d", r.Lo, r.Hi)
}

// protoRegisters loads the ports that NAT chooses from behind an address.
func (e *encoded) protoRegisters(r PortRange) (lo, hi uint32) {
	if r == (PortRange{}) {
		return 0, 0
	}
	lo, hi = reg32(8), reg32(9) // an IPv6 address takes the first four
	e.add(&expr.Immediate{Register: lo, Data: []byte(port16(r.Lo))}, &expr.Immediate{Register: hi, Data: []byte(port16(r.Hi))})
	return lo, hi
}

// portMasq is the library's, with a flag that it lacks: without it the kernel
// takes no notice of the ports (nft_masq_eval, net/netfilter/nft_masq.c).
type portMasq struct{ *expr.Masq }

func marshal(x expr.Any) ([]byte, error) {
	m, ok := x.(portMasq)
	if !ok {
		return expr.Marshal(unix.NFPROTO_INET, x)
	}
	if !m.ToPorts {
		return expr.Marshal(unix.NFPROTO_INET, m.Masq)
	}
	return encodeAttributes(func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_EXPR_NAME, "masq")
		nested(ae, unix.NFTA_EXPR_DATA, func(n *netlink.AttributeEncoder) {
			n.Uint32(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED)
			n.Uint32(unix.NFTA_MASQ_REG_PROTO_MIN, m.RegProtoMin)
			n.Uint32(unix.NFTA_MASQ_REG_PROTO_MAX, m.RegProtoMax)
		})
	})
}
