package nat

import "testing"

// TestShadowWalk: clients never have a service's port on an uplink, the router
// itself does.
func TestShadowWalk(t *testing.T) {
	spec := find("services")
	for _, c := range []struct {
		name string
		own  bool
		port uint16
		v6   bool
		by   string
		udp  bool
		move bool
	}{
		{"DNS", false, 53, false, "eth2", true, true},
		{"DNS over TCP", false, 53, false, "eth2", false, true},
		{"DNS by a fixed source", false, 53, false, "eth1", true, true},
		{"DNS by a fixed source, IPv6", false, 53, true, "eth1", true, true},
		{"the last", false, 32767, false, "eth2", true, true},
		{"behind it", false, 32768, false, "eth2", true, false},
		{"WireGuard", false, 51820, true, "eth2", true, true},
		{"beside it", false, 51821, true, "eth2", true, false},
		{"the router's own", true, 53, false, "eth2", true, false},
		{"the router's own WireGuard", true, 51820, true, "eth1", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &walker{rules: Compile(spec)}
			p := packet{in: "eth0", out: c.by, src: a("192.168.0.10"), dst: a("198.51.100.1"), proto: 6, sport: c.port, conn: fresh()}
			if c.v6 {
				p.src, p.dst = a("fd00:1::10"), a("2001:db8:ffff::1")
			}
			if c.udp {
				p.proto = 17
			}
			walk := func(p *packet) bool { return w.forwarded(p, nil) }
			if c.own {
				walk = w.sent
			}
			if !walk(&p) || natText(p.conn) == "" {
				t.Fatalf("not NATed: %q", w.trace)
			}
			want := PortRange{}
			if c.move {
				want = spec.ClientPorts
			}
			if p.conn.ports != want {
				t.Errorf("source port among %v, wanted %v: %q", p.conn.ports, want, w.trace)
			}
			if fixed := c.by == "eth1"; fixed == p.conn.masq {
				t.Errorf("NATed to %s", natText(p.conn))
			}
		})
	}
}
