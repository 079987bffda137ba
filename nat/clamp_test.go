package nat

import (
	"fmt"
	"testing"
)

// TestClampWalk: SYNs of both ends are lowered to what the uplink takes, and
// nothing else is.
func TestClampWalk(t *testing.T) {
	spec := changed(separate(), func(s *Spec) { s.Uplinks[0].MTU = 1492 })
	internet, client, internet6, client6 := a("198.51.100.1"), a("192.168.0.10"), a("2001:db8:ffff::1"), a("fd00:1::10")
	for _, c := range []struct {
		name   string
		way    string
		packet packet
		want   uint16
	}{
		{"a client's", "", packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, conn: fresh()}, 1452},
		{"the answer to it", "", packet{in: "eth1", out: "eth0", src: internet, dst: client, proto: 6, conn: inReply(known(markOf(1), statusSNAT))}, 1452},
		{"a client's, IPv6", "", packet{in: "eth0", out: "eth1", src: client6, dst: internet6, proto: 6, conn: fresh()}, 1432},
		{"by the other uplink", "", packet{in: "eth0", out: "eth2", src: client, dst: internet, proto: 6, conn: fresh()}, 0},
		{"the answer by the other uplink", "", packet{in: "eth2", out: "eth0", src: internet, dst: client, proto: 6, conn: inReply(known(markOf(2), statusSNAT))}, 0},
		{"from outside", "", packet{in: "eth1", out: "eth0", src: internet, dst: client, proto: 6, conn: known(markOf(1), statusDNAT)}, 1452},
		{"the answer to that", "", packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, conn: inReply(known(markOf(1), statusDNAT))}, 1452},
		{"the router's own", "sent", packet{out: "eth1", src: a("192.168.0.1"), dst: internet, proto: 6, conn: fresh()}, 1452},
		{"the answer to the router", "received", packet{in: "eth1", src: internet, dst: a("198.18.1.2"), toUs: true, proto: 6, conn: inReply(known(markOf(1), statusSNAT))}, 1452},
		{"to the router", "received", packet{in: "eth1", src: internet, dst: a("198.18.1.2"), toUs: true, proto: 6, conn: fresh()}, 1452},
		{"in the middle", "", packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 6, middle: true, conn: known(markOf(1), statusSNAT)}, 0},
		{"UDP", "", packet{in: "eth0", out: "eth1", src: client, dst: internet, proto: 17, conn: fresh()}, 0},
		{"between clients", "", packet{in: "eth0", out: "eth5", src: client, dst: a("10.0.0.1"), proto: 6, conn: fresh()}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &walker{rules: Compile(spec)}
			p := c.packet
			walk := map[string]func(*packet) bool{"received": w.received, "sent": w.sent}[c.way]
			if walk == nil {
				walk = func(p *packet) bool { return w.forwarded(p, nil) }
			}
			if passed := walk(&p); !passed || p.segment != c.want {
				t.Errorf("passed %v, segments lowered to %d, wanted %d: %q", passed, p.segment, c.want, w.trace)
			}
		})
	}
}

// TestNoClamp: where nothing is to be lowered no packet pays for it.
func TestNoClamp(t *testing.T) {
	for _, s := range situations() {
		wanted := false
		for _, u := range s.spec.Uplinks {
			wanted = wanted || u.MTU > 0
		}
		r := Compile(s.spec)
		if has := r.Chain("clamp") != nil || r.Chain("clamp-own") != nil; has != wanted {
			t.Errorf("%s: has %v, wanted %v", s.name, fmt.Sprint(has), wanted)
		}
	}
}
