package nat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func a(text string) netip.Addr { return netip.MustParseAddr(text) }

func fresh() *conn { return &conn{state: stateNew, first: true} }

// known is a connection that was seen before, with these marks and status bits.
func known(mark, status uint32) *conn {
	return &conn{state: 2, status: status | statusConfirmed, mark: mark, natDone: [2]bool{true, true}}
}

func inReply(c *conn) *conn { c.reply = true; return c }

// TestWalk: what becomes of single packets.
func TestWalk(t *testing.T) {
	const foreignBits = 0x00abcdef
	internet, internet6 := a("198.51.100.1"), a("2001:db8:ffff::1")
	client, client6 := a("192.168.0.10"), a("fd00:1::10")
	forward := func(p packet) packet { return p }
	_ = forward
	for _, c := range []struct {
		name   string
		spec   Spec
		packet packet
		way    string // forwarded (default), received, sent
		// what is wanted
		drop, reset bool
		mark        uint32 // packet's, foreign bits included
		conn        uint32 // connection's
		nat         string // "masquerade", an address, or ""
		dnat        string
	}{
		// by prefix
		{name: "client, by prefix", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: client6, dst: internet6, conn: fresh()}, conn: markOf(1), nat: "2001:db8:1:ff00::10"},
		{name: "client, by prefix, other uplink", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth2", src: client6, dst: internet6, conn: fresh()}, conn: markOf(2), nat: "2001:db8:2:ff00::10"},
		{name: "client, by prefix, IPv4", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "in no prefix", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: a("fd00:2::10"), dst: internet6, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "it would get the router's own address", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: a("fd00:1::2"), dst: internet6, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "the router, by prefix", spec: prefixSpec(separate()), packet: packet{out: "eth1", src: client6, dst: internet6, conn: fresh()}, way: "sent", conn: markOf(1), nat: "masquerade"},
		{name: "by prefix, second packet", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: client6, dst: internet6, conn: known(markOf(1), statusSNAT)}, mark: markOf(1), conn: markOf(1)},
		{name: "by prefix, led elsewhere", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth2", src: client6, dst: internet6, conn: known(markOf(1), statusSNAT)}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "by prefix, answer", spec: prefixSpec(separate()), packet: packet{in: "eth1", out: "eth0", src: internet6, dst: client6, conn: inReply(known(markOf(1), statusSNAT))}, mark: markOf(1), conn: markOf(1)},
		{name: "as it is", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: a("2001:db8:1:ff01::10"), dst: internet6, conn: fresh()}, conn: markOf(1), nat: "2001:db8:1:ff01::10"},
		{name: "as it is, second packet", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth1", src: a("2001:db8:1:ff01::10"), dst: internet6, conn: known(markOf(1), 0)}, mark: markOf(1), conn: markOf(1)},
		{name: "as it is, led elsewhere", spec: prefixSpec(separate()), packet: packet{in: "eth0", out: "eth2", src: a("2001:db8:1:ff01::10"), dst: internet6, conn: known(markOf(1), 0)}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "as it is, answer", spec: prefixSpec(separate()), packet: packet{in: "eth1", out: "eth0", src: internet6, dst: a("2001:db8:1:ff01::10"), conn: inReply(known(markOf(1), 0))}, mark: markOf(1), conn: markOf(1)},
		{name: "as it is, answer to the other uplink", spec: prefixSpec(separate()), packet: packet{in: "eth1", out: "eth2", src: internet6, dst: a("2001:db8:1:ff01::10"), conn: inReply(known(markOf(1), 0))}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "as it is, answer by the other uplink", spec: prefixSpec(separate()), packet: packet{in: "eth2", out: "eth0", src: internet6, dst: a("2001:db8:1:ff01::10"), conn: inReply(known(markOf(2), 0))}, drop: true, mark: markOf(2), conn: markOf(2)},
		{name: "unasked to a prefix", spec: prefixSpec(separate()), packet: packet{in: "eth1", out: "lo", src: internet6, dst: a("2001:db8:1:ff00::10"), conn: fresh()}, drop: true},
		{name: "unasked to a client as it is", spec: prefixSpec(separate()), packet: packet{in: "eth1", out: "eth0", src: internet6, dst: a("2001:db8:1:ff01::10"), conn: fresh()}, drop: true},
		{name: "to the router, in a prefix", spec: prefixSpec(separate()), packet: packet{in: "eth1", src: internet6, dst: a("2001:db8:1:ff01::1"), toUs: true, conn: fresh()}, way: "received", mark: markOf(1), conn: markOf(1)},
		{name: "shared with clients, by prefix", spec: prefixSpec(server()), packet: packet{in: "eth0", out: "eth0", src: client6, dst: internet6, nexthop: a("fe80::2"), conn: fresh()}, conn: markOf(2), nat: "2001:db8:2:ff00::10"},
		{name: "shared with clients, unasked", spec: prefixSpec(server()), packet: packet{in: "eth0", out: "lo", src: internet6, dst: a("2001:db8:2:ff00::10"), conn: fresh()}, drop: true},
		// one NIC per uplink
		{name: "client to internet", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, nexthop: a("198.18.1.1"), mark: foreignBits, conn: &conn{state: stateNew, first: true, mark: foreignBits}},
			mark: foreignBits, conn: markOf(1) | foreignBits, nat: "masquerade"},
		{name: "client to internet, IPv6, other uplink", spec: separate(), packet: packet{in: "eth0", out: "eth2", src: client6, dst: internet6, nexthop: a("fe80::2"), conn: fresh()},
			conn: markOf(2), nat: "masquerade"},
		{name: "its second packet", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, mark: foreignBits, conn: known(markOf(1)|foreignBits, statusSNAT)},
			mark: markOf(1) | foreignBits, conn: markOf(1) | foreignBits},
		{name: "its answer", spec: separate(), packet: packet{in: "eth1", out: "eth0", src: internet, dst: client, conn: inReply(known(markOf(1), statusSNAT))},
			mark: markOf(1), conn: markOf(1)},
		{name: "client to client elsewhere", spec: separate(), packet: packet{in: "eth0", out: "eth5", src: client, dst: a("10.0.0.1"), conn: fresh()}},
		{name: "unasked from the internet", spec: separate(), packet: packet{in: "eth1", out: "eth0", src: internet, dst: client, conn: fresh()}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "unasked from one uplink to the other", spec: separate(), packet: packet{in: "eth1", out: "eth2", src: internet, dst: internet, conn: fresh()}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "a forwarded port's answer", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: inReply(known(markOf(1), statusDNAT))}, mark: markOf(1), conn: markOf(1)},
		{name: "a forwarded port's answer by another uplink", spec: separate(), packet: packet{in: "eth0", out: "eth2", src: client, dst: internet, conn: inReply(known(markOf(1), statusDNAT))}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "a forwarded port's request", spec: separate(), packet: packet{in: "eth1", out: "eth0", src: internet, dst: client, conn: known(markOf(1), statusDNAT)}, mark: markOf(1), conn: markOf(1)},
		{name: "somebody's DNAT of a client's connection", spec: separate(), packet: packet{in: "eth0", out: "eth2", src: client, dst: internet, conn: known(markOf(2), statusDNAT|statusSNAT)}, mark: markOf(2), conn: markOf(2)},
		{name: "began before the rules", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: known(0, 0)}, drop: true},
		{name: "TCP, began before the rules", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, middle: true, conn: known(0, 0)}, reset: true},
		{name: "TCP, conntrack let go of it", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, middle: true, conn: fresh()}, reset: true},
		{name: "TCP, conntrack let go of it, IPv6", spec: separate(), packet: packet{in: "eth0", out: "eth2", src: client6, dst: internet6, proto: 6, middle: true, conn: fresh()}, reset: true},
		{name: "TCP, first packet", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "TCP, its next packets", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, middle: true, conn: known(markOf(1), statusSNAT)}, mark: markOf(1), conn: markOf(1)},
		{name: "TCP to a client elsewhere, conntrack let go of it", spec: separate(), packet: packet{in: "eth0", out: "eth5", src: client, dst: a("10.0.0.1"), proto: 6, middle: true, conn: fresh()}},
		{name: "TCP, invalid", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, middle: true, conn: &conn{state: 1}}, drop: true},
		{name: "UDP, any", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 17, middle: true, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "server: TCP, conntrack let go of it", spec: server(), packet: packet{in: "eth0", out: "eth0", src: client, dst: internet, nexthop: a("192.168.0.252"), proto: 6, middle: true, conn: fresh()}, reset: true},
		{name: "server: TCP from client to client", spec: server(), packet: packet{in: "eth0", out: "eth0", src: client, dst: a("192.168.7.9"), proto: 6, middle: true, conn: fresh()}},
		{name: "routed source, TCP that conntrack let go of", spec: find("routed"), packet: packet{in: "eth0", out: "eth2", src: a("203.0.113.9"), dst: internet, proto: 6, middle: true, conn: fresh()}, conn: markOf(2)},
		{name: "invalid", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: &conn{state: 1}}, drop: true},
		{name: "untracked", spec: separate(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet}, drop: true},
		{name: "untracked inside", spec: separate(), packet: packet{in: "eth0", out: "eth5", src: client, dst: a("10.0.0.1")}},
		{name: "to the router from outside", spec: separate(), way: "received", packet: packet{in: "eth2", src: internet, dst: a("198.18.2.2"), toUs: true, conn: fresh()}, mark: markOf(2), conn: markOf(2)},
		{name: "expected by a connection of an uplink", spec: separate(), way: "received", packet: packet{in: "eth2", src: internet, dst: a("198.18.1.2"), toUs: true, conn: &conn{state: 4, first: true, mark: markOf(1)}}, mark: markOf(1), conn: markOf(1)},
		{name: "a known one, unbound, from outside", spec: separate(), way: "received", packet: packet{in: "eth2", src: internet, dst: a("198.18.2.2"), toUs: true, mark: foreignBits, conn: known(foreignBits, 0)}, mark: foreignBits, conn: foreignBits},
		{name: "the router's answer", spec: separate(), way: "sent", packet: packet{out: "eth2", src: a("198.18.2.2"), dst: internet, mark: foreignBits, conn: inReply(known(markOf(2), 0))}, mark: markOf(2) | foreignBits, conn: markOf(2)},
		{name: "the router's answer to a client by an uplink", spec: separate(), way: "sent", packet: packet{out: "eth2", src: a("192.168.0.1"), dst: client, conn: inReply(known(0, 0))}, drop: true},
		{name: "the router's own", spec: separate(), way: "sent", packet: packet{out: "eth2", src: a("192.168.0.1"), dst: internet, conn: fresh()}, conn: markOf(2), nat: "masquerade"},
		{name: "the router's own, invalid", spec: separate(), way: "sent", packet: packet{out: "eth2", src: a("192.168.0.1"), dst: internet, conn: &conn{state: 1}}, drop: true},
		{name: "the router's own to a client", spec: separate(), way: "sent", packet: packet{out: "eth0", src: a("192.168.0.1"), dst: client, conn: fresh()}},

		// three uplinks on one NIC
		{name: "by the second gateway", spec: threeOnOne(), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, nexthop: a("198.18.2.1"), conn: fresh()}, conn: markOf(2), nat: "masquerade"},
		{name: "by the third gateway, IPv6", spec: threeOnOne(), packet: packet{in: "eth0", out: "eth1", src: client6, dst: internet6, nexthop: a("fe80::3"), conn: fresh()}, conn: markOf(3), nat: "2001:db8:3::2"},
		{name: "to a neighbour on that NIC", spec: threeOnOne(), packet: packet{in: "eth0", out: "eth1", src: client, dst: a("198.18.2.77"), conn: fresh()}, nat: "masquerade"},
		{name: "in by its address", spec: threeOnOne(), way: "received", packet: packet{in: "eth1", src: internet, dst: a("198.18.3.2"), mac: [6]byte{2, 0, 0, 0, 1, 1}, toUs: true, conn: fresh()}, mark: markOf(3), conn: markOf(3)},
		{name: "in by its MAC", spec: threeOnOne(), packet: packet{in: "eth1", out: "eth0", src: internet, dst: client, mac: [6]byte{2, 0, 0, 0, 1, 2}, conn: fresh()}, drop: true, mark: markOf(2), conn: markOf(2)},
		{name: "same subnet, told apart by MAC", spec: find("same-subnet"), way: "received", packet: packet{in: "eth1", src: internet, dst: a("198.18.1.2"), mac: [6]byte{2, 0, 0, 0, 1, 2}, toUs: true, conn: fresh()}, mark: markOf(2), conn: markOf(2)},
		{name: "same subnet, out by the second gateway", spec: find("same-subnet"), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, nexthop: a("198.18.1.252"), conn: fresh()}, conn: markOf(2), nat: "masquerade"},

		// one NIC for all
		{name: "server: client to internet", spec: server(), packet: packet{in: "eth0", out: "eth0", src: client, dst: internet, nexthop: a("192.168.0.252"), conn: fresh()}, conn: markOf(2), nat: "masquerade"},
		{name: "server: client to client", spec: server(), packet: packet{in: "eth0", out: "eth0", src: client, dst: a("192.168.7.9"), conn: fresh()}},
		{name: "server: unasked", spec: server(), packet: packet{in: "eth0", out: "eth0", src: internet, dst: client, mac: [6]byte{2, 0, 0, 0, 1, 1}, conn: fresh()}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "server: the gateway itself is outside", spec: server(), packet: packet{in: "eth0", out: "eth0", src: a("192.168.0.251"), dst: client, mac: [6]byte{2, 0, 0, 0, 1, 1}, conn: fresh()}, drop: true, mark: markOf(1), conn: markOf(1)},
		{name: "server: answer to a client's connection", spec: server(), packet: packet{in: "eth0", out: "eth0", src: internet, dst: client, conn: inReply(known(markOf(2), statusSNAT))}, mark: markOf(2), conn: markOf(2)},
		{name: "server: began before the rules", spec: server(), packet: packet{in: "eth0", out: "eth0", src: client, dst: internet, nexthop: a("192.168.0.252"), conn: known(0, 0)}, drop: true},
		{name: "server: a client's request to the server", spec: server(), way: "received", packet: packet{in: "eth0", src: client, dst: a("192.168.0.1"), toUs: true, conn: fresh()}},
		{name: "server: IPv6 off, by a gateway that nobody named", spec: find("server-ipv6-off"), packet: packet{in: "eth5", out: "eth0", src: client6, dst: internet6, nexthop: a("fe80::9"), conn: fresh()}, drop: true},
		{name: "server: IPv6 off, to a client there", spec: find("server-ipv6-off"), packet: packet{in: "eth5", out: "eth0", src: a("fd00:5::1"), dst: client6, conn: fresh()}},

		{name: "server: IPv6 off, from another LAN to a client there", spec: changed(find("server-ipv6-off"), func(s *Spec) { s.LAN = []string{"eth0", "eth5"} }),
			packet: packet{in: "eth5", out: "eth0", src: a("fd00:5::1"), dst: client6, conn: fresh()}},

		// port forwards
		{name: "forward on all", spec: find("forwards"), packet: packet{in: "eth2", out: "eth0", src: internet, dst: a("198.18.2.2"), proto: 6, dport: 80, toUs: true, conn: fresh()}, mark: markOf(2), conn: markOf(2), dnat: "192.168.0.10:8080"},
		{name: "forward on one, there", spec: find("forwards"), packet: packet{in: "eth1", out: "eth0", src: internet, dst: a("198.18.1.2"), proto: 6, dport: 443, toUs: true, conn: fresh()}, mark: markOf(1), conn: markOf(1), dnat: "192.168.0.10:443"},
		{name: "forward on one, elsewhere", spec: find("forwards"), way: "received", packet: packet{in: "eth2", src: internet, dst: a("198.18.2.2"), proto: 6, dport: 443, toUs: true, conn: fresh()}, mark: markOf(2), conn: markOf(2)},
		{name: "forward, other protocol", spec: find("forwards"), way: "received", packet: packet{in: "eth1", src: internet, dst: a("198.18.1.2"), proto: 17, dport: 80, toUs: true, conn: fresh()}, mark: markOf(1), conn: markOf(1)},
		{name: "forward, IPv6", spec: find("forwards"), packet: packet{in: "eth2", out: "eth0", src: internet6, dst: a("2001:db8:2::2"), proto: 6, dport: 443, toUs: true, conn: fresh()}, mark: markOf(2), conn: markOf(2), dnat: "[fd00:1::10]:443"},
		{name: "forward only to our addresses", spec: find("forwards"), packet: packet{in: "eth2", out: "eth0", src: internet, dst: client, proto: 6, dport: 80, conn: fresh()}, drop: true, mark: markOf(2), conn: markOf(2)},
		{name: "forward not for clients", spec: find("forwards"), way: "received", packet: packet{in: "eth0", src: client, dst: a("192.168.0.1"), proto: 6, dport: 80, toUs: true, conn: fresh()}},
		{name: "its answer", spec: find("forwards"), packet: packet{in: "eth0", out: "eth2", src: client, dst: internet, conn: inReply(known(markOf(2), statusDNAT))}, mark: markOf(2), conn: markOf(2)},

		// routed
		{name: "routed source", spec: find("routed"), packet: packet{in: "eth0", out: "eth2", src: a("203.0.113.9"), dst: internet, conn: fresh()}, conn: markOf(2)},
		{name: "its later packet", spec: find("routed"), packet: packet{in: "eth0", out: "eth2", src: a("203.0.113.9"), dst: internet, conn: known(markOf(2), 0)}, mark: markOf(2), conn: markOf(2)},
		{name: "its answer", spec: find("routed"), packet: packet{in: "eth2", out: "eth0", src: internet, dst: a("203.0.113.9"), conn: inReply(known(markOf(2), 0))}, mark: markOf(2), conn: markOf(2)},
		{name: "unasked to it", spec: find("routed"), packet: packet{in: "eth2", out: "eth0", src: internet, dst: a("203.0.113.9"), conn: fresh()}, drop: true, mark: markOf(2), conn: markOf(2)},
		{name: "IPv6 by the uplink that routes", spec: find("routed"), packet: packet{in: "eth0", out: "eth1", src: a("2001:db8:77::1"), dst: internet6, conn: fresh()}, conn: markOf(1)},
		{name: "IPv6 by the one that does not", spec: find("routed"), packet: packet{in: "eth0", out: "eth2", src: a("2001:db8:77::1"), dst: internet6, conn: fresh()}, conn: markOf(2), nat: "masquerade"},
		{name: "routed, just outside", spec: find("routed"), packet: packet{in: "eth0", out: "eth2", src: a("203.0.112.255"), dst: internet, conn: fresh()}, conn: markOf(2), nat: "masquerade"},

		// the rest
		{name: "IPv6 off", spec: find("ipv6-off"), packet: packet{in: "eth0", out: "eth2", src: client6, dst: internet6, conn: fresh()}, drop: true},
		{name: "IPv6 on beside it", spec: find("ipv6-off"), packet: packet{in: "eth0", out: "eth1", src: client6, dst: internet6, conn: fresh()}, conn: markOf(1), nat: "masquerade"},
		{name: "guard off: unasked", spec: find("guard-off"), packet: packet{in: "eth1", out: "eth0", src: internet, dst: client, conn: fresh()}, mark: markOf(1), conn: markOf(1)},
		{name: "fixed source", spec: find("fixed-source"), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: fresh()}, conn: markOf(1), nat: "198.18.1.9"},
		{name: "no fixed source beside it", spec: find("fixed-source"), packet: packet{in: "eth0", out: "eth2", src: client, dst: internet, conn: fresh()}, conn: markOf(2), nat: "masquerade"},
		{name: "foreign mark looks like none of ours", spec: find("other-mask"), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, mark: 0xff00000f, conn: &conn{state: stateNew, first: true, mark: 0xff00000f}}, mark: 0xff00000f, conn: 0xff00001f, nat: "masquerade"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &walker{rules: Compile(c.spec)}
			p := c.packet
			foreign := p.mark &^ c.spec.Mask
			var passed bool
			switch c.way {
			case "received":
				passed = w.received(&p)
			case "sent":
				passed = w.sent(&p)
			default:
				passed = w.forwarded(&p, nil)
			}
			got := fmt.Sprintf("dropped %v, reset %v, mark %#x", !passed, p.reset, p.mark)
			want := fmt.Sprintf("dropped %v, reset %v, mark %#x", c.drop || c.reset, c.reset, c.mark)
			if p.conn != nil {
				got += fmt.Sprintf(", connection %#x, nat %q, dnat %q", p.conn.mark, natText(p.conn), dnatText(p.conn))
				want += fmt.Sprintf(", connection %#x, nat %q, dnat %q", c.conn, c.nat, c.dnat)
			}
			if got != want || w.err != nil {
				t.Errorf("got  %s\nwant %s\nway: %q %v", got, want, w.trace, w.err)
			}
			if p.mark&^c.spec.Mask != foreign {
				t.Errorf("foreign bits of the mark: %#x, were %#x", p.mark&^c.spec.Mask, foreign)
			}
		})
	}
}

func natText(c *conn) string {
	switch {
	case c.masq:
		return "masquerade"
	case c.snat.IsValid():
		return c.snat.String()
	}
	return ""
}

func dnatText(c *conn) string {
	if c.dnat.IsValid() {
		return c.dnat.String()
	}
	return ""
}

func find(name string) Spec {
	all := situations()
	return all[slices.IndexFunc(all, func(s situation) bool { return s.name == name })].spec
}

// randomSpec makes any spec that plan could make.
func randomSpec(r *rand.Rand) Spec {
	s := Spec{Mask: testMask, LAN: []string{"eth0", "eth9"}, Guard: r.IntN(4) > 0, Policies: []Policy{defaultPolicy}}
	if r.IntN(2) == 0 {
		s.Own = addrs("192.168.0.1", "fd00:1::1")
	}
	interfaces := []string{"eth1", "eth2", "eth3", "eth0"}
	n := 1 + r.IntN(6)
	for i := range n {
		u := up(i+1, fmt.Sprintf("u%d", i+1), interfaces[min(r.IntN(6), 3)%(1+r.IntN(4))])
		u.NoIPv6, u.Routed6 = r.IntN(5) == 0, r.IntN(4) == 0
		s.Uplinks = append(s.Uplinks, u)
	}
	shared := func(name string) bool {
		k := 0
		for _, u := range s.Uplinks {
			if u.Interface == name {
				k++
			}
		}
		return k > 1 || name == "eth0"
	}
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		if !shared(u.Interface) {
			if r.IntN(4) == 0 {
				u.Source = addrs(fmt.Sprintf("198.18.%d.9", u.ID))
			}
			continue
		}
		if r.IntN(8) > 0 { // else not known yet
			u.Gateways = addrs(fmt.Sprintf("198.18.%d.1", u.ID))
			u.MACs = [][6]byte{{2, 0, 0, 0, 1, byte(u.ID)}}
			u.Addresses = addrs(fmt.Sprintf("198.18.%d.2", u.ID))
			if r.IntN(5) == 0 {
				u.Addresses = addrs("198.18.1.2")
			}
			if !u.NoIPv6 {
				u.Gateways = append(u.Gateways, a(fmt.Sprintf("fe80::%d", u.ID)))
				u.Addresses = append(u.Addresses, a(fmt.Sprintf("2001:db8:%d::2", u.ID)))
				u.Source = addrs(fmt.Sprintf("2001:db8:%d::2", u.ID))
			}
		}
	}
	if slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return u.Interface == "eth0" }) {
		s.Networks = []Network{{"eth0", netip.MustParsePrefix("192.168.0.0/24")}, {"eth0", netip.MustParsePrefix("fd00:1::/64")}}
	}
	if r.IntN(3) == 0 {
		s.Routed = nets("203.0.113.0/24", "2001:db8:77::/48")[:1+r.IntN(2)]
	}
	if r.IntN(3) == 0 {
		forwards(&s)
		s.Forwards = s.Forwards[:1+r.IntN(len(s.Forwards))]
	}
	randomFeatures(r, &s)
	return s
}

// TestWalkRandom: whatever is configured and whatever packet comes, nothing
// leaves by an uplink with an address that is not the router's there, and no
// connection is bound to an uplink that it does not use.
func TestWalkRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	left := 0
	for i := range 3000 {
		s := randomSpec(r)
		rules := Compile(s)
		for range 30 {
			p, c := randomPacket(r, &s)
			before, was := p, *c
			w := &walker{rules: rules, holds: sometimes(uint64(i))}
			passed := w.forwarded(&p, nil)
			fail := func(what string) {
				t.Fatalf("%s\npacket %+v\nconnection %+v\nthen %+v, connection %+v\nway %q\nspec %+v\n%s", what, before, was, p, *c, w.trace, s, rules)
			}
			if w.err != nil {
				fail(w.err.Error())
			}
			if p.mark&^s.Mask != before.mark&^s.Mask || c.mark&^s.Mask != was.mark&^s.Mask {
				fail("foreign bits of a mark changed")
			}
			if !passed {
				continue
			}
			if was.mark&s.Mask != 0 && c.mark != was.mark {
				fail("a bound connection was bound anew")
			}
			past := c.mark&s.Mask == markOf(12) && !leavesBy(&s, &p) // a bypass keeps its mark where no uplink is
			if was.mark&s.Mask == 0 && c.mark&s.Mask != 0 && !past {
				i := slices.IndexFunc(s.Uplinks, func(u Uplink) bool { return u.Mark == c.mark&s.Mask })
				u := s.Uplinks[max(i, 0)]
				inside := u.Interface == p.in && !isClient(&s, before.src, p.in)
				if i < 0 || !(u.Interface == p.out && (len(u.Gateways) == 0 || slices.Contains(u.Gateways, p.nexthop))) && !inside {
					fail("bound to an uplink that it does not use")
				}
			}
			if !leavesBy(&s, &p) {
				continue
			}
			left++
			for _, u := range s.Uplinks {
				if !u.Delegated.IsValid() {
					continue
				}
				if u.Delegated.Contains(c.snat) && (c.mark&s.Mask != u.Mark || p.out != u.Interface) {
					fail("left by another uplink with the prefix of " + u.Name)
				}
				inside := slices.ContainsFunc(u.Translations, func(x Translation) bool { return x.Inside.Contains(p.src) })
				if s.Guard && inside && was.mark&s.Mask == u.Mark && was.status&statusSNAT != 0 && !was.reply && p.out != u.Interface {
					fail("a connection with the prefix of " + u.Name + " left by another uplink")
				}
			}
			translated := c.masq || c.snat.IsValid() || was.status&statusSNAT != 0 || was.status&statusDNAT != 0 && was.reply
			if translated || !s.Guard && !was.first {
				continue
			}
			routed := slices.ContainsFunc(s.Routed, func(x netip.Prefix) bool { return x.Contains(p.src) })
			by6 := slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return u.Interface == p.out && u.Routed6 })
			asItIs := slices.ContainsFunc(s.Uplinks, func(u Uplink) bool {
				return u.Interface == p.out && u.Mark == c.mark&s.Mask && u.Delegated.IsValid() && u.Delegated.Contains(p.src)
			})
			if !asItIs && (!routed || p.src.Is6() && !by6) {
				fail("left by an uplink with an address that is not the router's there")
			}
		}
	}
	t.Logf("%d packets left by an uplink", left)
}

// isClient reports whether an address is a client's on an interface that has
// clients and uplinks.
func isClient(s *Spec, from netip.Addr, iface string) bool {
	return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Interface == iface && n.Prefix.Contains(from) }) &&
		!slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return slices.Contains(u.Gateways, from) })
}

// leavesBy reports whether a packet leaves by an uplink; on an interface with
// clients, that is what goes to a gateway.
func leavesBy(s *Spec, p *packet) bool {
	return slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return u.Interface == p.out }) &&
		(p.out != "eth0" || p.nexthop.IsValid())
}

// randomPacket is a packet from a client, an uplink or elsewhere to a client
// or the internet, first or known.
func randomPacket(r *rand.Rand, s *Spec) (packet, *conn) {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	p := packet{in: pick("eth0", "eth0", "eth1", "eth2", "eth9"), out: pick("eth0", "eth1", "eth1", "eth2", "eth3"), proto: 6, middle: r.IntN(2) == 0, dport: uint16(80 + r.IntN(2)), mark: r.Uint32() &^ testMask}
	if r.IntN(2) == 0 {
		p.src, p.dst = a(pick("192.168.0.10", "203.0.113.5", "198.51.100.1", "10.9.9.9")), a(pick("198.51.100.1", "192.168.0.11", "203.0.113.6"))
	} else {
		p.src, p.dst = a(pick("fd00:1::10", "2001:db8:77::5", "2001:db8:ffff::1", "fd00:9::9", "2001:db8:1:ff01::9")), a(pick("2001:db8:ffff::1", "fd00:1::11", "2001:db8:77::6"))
	}
	// Routing: to a gateway of that interface, in the packet's family.
	var gateways []netip.Addr
	some := false
	for _, u := range s.Uplinks {
		if u.Interface != p.out {
			continue
		}
		some = true
		for _, g := range u.Gateways {
			if g.Is6() == p.dst.Is6() {
				gateways = append(gateways, g)
			}
		}
	}
	switch {
	case len(gateways) > 0 && r.IntN(5) > 0:
		p.nexthop = gateways[r.IntN(len(gateways))]
	case some && p.out != "eth0" && r.IntN(5) > 0:
		p.nexthop = a(map[bool]string{false: "198.18.99.1", true: "fe80::99"}[p.dst.Is6()])
	}
	c := fresh()
	bound := s.Uplinks[r.IntN(len(s.Uplinks))].Mark
	switch r.IntN(8) {
	case 0:
		c = known(0, 0)
	case 1:
		c = known(bound, statusSNAT)
	case 2:
		c = inReply(known(bound, statusDNAT))
	case 3:
		c = &conn{state: 1}
	case 4:
		c = known(bound, 0)
	case 5: // one-way UDP: new to conntrack, but seen before
		c = known(0, 0)
		c.state = stateNew
	}
	c.mark |= r.Uint32() &^ testMask
	p.conn = c
	return p, c
}
