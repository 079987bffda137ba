//go:build linux

package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// Protocols with ports beside TCP and UDP.
const (
	sctp    = unix.IPPROTO_SCTP
	dccp    = unix.IPPROTO_DCCP
	udplite = unix.IPPROTO_UDPLITE
)

// TestRulePortsOfRarerProtocols: rules tell packets of SCTP, DCCP and UDP-Lite
// by their ports, and the packets and their answers cross the NAT.
//
// Rules read the ports in the packet, whether the kernel knows the protocol or
// not. Its NAT has to know it: where it has no tracker for a protocol (Linux
// removed that of DCCP, net/netfilter/nf_conntrack_proto_dccp.c; those of SCTP and
// UDP-Lite can be left out of a kernel), connections are told apart by addresses
// only (nf_ct_get_tuple, net/netfilter/nf_conntrack_core.c), and nothing behind
// the IP header is changed (l4proto_manip_pkt, net/netfilter/nf_nat_proto.c). The
// packet goes where the rule says, with that uplink's address, but a checksum that
// covers addresses is wrong then; what else its sender sends to that address
// belongs to the same connection; and nobody else can send there by the same
// uplink, as there is no port to change.
//
// Of UDP-Lite Linux takes right checksums for wrong, where the network card has
// not judged them: it looks with the number of UDP in the pseudo header
// (udplite_error, net/netfilter/nf_conntrack_proto_udp.c). What it holds for invalid
// is dropped.
func TestRulePortsOfRarerProtocols(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		inside := watchInternet(t, h.Client())
		h.start(ctx, h.text(h.first(), fmt.Sprintf(`
[[rule]]
name = "signalling"
protocol = "sctp"
ports = [3868, "2905-2910"]
uplink = %[1]q
[[rule]]
name = "media"
protocol = ["dccp", "udplite"]
ports = [5004]
source_ports = ["40000-40009"]
uplink = %[2]q
`, h.name(1), h.name(2))))
		for _, p := range h.packets(try{proto: udplite, sport: 40000, dport: 5004}) {
			if got := h.way(p); got != lost && got != h.name(2) { // the latter once Linux judges rightly
				t.Errorf("%s: went %s", p, got)
			}
		}
		must(t, h.Topology.Router.Sysctl("net/netfilter/nf_conntrack_checksum", "0"))
		for _, c := range []struct {
			uplink int
			rule   string
			try
		}{
			{1, "signalling", try{proto: sctp, sport: 40000, dport: 3868}},
			{1, "signalling", try{proto: sctp, sport: 3868, dport: 2910}},
			{0, "", try{proto: sctp, sport: 3868, dport: 2911}},
			{0, "", try{proto: sctp, sport: 40000, dport: 5004}},
			{2, "media", try{proto: dccp, sport: 40000, dport: 5004}},
			{0, "", try{proto: dccp, sport: 40010, dport: 5004}},
			{0, "", try{proto: dccp, sport: 40000, dport: 5005}},
			{0, "", try{proto: dccp, sport: 40000, dport: 3868}},
			{2, "media", try{proto: udplite, sport: 40009, dport: 5004}},
			{0, "", try{proto: udplite, sport: 39999, dport: 5004}},
			{0, "", try{proto: udplite, sport: 40000, dport: 3868}},
			{0, "", try{proto: udp, sport: 40000, dport: 5004}},
			{0, "", try{proto: udp, sport: 40001, dport: 3868}},
		} {
			u := h.Uplinks[c.uplink]
			for _, p := range h.packets(c.try) {
				source := addressOf(u, p.to.Is6())
				e := h.explain(ctx, p)
				if e.Uplink == nil || *e.Uplink != u.Name || e.Source == nil || *e.Source != source || (e.Rule == nil) != (c.rule == "") || e.Rule != nil && *e.Rule != c.rule {
					t.Errorf("%s: wanted rule %q and %s, explained as %q", p, c.rule, u.Name, e.Why)
				}
				a, failed := h.send(p)
				if failed != "" || a.from != source || a.port != p.sport {
					t.Errorf("%s: wanted by %s, arrived from %s port %d %s", p, u.Name, a.from, a.port, failed)
					continue
				}
				if c.proto != udp {
					h.crosses(p, a, inside, u)
				}
			}
		}
	})
}

// crosses asserts what NAT by an uplink does to a packet that arrived, to one of
// another client with the same ports, and to an answer.
func (h *ruleHouse) crosses(p packet, a arrival, inside *witness, u *lab.Uplink) {
	h.t.Helper()
	flows := on(h.flows(), u, map[uint8]string{sctp: "sctp", dccp: "dccp", udplite: "udplite"}[p.proto], p.to)
	if len(flows) != 1 {
		h.t.Errorf("%s: agent flows says %+v", p, flows)
		return
	}
	f := flows[0]
	tracked := f.Source.Port != nil
	if tracked && (*f.Source.Port != p.sport || f.Destination.Port == nil || *f.Destination.Port != p.dport) || !tracked && f.Destination.Port != nil {
		h.t.Errorf("%s: agent flows says %+v", p, f)
	}
	if intact := a.intact(p.destination()); intact != (tracked || p.proto == sctp) { // SCTP's covers no addresses
		h.t.Errorf("%s: tracked %v, checksum right %v", p, tracked, intact)
	}

	back := destination{p.from, p.sport, p.proto}
	inside.forget(back)
	answer := packet{ns: h.Internet, from: p.to, to: a.from, proto: p.proto, sport: p.dport, dport: a.port}
	file, err := answer.open()
	must(h.t, err)
	must(h.t, file.Close())
	h.until(time.Second, p.String()+": an answer reaches its sender", func() bool {
		b, ok := inside.find(back)
		return ok && b.from == p.to && b.port == p.dport
	})

	other := h.packets(try{address: 2, only: map[bool]int{false: 4, true: 6}[p.to.Is6()]})[0]
	other.to, other.proto, other.sport, other.dport = p.to, p.proto, p.sport, p.dport
	h.patience = map[bool]time.Duration{true: time.Second, false: 100 * time.Millisecond}[tracked]
	defer func() { h.patience = time.Second }()
	b, failed := h.send(other)
	switch {
	case !tracked && failed != lost:
		h.t.Errorf("%s: untracked, wanted lost, arrived from %s %s", other, b.from, failed)
	case tracked && (failed != "" || b.from != a.from || b.port == a.port || !b.intact(p.destination())):
		h.t.Errorf("%s: wanted another port of %s, arrived from %s port %d %s", other, a.from, b.from, b.port, failed)
	}
	if tracked {
		return
	}
	more := p
	more.dport++
	if b, failed := h.send(more); failed != "" || b.from != a.from || b.port != p.sport {
		h.t.Errorf("%s: untracked, wanted from %s as before, arrived from %s port %d %s", more, a.from, b.from, b.port, failed)
	}
}
