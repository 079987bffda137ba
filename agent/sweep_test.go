package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

func TestSweep(t *testing.T) {
	t.Parallel()
	const nat = conntrack.StatusSrcNAT
	marked := func(e conntrack.Entry, mark uint32) conntrack.Entry { e.Mark = mark; return e }
	tests := []struct {
		name string
		e    conntrack.Entry
		gone bool
	}{
		{"NATed to an address that is there", entry("192.168.0.5", "9.9.9.9", "192.0.2.9", nat, markA), false},
		{"NATed to an address that has gone", entry("192.168.0.5", "9.9.9.9", "192.0.2.8", nat, markA), true},
		{"the same, to the provider's router", entry("192.168.0.5", "192.0.2.1", "192.0.2.8", nat, markA), true},
		{"the same, with foreign bits", entry("192.168.0.5", "9.9.9.9", "192.0.2.8", nat, markA|0x123), true},
		{"the same, not ours", entry("192.168.0.5", "9.9.9.9", "192.0.2.8", nat, 0x123), false},
		{"the same, of a policy", entry("192.168.0.5", "9.9.9.9", "192.0.2.8", nat, 0x03000000), false},
		{"the router's own", entry("192.0.2.9", "9.9.9.9", "", 0, markA), false},
		{"the router's own, from an address that has gone", entry("192.0.2.8", "9.9.9.9", "", 0, markA), true},
		{"came in", entry("9.9.9.9", "192.0.2.9", "", 0, markA), false},
		{"came in to an address that has gone", entry("9.9.9.9", "192.0.2.8", "", 0, markA), true},
		{"came in by a neighbour of the uplink", entry("192.0.2.77", "192.0.2.8", "", 0, markA), false}, // its end counts as inside
		{"port forward", marked(redirected("9.9.9.9", "192.0.2.9", "192.168.0.5", "9.9.9.9"), markA), false},
		{"port forward of an address that has gone", marked(redirected("9.9.9.9", "192.0.2.8", "192.168.0.5", "9.9.9.9"), markA), true},
		{"hairpin by an address that has gone", marked(redirected("192.168.0.6", "192.0.2.8", "192.168.0.5", "192.168.0.6"), markA), false},
		{"into the LAN, bound by a rule", entry("10.1.2.3", "192.168.0.5", "", 0, markA), false},
		{"redirected to the router itself", marked(redirected("192.168.0.5", "9.9.9.9", "192.168.0.1", "192.168.0.5"), markA), false},
		{"from a routed prefix", entry("203.0.113.5", "9.9.9.9", "", 0, markA), false},
		{"to a routed prefix", entry("9.9.9.9", "203.0.113.5", "", 0, markA), false},
		{"NATed to a routed address", entry("192.168.0.5", "9.9.9.9", "203.0.113.5", nat, markA), false},
		{"multicast", entry("192.168.0.5", "224.0.0.251", "", 0, markA), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := started(t, strings.Replace(twoUplinks, "[router]", "[router]\nrouted = [\"203.0.113.0/24\"]", 1))
			for _, p := range []string{"192.168.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "10.0.0.0/8"} {
				r.k.inside = append(r.k.inside, netip.MustParsePrefix(p))
			}
			r.k.entries = []conntrack.Entry{tt.e}
			if err := r.sweep(r.k, r.plan, r.k.facts, r.k.inside); err != nil {
				t.Fatal(err)
			}
			if gone := len(r.k.ended) == 1 && r.k.ended[0] == tt.e; gone != tt.gone || len(r.k.bound) > 0 {
				t.Errorf("gone %t, want %t; deleted %v", gone, tt.gone, r.k.ended)
			}
		})
	}
}

// An uplink that is down keeps everything: it may come back with its address.
func TestSweepSparesTheDown(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.k.entries = []conntrack.Entry{entry("192.168.0.5", "9.9.9.9", "192.0.2.8", conntrack.StatusSrcNAT, markA)}
	p := r.plan
	p.Uplinks = slices.Clone(p.Uplinks)
	p.Uplinks[0].V4.Usable, p.Uplinks[0].State = false, plan.Down
	if err := r.sweep(r.k, p, r.k.facts, r.k.inside); err != nil || len(r.k.ended) > 0 {
		t.Errorf("deleted %v, %v", r.k.ended, err)
	}
}

// Connections of clients with the uplink's prefix: those with the present one
// stay.
func TestSweepPrefixes(t *testing.T) {
	t.Parallel()
	const in, out = "fd00:1::5", "2606::1"
	for _, tt := range []struct {
		name string
		e    conntrack.Entry
		gone bool
	}{
		{"the present prefix", entry(in, out, "2001:db8:1::5", conntrack.StatusSrcNAT, markA), false},
		{"another prefix", entry(in, out, "2001:db8:2::5", conntrack.StatusSrcNAT, markA), true},
		{"another host's", entry(in, out, "2001:db8:1::6", conntrack.StatusSrcNAT, markA), true},
		{"of the other uplink", entry(in, out, "2001:db8:1::5", conntrack.StatusSrcNAT, markA*2), true},
		{"as it is", entry("2001:db8:1:9::5", out, "", 0, markA), false},
		{"as it is by the other uplink", entry("2001:db8:1:9::5", out, "", 0, markA*2), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := started(t, twoUplinks)
			p := r.plan
			p.Uplinks = slices.Clone(p.Uplinks)
			for i := range p.Uplinks {
				p.Uplinks[i].V6.Usable = true
			}
			for inside, outside := range map[string]string{"fd00:1::/64": "2001:db8:1::/64", "2001:db8:1:9::/64": "2001:db8:1:9::/64"} {
				p.Uplinks[0].Translations = append(p.Uplinks[0].Translations, nat.Translation{Inside: netip.MustParsePrefix(inside), Outside: netip.MustParsePrefix(outside)})
			}
			r.k.inside = []netip.Prefix{netip.MustParsePrefix("fd00:1::/64"), netip.MustParsePrefix("2001:db8:1:9::/64")}
			tt.e.Family = uint8(routes.IPv6)
			r.k.entries = []conntrack.Entry{tt.e}
			if err := r.sweep(r.k, p, r.k.facts, r.k.inside); err != nil {
				t.Fatal(err)
			}
			if gone := len(r.k.ended) == 1; gone != tt.gone {
				t.Errorf("gone %t, want %t", gone, tt.gone)
			}
			r.k.bound, r.k.ended, r.fresh = nil, nil, true
			if err := r.adopt(p); err != nil {
				t.Fatal(err)
			}
			if ended := len(r.k.ended) == 1; ended != (tt.name == "as it is by the other uplink") || len(r.k.bound) > 0 {
				t.Errorf("ended when found before the rules: %t", ended)
			}
		})
	}
}

func TestSweepFails(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3; n++ {
		r := started(t, twoUplinks)
		r.k.entries = []conntrack.Entry{entry("192.168.0.5", "9.9.9.9", "192.0.2.8", conntrack.StatusSrcNAT, markA)}
		r.swept, r.k.failAt = nil, n
		if err := r.sweepIfLost(r.plan, r.k.facts); err == nil || r.swept != nil || len(r.k.ended) > 0 {
			t.Errorf("call %d failed: error %v, deleted %v", n, err, r.k.ended)
		}
	}
}

func TestLostAddress(t *testing.T) {
	t.Parallel()
	facts := func(addrs ...string) routes.Facts {
		f := routes.Facts{Links: []routes.Link{{Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}}}
		f.Addrs = []routes.Addr{{Index: 2, Prefix: netip.MustParsePrefix("192.168.0.1/24")}}
		for _, a := range addrs {
			f.Addrs = append(f.Addrs, routes.Addr{Index: 3, Prefix: netip.MustParsePrefix(a + "/24")})
		}
		return f
	}
	up := plan.Plan{Uplinks: []plan.Uplink{{Name: "a", Interface: "eth1", V4: plan.Leg{Usable: true}}}}
	down := plan.Plan{Uplinks: []plan.Uplink{{Name: "a", Interface: "eth1"}}}
	prefixed := func(p plan.Plan, outside string) plan.Plan {
		p.Uplinks = slices.Clone(p.Uplinks)
		p.Uplinks[0].V6.Usable = p.Uplinks[0].V4.Usable
		p.Uplinks[0].Translations = []nat.Translation{{Inside: netip.MustParsePrefix("fd00:1::/64"), Outside: netip.MustParsePrefix(outside)}}
		return p
	}
	var known []ownAddress
	for _, tt := range []struct {
		name  string
		plan  plan.Plan
		facts routes.Facts
		lost  bool
	}{
		{"the first time, without any", up, facts(), true},
		{"the first one comes", up, facts("192.0.2.9"), false},
		{"nothing changes", up, facts("192.0.2.9"), false},
		{"another one comes", up, facts("192.0.2.9", "192.0.2.10"), false},
		{"another order", up, facts("192.0.2.10", "192.0.2.9"), false},
		{"one goes", up, facts("192.0.2.9"), true},
		{"one is replaced", up, facts("192.0.2.11"), true},
		{"the uplink dies with it", down, facts(), false},
		{"it returns with another", up, facts("192.0.2.12"), false},
		{"clients have a prefix", prefixed(up, "2001:db8:1::/64"), facts("192.0.2.12"), false},
		{"they have another", prefixed(up, "2001:db8:2::/64"), facts("192.0.2.12"), true},
		{"they have it still", prefixed(up, "2001:db8:2::/64"), facts("192.0.2.12"), false},
		{"the uplink dies", prefixed(down, "2001:db8:2::/64"), facts("192.0.2.12"), false},
		{"it is dead, and they have another", prefixed(down, "2001:db8:3::/64"), facts("192.0.2.12"), false},
		{"it returns, and they have another", prefixed(up, "2001:db8:3::/64"), facts("192.0.2.12"), true},
		{"they have none", up, facts("192.0.2.12"), false}, // no IPv6 either
	} {
		now, lost := lostAddress(known, tt.plan, tt.facts)
		if lost != tt.lost {
			t.Errorf("%s: lost %t, want %t", tt.name, lost, tt.lost)
		}
		known = now
	}
}
