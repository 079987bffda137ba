//go:build linux

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// A machine without LAN, to whose own traffic the kernel gives the address of an
// uplink before any rule sees it.

// inServers runs a test on such machines.
func inServers(t *testing.T, test func(context.Context, *ruleHouse)) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			h := &ruleHouse{house: newHouse(t, topology, lab.Options{Uplinks: 3}), t: t}
			h.witness = watchInternet(t, h.Internet)
			must(t, h.Topology.Router.Sysctl("net/ipv6/auto_flowlabels", "0"))
			h.LAN = ""
			test(deadline(t, time.Minute), h)
		})
	}
}

// TestServerRules: rules about its own traffic decide, also against the address
// that a program chose; what none matches goes by that.
func TestServerRules(t *testing.T) {
	inServers(t, func(ctx context.Context, h *ruleHouse) {
		one, two, three := h.name(0), h.name(1), h.name(2)
		h.start(ctx, rig.Config(h.Topology, nil, h.first(), fmt.Sprintf(`
[policy.two]
tiers = [[%[1]q], [%[2]q]]
[[rule]]
local = true
ports = [443]
policy = "two"
[[rule]]
local = true
protocol = "icmp"
uplink = %[2]q
[[rule]]
local = true
ports = [444]
action = "bypass"
`, two, three)))
		https, ping, bypass := try{router: true, dport: 443}, try{router: true, proto: icmp}, try{router: true, dport: 444, proto: udp}
		h.goes("no rule", one, try{router: true}, try{router: true, proto: udp})
		h.goes("a policy", two, https, try{router: true, dport: 443, proto: udp})
		h.goes("one uplink", three, ping)
		for _, x := range []try{{router: true}, https} {
			want := map[uint16]string{80: three, 443: two}
			for _, p := range h.packets(x) {
				p.from = addressOf(h.Uplinks[2], p.to.Is6())
				if got := h.way(p); got != want[p.dport] {
					h.t.Errorf("%s: went %s, wanted %s", p, got, want[p.dport])
				}
			}
		}
		for x, why := range map[try]string{https: `rule "rule 1", policy two, uplink ` + two, ping: `rule "rule 2", no policy, uplink ` + three, {router: true, dport: 80}: "no rule, policy default, uplink " + one} {
			for _, p := range h.packets(x) {
				e := h.explain(ctx, p)
				if got := fmt.Sprintf("%s of %v, as %s", why, e.Candidates, addressOf(h.uplink(why), p.to.Is6())); kindOf(e) != got || len(e.Candidates) != 1 {
					h.t.Errorf("%s is explained as %s, wanted %s: %q", p, kindOf(e), got, e.Why)
				}
			}
		}
		h.refuses("main has no default", bypass)
		u := h.Uplinks[2]
		must(h.t, h.Topology.Router.AddRoute(lab.Route{Gateway: u.Gateway, Interface: u.Interface}))
		must(h.t, h.Topology.Router.AddRoute(lab.Route{Gateway: u.Gateway6, Interface: u.Interface}))
		h.goes("main leads to an uplink", three, bypass, try{router: true, dport: 444})

		must(h.t, h.setUplink("disable", two))
		h.goes("the next tier", three, https)
		must(h.t, h.setUplink("disable", three))
		h.refuses("nobody is left", https, ping)
		h.goes("no rule", one, try{router: true})
		h.unchanged()
	})
}

// uplink is the one whose name is at the end of a text.
func (h *ruleHouse) uplink(text string) *lab.Uplink {
	for _, u := range h.Uplinks {
		if strings.HasSuffix(text, " "+u.Name) {
			return u
		}
	}
	h.t.Fatalf("no uplink in %q", text)
	return nil
}

// TestServerExplain: what several uplinks may carry goes where it was said to go,
// and what nobody knows beforehand is not said.
func TestServerExplain(t *testing.T) {
	inServers(t, func(ctx context.Context, h *ruleHouse) {
		h.start(ctx, rig.Config(h.Topology, nil))
		told := 0
		for _, proto := range []uint8{0, udp, icmp} {
			for i := range 10 {
				for _, sport := range []uint16{0, 20000 + uint16(i)} {
					for _, p := range h.packets(try{router: true, proto: proto, host: byte(i + 1), sport: sport}) {
						e, went := h.explain(ctx, p), h.way(p)
						if e.Uplink != nil {
							told++
						}
						if e.Uplink != nil && *e.Uplink != went || e.Policy == nil || *e.Policy != "default" || len(e.Candidates) != 3 {
							h.t.Errorf("%s: went %s, explained as %s: %q", p, went, kindOf(e), e.Why)
						}
					}
				}
			}
		}
		if told != 20 {
			h.t.Errorf("of 20 packets whose way IPv4 knows beforehand, that of %d was told", told)
		}
	})
}
