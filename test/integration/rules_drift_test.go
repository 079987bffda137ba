//go:build linux

package integration

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// ofAllKinds are rules of every kind: compared one by one, looked up in a set
// and in maps of one and of several fields, the router's own, one uplink only,
// and past everything.
func (h *ruleHouse) ofAllKinds() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s[policy.second]\ntiers = [[%q], [%q]]\n", h.first(), h.name(1), h.name(0))
	targets := []string{`policy = "second"`, fmt.Sprintf("uplink = %q", h.name(2))}
	var many []string
	for i := range 60 {
		fmt.Fprintf(&b, "[[rule]]\nfrom = [\"192.168.0.%d\", \"fd00:1::%x\"]\n%s\n", 10+i, 10+i, targets[i%2])
		many = append(many, fmt.Sprintf("\"203.0.113.%d\"", 2*i))
	}
	for i := range 40 {
		fmt.Fprintf(&b, "[[rule]]\nto = [\"198.51.100.%d\", \"2001:db8:ffff::%x\"]\nports = [\"%d-%d\"]\n%s\n", 100+i, 100+i, 1000*i+1, 1000*i+500, targets[i%2])
	}
	fmt.Fprintf(&b, `[[rule]]
to = [%s]
dscp = ["ef"]
policy = "second"
[[rule]]
interfaces = [%q]
protocol = "udp"
action = "bypass"
[[rule]]
local = true
ports = [443]
uplink = %q
`, strings.Join(many, ", "), h.gained, h.name(1))
	return b.String()
}

// rightWays asserts that the rules of ofAllKinds are in force.
func (h *ruleHouse) rightWays(what string) {
	h.t.Helper()
	h.goes(what, h.name(1), try{}, try{address: 2, proto: udp}, try{router: true, dport: 443}, try{other: true, host: 102, dport: 2001})
	h.goes(what, h.name(2), try{address: 1}, try{other: true, host: 103, dport: 3500})
	h.goes(what, h.name(0), try{other: true}, try{router: true})
}

// TestRulesNoWrites: with rules of all kinds, too, neither an agent that has
// nothing to do writes anything, nor one that is started again.
func TestRulesNoWrites(t *testing.T) {
	for _, r := range ruleHouses {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel() // mostly waiting
			ctx := deadline(t, time.Minute)
			h := newRuleHouse(t, r.topology, r.options)
			h.start(ctx, h.text(h.ofAllKinds()))
			h.rightWays("at first")
			h.unchanged()
			writes := map[string]*monitor{
				"nftables": h.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
				"routing": h.listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
					unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE),
			}
			passes(ctx, 6*time.Second) // two looks at the sysctls; the reload reads the whole kernel
			if _, err := h.Reload(ctx); err != nil {
				t.Fatal(err)
			}
			for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				must(t, h.End(signal))
				must(t, h.Run(ctx))
			}
			for _, name := range slices.Sorted(maps.Keys(writes)) {
				if got := writes[name].stop(); len(got) > 0 {
					t.Errorf("%s: messages by type %v, wanted none", name, got)
				}
			}
			h.rightWays("in the end")
		})
	}
}

// TestRulesForeignEdits: what somebody takes away of the rules is put back. (Ten
// edits are mended at once, more of them at a limited rate.)
func TestRulesForeignEdits(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 3, Clients: 2, ClientAddresses: 2})
	h.start(ctx, h.text(h.ofAllKinds()))
	h.rightWays("at first")
	for _, chain := range []string{"rules", "rules-local"} {
		h.mended("a rule of chain "+chain+" deleted", "chain "+chain, func() error {
			return h.transaction(func(c *nftables.Conn) error {
				rules, err := ourRules(c, chain)
				if err != nil {
					return err
				}
				return c.DelRule(rules[len(rules)-1])
			})
		})
		h.mended("chain "+chain+" flushed", "chain "+chain, func() error {
			return h.transaction(func(c *nftables.Conn) error {
				c.FlushChain(&nftables.Chain{Name: chain, Table: ourTable})
				return nil
			})
		})
	}
	// With no rule in between, somebody can get at the elements.
	h.mended("chain rules and the elements of all its sets deleted", "chain rules", h.atOnce(func() error {
		return errors.Join(h.transaction(func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Name: "rules", Table: ourTable})
			return nil
		}), h.transaction(func(c *nftables.Conn) error {
			sets, err := c.GetSets(ourTable)
			flushed := 0
			for _, s := range sets {
				if !s.Anonymous {
					c.FlushSet(s)
					flushed++
				}
			}
			if err == nil && flushed == 0 {
				err = errors.New("there are no sets")
			}
			return err
		}))
	}))
	h.rightWays("with the elements deleted")
	s, err := h.Status(ctx)
	must(t, err)
	handle := h.Topology.Router.Handle()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		h.mended("rules of policies deleted", fmt.Sprintf("pref %d", 10500), h.atOnce(func() error {
			rules, err := handle.RuleList(family)
			for _, r := range rules {
				if r.Priority == 10500 || r.Priority == 32764 {
					r.Family = family
					err = errors.Join(err, handle.RuleDel(&r))
				}
			}
			return err
		}))
		for _, p := range s.Policies[1:] {
			h.mended("routes of policy "+p.Name+" deleted", fmt.Sprintf("table %d", 20000+p.ID), h.atOnce(func() error {
				routes, err := handle.RouteListFiltered(family, &netlink.Route{Table: 20000 + p.ID}, netlink.RT_FILTER_TABLE)
				for _, r := range routes {
					err = errors.Join(err, handle.RouteDel(&r))
				}
				return err
			}))
		}
	}
	h.rightWays("in the end")
	h.unchanged()
	h.purge()
}

// TestRuleFlush: what "ip rule flush" does, to a router with traffic. It takes
// the kernel's own rule for table main, too: that is told, and what bypasses does
// without it.
func TestRuleFlush(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 3, Clients: 2, ClientAddresses: 2})
	main := h.Uplinks[2]
	for _, r := range []lab.Route{{Gateway: main.Gateway, Interface: main.Interface}, {Gateway: main.Gateway6, Interface: main.Interface}} {
		must(t, h.Topology.Router.AddRoute(r))
	}
	h.start(ctx, h.text(h.first(), "[[rule]]\nfrom = [\"192.168.0.10\", \"fd00:1::a\"]\naction = \"bypass\"\n"))
	goes := func(what string) {
		t.Helper()
		h.goes(what, h.name(0), try{address: 1}, try{router: true}, try{other: true, proto: udp})
		h.goes(what+", bypassed", h.name(2), try{}, try{proto: udp})
	}
	goes("at first")
	h.answersReturn()
	targets := lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP))
	streams, err := lab.StartStreams(ctx, h.Client(), 30, targets, lab.StreamOptions{Interval: 20 * time.Millisecond, Timeout: 20 * time.Second})
	must(t, err)
	handle := h.Topology.Router.Handle()
	silence := netlink.NewRule()
	silence.Priority, silence.Type = 1, unix.RTN_BLACKHOLE
	for family, name := range map[int]string{unix.AF_INET: "-4", unix.AF_INET6: "-6"} {
		h.mended("ip "+name+" rule flush", "ip "+name+" rule pref", func() error {
			// It deletes rules on marks before the one for everything else. What sends
			// between the two leaves by the default policy's uplink, for which the kernel
			// ends it (nf_nat_oif_changed): nobody can prevent that.
			silence.Family = family
			must(t, h.Client().Handle().RuleAdd(silence))
			defer func() { must(t, h.Client().Handle().RuleDel(silence)) }()
			rules, err := handle.RuleList(family)
			for _, r := range rules {
				if r.Priority > 0 {
					r.Family = family
					err = errors.Join(err, handle.RuleDel(&r))
				}
			}
			return err
		})
	}
	goes("after flush")
	if r := streams.Stop(); r.Broken > 0 {
		t.Errorf("connections broke: %s", r)
	}
	s, err := h.Status(ctx)
	must(t, err)
	for _, name := range []string{"-4", "-6"} {
		if remedy := "ip " + name + " rule add pref 32766 lookup main"; !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, remedy) }) {
			t.Errorf("no %q in %q", remedy, s.Warnings)
		}
	}
	h.unchanged()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = family, 32766, unix.RT_TABLE_MAIN
		must(t, handle.RuleAdd(r))
	}
	h.until(5*time.Second, "nothing is told any more", func() bool {
		s, err := h.Status(ctx)
		return err == nil && !strings.Contains(strings.Join(s.Warnings, " "), "table main")
	})
	goes("with the kernel's rule again")
	h.unchanged()
	h.purge()
}
