package nat

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestForwardWalk: where packets to public addresses go, by port, source and
// the way in which they come.
func TestForwardWalk(t *testing.T) {
	const inside, elsewhere = "192.168.0.77", "10.5.0.7"
	spec := changed(separate(), func(s *Spec) {
		forwardsOfAllKinds(s)
		s.LAN = append(s.LAN, "eth5")
		s.Uplinks[0].Public = append(s.Uplinks[0].Public, a("198.18.1.3"))
	})
	for _, c := range []struct {
		from, in, out string
		proto         uint8
		to            string // with port
		want          string // the server; "": nowhere
		masquerade    bool
	}{
		// ranges
		{"203.0.113.1", "eth1", "eth0", 6, "198.18.1.2:80", "192.168.0.10:8080", false},
		{"203.0.113.1", "eth2", "eth0", 6, "198.18.2.2:8000", "192.168.0.10:9000", false},
		{"203.0.113.1", "eth2", "eth0", 6, "198.18.2.2:8010", "192.168.0.10:9010", false},
		{"203.0.113.1", "eth2", "", 6, "198.18.2.2:7999", "", false},
		{"203.0.113.1", "eth2", "", 6, "198.18.2.2:8011", "", false},
		{"203.0.113.1", "eth2", "", 17, "198.18.2.2:8000", "", false},
		{"203.0.113.1", "eth2", "eth0", 17, "198.18.2.2:10000", "192.168.0.20:10000", false},
		{"203.0.113.1", "eth2", "eth0", 17, "198.18.2.2:15555", "192.168.0.20:15555", false},
		{"203.0.113.1", "eth2", "eth0", 17, "198.18.2.2:20000", "192.168.0.20:20000", false},
		{"203.0.113.1", "eth2", "eth0", 17, "198.18.2.2:65535", "192.168.0.20:7", false},
		{"203.0.113.1", "eth1", "eth0", 6, "198.18.1.2:445", "192.168.0.10:445", false},
		{"203.0.113.1", "eth2", "", 6, "198.18.2.2:445", "", false},
		// sources
		{"203.0.113.1", "eth2", "eth0", 6, "198.18.2.2:22", "192.168.0.10:22", false},
		{"198.51.100.255", "eth2", "eth0", 6, "198.18.2.2:22", "192.168.0.10:22", false},
		{"198.51.101.0", "eth2", "", 6, "198.18.2.2:22", "", false},
		{"2001:db8:9::1", "eth2", "eth0", 17, "[2001:db8:2::2]:10001", "[fd00:1::20]:10001", false},
		{"2001:db9:9::1", "eth2", "", 17, "[2001:db8:2::2]:10001", "", false},
		{"2001:db9:9::1", "eth2", "eth0", 6, "[2001:db8:2::2]:80", "[fd00:1::10]:8080", false},
		// clients: neighbours of the server, and others
		{inside, "eth0", "eth0", 6, "198.18.1.2:80", "192.168.0.10:8080", true},
		{inside, "eth0", "eth0", 6, "198.18.1.3:80", "192.168.0.10:8080", true},
		{inside, "eth0", "eth0", 17, "198.18.2.2:10007", "192.168.0.20:10007", true},
		{elsewhere, "eth5", "eth0", 6, "198.18.1.2:80", "192.168.0.10:8080", false},
		{"fd00:1::77", "eth0", "eth0", 6, "[2001:db8:1::2]:80", "[fd00:1::10]:8080", true},
		{"fd00:1::77", "eth0", "eth0", 17, "[2001:db8:1::2]:10000", "[fd00:1::20]:10000", true},
		{inside, "eth0", "eth0", 6, "198.18.1.2:443", "192.168.0.10:443", true},
		{inside, "eth0", "", 6, "198.18.2.2:443", "", false},
		{inside, "eth0", "", 6, "198.18.1.2:444", "", false},    // not for clients
		{inside, "eth0", "", 6, "198.18.1.2:22", "", false},     // not for clients
		{inside, "eth0", "", 6, "192.168.0.1:80", "", false},    // the router itself
		{inside, "eth0", "", 6, "198.18.1.2:81", "", false},     // no forward
		{"10.9.0.1", "eth9", "", 6, "198.18.1.2:80", "", false}, // no client
	} {
		t.Run(fmt.Sprint(c.from, " to ", c.to, " ", c.proto), func(t *testing.T) {
			w := &walker{rules: Compile(spec)}
			to := netip.MustParseAddrPort(c.to)
			p := packet{in: c.in, out: c.out, src: a(c.from), dst: to.Addr(), proto: c.proto, dport: to.Port(), toUs: true, conn: fresh()}
			walk := w.received
			if c.want != "" {
				walk = func(p *packet) bool { return w.forwarded(p, nil) }
			}
			passed := walk(&p)
			if !passed || dnatText(p.conn) != c.want || p.conn.masq != c.masquerade {
				t.Errorf("passed %v, to %q, masqueraded %v, wanted to %q, masqueraded %v; way: %q", passed, dnatText(p.conn), p.conn.masq, c.want, c.masquerade, w.trace)
			}
			if bound := p.conn.mark != 0; bound != (c.in == "eth1" || c.in == "eth2") {
				t.Errorf("bound to %#x", p.conn.mark)
			}
		})
	}
}

// TestForwardAround: where client, server and uplinks share an interface,
// the server sees who comes from outside.
func TestForwardAround(t *testing.T) {
	spec := find("forwards-hairpin-server")
	for _, c := range []struct {
		from, public string
		masquerade   bool
	}{
		{"192.168.0.77", "198.18.2.2", true},
		{"fd00:1::77", "2001:db8:1::2", true},
		{"203.0.113.1", "198.18.2.2", false},
		{"2001:db9::1", "2001:db8:1::2", false},
	} {
		w := &walker{rules: Compile(spec)}
		p := packet{in: "eth0", out: "eth0", src: a(c.from), dst: a(c.public), mac: [6]byte{2, 0, 0, 0, 1, 1}, proto: 6, dport: 80, toUs: true, conn: fresh()}
		if passed := w.forwarded(&p, nil); !passed || !p.conn.dnat.IsValid() || p.conn.masq != c.masquerade {
			t.Errorf("%s to %s: passed %v, to %q, masqueraded %v: %q", c.from, c.public, passed, dnatText(p.conn), p.conn.masq, w.trace)
		}
	}
}

// TestForwardBypass: clients whose traffic bypasses us use public addresses as
// others do.
func TestForwardBypass(t *testing.T) {
	spec := changed(separate(), func(s *Spec) {
		forwardsOfAllKinds(s)
		s.Policies = append(s.Policies, Policy{Name: "bypass", ID: 12, Mark: markOf(12), Bypass: true})
		s.Rules = []PolicyRule{{Interfaces: []string{"eth0"}, Policy: markOf(12)}}
	})
	w := &walker{rules: Compile(spec)}
	p := packet{in: "eth0", out: "eth0", src: a("192.168.0.77"), dst: a("198.18.1.2"), proto: 6, dport: 80, toUs: true, conn: fresh()}
	if !w.forwarded(&p, nil) || !p.conn.dnat.IsValid() || !p.conn.masq || p.mark != markOf(12) {
		t.Errorf("to %q, masqueraded %v, mark %#x: %q", dnatText(p.conn), p.conn.masq, p.mark, w.trace)
	}
}

// TestForwardMaps: ten thousand forwards are one map for each family, in which
// nothing overlaps, whoever takes a port twice.
func TestForwardMaps(t *testing.T) {
	s := many(2, 0)
	for i := range 10000 {
		s.Forwards = append(s.Forwards, PortForward{Protocol: 6, Port: uint16(1000 + i), To: netip.AddrPortFrom(a("192.168.0.10"), 80), Hairpin: true})
	}
	s.Forwards = append(s.Forwards, PortForward{Protocol: 6, Port: 1, Last: 65535, To: netip.MustParseAddrPort("192.168.0.11:1"), OneForOne: true})
	s.Uplinks[0].Public = addrs("198.18.1.2")
	r := Compile(s)
	checkSound(t, r)
	maps, entries := 0, 0
	for _, c := range r.Chains {
		for _, rule := range c.Rules {
			for _, st := range rule {
				if d, ok := st.(DNAT); ok {
					maps, entries = maps+1, entries+len(d.Entries)
				}
			}
		}
	}
	if maps != 2 || entries != 10002 { // the ranges before and behind
		t.Errorf("%d maps with %d entries", maps, entries)
	}
}

// TestForwardOverlap: the first forward of a port wins, also where ranges
// overlap in part.
func TestForwardOverlap(t *testing.T) {
	s := separate()
	to := netip.MustParseAddrPort
	s.Forwards = []PortForward{
		{Protocol: 6, Port: 100, Last: 110, To: to("192.168.0.1:100"), OneForOne: true},
		{Protocol: 6, Port: 105, Last: 115, To: to("192.168.0.2:5"), OneForOne: true},
		{Protocol: 6, Port: 90, Last: 120, To: to("192.168.0.3:1")},
		{Protocol: 17, Port: 105, To: to("192.168.0.4:1")},
	}
	r := Compile(s)
	checkSound(t, r)
	accepted(t, r)
	for port, want := range map[uint16]string{89: "", 90: "192.168.0.3:1", 99: "192.168.0.3:1", 100: "192.168.0.1:100", 110: "192.168.0.1:110",
		111: "192.168.0.2:11", 115: "192.168.0.2:15", 116: "192.168.0.3:1", 120: "192.168.0.3:1", 121: ""} {
		p := packet{in: "eth1", src: a("203.0.113.1"), dst: a("198.18.1.2"), proto: 6, dport: port, toUs: true, conn: fresh()}
		(&walker{rules: r}).received(&p)
		if got := dnatText(p.conn); got != want {
			t.Errorf("port %d leads to %q, wanted %q", port, got, want)
		}
	}
}

// TestForwardLeads: Leads says what the rules do.
func TestForwardLeads(t *testing.T) {
	s := changed(separate(), forwardsOfAllKinds)
	r := Compile(s)
	for _, from := range addrs("203.0.113.1", "198.51.101.0", "192.168.0.77", "2001:db8::1", "2001:db9::1", "fd00:1::77") {
		for _, uplink := range []int{1, 2} {
			for _, proto := range []uint8{6, 17} {
				for _, port := range []uint16{22, 80, 443, 444, 445, 446, 8000, 8005, 8010, 8011, 9999, 10000, 20000, 20001, 30000, 65535} {
					client := strings.HasPrefix(from.String(), "192") || strings.HasPrefix(from.String(), "fd00")
					p := packet{in: fmt.Sprintf("eth%d", uplink), src: from, dst: s.Uplinks[uplink-1].Public[index(from.Is6())], proto: proto, dport: port, toUs: true, conn: fresh()}
					if client {
						p.in = "eth0"
					}
					(&walker{rules: r}).received(&p)
					var leads netip.AddrPort
					for _, f := range s.Forwards {
						if to := f.target(port); to.Addr().Is6() == from.Is6() && f.Leads(proto, from, port, uplink, client, to) {
							leads = to
						}
					}
					if leads != p.conn.dnat {
						t.Errorf("%v to port %d/%d of uplink %d: leads to %v, the rules to %v", from, port, proto, uplink, leads, p.conn.dnat)
					}
				}
			}
		}
	}
}
