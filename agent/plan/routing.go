package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/routes"
)

// The order of our policy rules, as offsets to rule_base. What a packet meets
// first wins.
const (
	// Connected, static and VPN routes of table main win over every uplink;
	// only main's default does not count. No copies of them to keep in sync.
	ruleMain = 0
	// Short cuts past the next ones, see shortcuts: at ruleJump + group.
	ruleJump = 150
	// A connection stays on its uplink: at ruleMark + group.
	ruleMark = 200
	// What a rule chose of the router's own traffic goes past what its address
	// would choose, see chosen.
	ruleChosen = 298
	// Only the router's own packets can come from an uplink's address.
	ruleSkip = 299
	// A socket bound to an uplink's address uses that uplink.
	ruleFrom = 300
	// ... and no other, also while its table is empty.
	ruleFromOnly = 301
	// Destinations that belong to one uplink: one look-up, however many.
	rulePins = 400
	// Traffic that was given to a policy.
	rulePolicy = 500
	// What bypasses goes past the default policy, to the rules for table main,
	// whether that leads anywhere or not; others' rules come first, as they would
	// without us.
	ruleBypass = 32764
	// Everything else: the default policy.
	ruleDefault = 32765
	// The kernel's own rule for table main (fib_default_rules_init,
	// net/ipv4/fib_rules.c). It has gone where somebody flushed all rules, so what
	// bypasses has one of ours behind it.
	ruleKernel = 32766
)

// routing makes rules and tables.
func (m *maker) routing() {
	for _, f := range m.families() {
		base := m.router.RuleBase
		m.rule(routes.Rule{Family: f, Priority: base + ruleMain, Table: routes.TableMain, SuppressDefault: true})
		m.shortcuts(f)
		for i := range m.Uplinks {
			m.uplink(f, &m.Uplinks[i])
		}
		m.chosen(f)
		if m.pinned(f) {
			m.rule(routes.Rule{Family: f, Priority: base + rulePins, Table: m.pins()})
		}
		for i, p := range m.Policies {
			if p.Bypass {
				m.rule(routes.Rule{Family: f, Priority: ruleBypass, Mark: p.Mark, Mask: m.router.MarkMask, Goto: ruleKernel})
				m.rule(routes.Rule{Family: f, Priority: ruleKernel, Mark: p.Mark, Mask: m.router.MarkMask, Table: routes.TableMain})
				continue
			}
			m.rule(routes.Rule{Family: f, Priority: base + rulePolicy, Mark: p.Mark, Mask: m.router.MarkMask, Table: p.Table})
			if i == 0 {
				m.rule(routes.Rule{Family: f, Priority: ruleDefault, Table: p.Table})
			}
			m.policy(f, p)
		}
	}
}

// uplink makes an uplink's rules and table. The rules do not depend on whether
// it is usable: then its death changes routes only. Nor does the table depend
// on its health: probes find out by it whether the uplink is well again, and
// what comes in by a provider that some targets cannot be reached through is
// still answered.
func (m *maker) uplink(f routes.Family, u *Uplink) {
	leg := u.Leg(f)
	m.rule(routes.Rule{Family: f, Priority: m.router.RuleBase + ruleMark + u.ID/groupSize, Mark: u.Mark, Mask: m.router.MarkMask, Table: u.Table})
	for _, a := range leg.Addresses {
		from := netip.PrefixFrom(a, a.BitLen())
		m.rule(routes.Rule{Family: f, Priority: m.router.RuleBase + ruleFrom, From: from, Table: u.Table})
		m.rule(routes.Rule{Family: f, Priority: m.router.RuleBase + ruleFromOnly, From: from, Unreachable: true})
	}
	last := routes.Route{Family: f, Table: u.Table, Dst: f.Default(), Metric: routes.MetricLast}
	switch {
	case !leg.Linked:
		// Its new connections go elsewhere; what is still bound to it (answers
		// to what comes in) must not leave by another uplink with its address.
		last.Unreachable = true
		m.route(last)
	case leg.Source.IsValid() || m.shared(u.Interface) || f == routes.IPv6 && m.Config.Uplink(u.Name).IPv6 == config.IPv6Prefix:
		// When the default goes, its connections must not fall through to
		// another uplink before they are deleted: only masquerade, and only by
		// another interface, would notice (nf_nat_oif_changed).
		last.Blackhole = true
		m.route(last)
	}
	if leg.Linked {
		route := routes.Route{Family: f, Table: u.Table, Dst: f.Default(), Nexthops: []routes.Nexthop{leg.Nexthop}}
		if f == routes.IPv6 && m.shared(u.Interface) {
			// Errors about what came in have no source of their own. IPv4 chooses
			// an address of the gateway's subnet, IPv6 any one of the interface.
			route.Source = leg.Addresses[0]
		}
		m.route(route)
	}
}

// groupSize is how many rules on marks stand behind one short cut: the kernel
// walks rules one by one, and half of 8 groups and half of 8 rules is the least
// of 64.
const groupSize = 8

// shortcuts makes rules which only spare the kernel a walk along other rules;
// without them every packet would still take the same way. Marks lead to the
// group of their uplink; what has no mark, and what was not sent by the router,
// goes past the rules that cannot match.
func (m *maker) shortcuts(f routes.Family) {
	base, mask := m.router.RuleBase, m.router.MarkMask
	if len(m.Uplinks) > 1 {
		m.rule(routes.Rule{Family: f, Priority: base + ruleSkip, Forwarded: true, Goto: m.pastAddresses(f)})
	}
	if len(m.Uplinks) <= groupSize {
		return
	}
	m.rule(routes.Rule{Family: f, Priority: base + ruleJump - 1, Mask: mask, Goto: base + ruleSkip})
	var done []int
	for _, u := range m.Uplinks {
		group := u.ID / groupSize
		if slices.Contains(done, group) {
			continue
		}
		done = append(done, group)
		m.rule(routes.Rule{Family: f, Priority: base + ruleJump + group, Mark: m.mark(group * groupSize), Mask: mask &^ m.mark(groupSize-1), Goto: base + ruleMark + group})
	}
}

// pastAddresses is where to go on behind the rules on uplinks' addresses.
func (m *maker) pastAddresses(f routes.Family) int {
	if m.anyPins(f) {
		return m.router.RuleBase + rulePins
	}
	return m.router.RuleBase + rulePolicy
}

// chosen has the rules about the router's own traffic decide where there is no
// LAN address for that: the kernel gives it the address of an uplink then, which
// looks as if its program had chosen it.
func (m *maker) chosen(f routes.Family) {
	if m.ownSource(f).IsValid() {
		return
	}
	for _, p := range m.Policies {
		// Whether in force now or not: the clock must not change routing.
		if slices.ContainsFunc(m.Config.Rules, func(r config.Rule) bool { return r.Local && policyOf(r) == p.Name }) {
			m.rule(routes.Rule{Family: f, Priority: m.router.RuleBase + ruleChosen, Mark: p.Mark, Mask: m.router.MarkMask, Goto: m.pastAddresses(f)})
		}
	}
}

// anyPins reports whether there is a rule for destinations that belong to one
// uplink.
func (m *maker) anyPins(f routes.Family) bool {
	return slices.ContainsFunc(m.Config.Uplinks, func(c config.Uplink) bool {
		return slices.ContainsFunc(belonging(c), func(p netip.Prefix) bool { return routes.FamilyOf(p.Addr()) == f })
	})
}

// belonging returns the destinations that belong to an uplink: its DNS servers,
// and what is listed.
func belonging(c config.Uplink) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range c.DNS {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(all, c.Destinations...)
}

func (m *maker) rule(r routes.Rule) { m.Routes.Rules = append(m.Routes.Rules, r) }

func (m *maker) route(r routes.Route) {
	if r.Family == routes.IPv6 && r.Metric == 0 {
		r.Metric = routes.Metric6
	}
	m.Routes.Routes = append(m.Routes.Routes, r)
}

// policy makes a policy's table: the weighted multipath default, and behind it
// an answer for when there is nobody left, so that nothing falls through to
// table main's default.
func (m *maker) policy(f routes.Family, p Policy) {
	weights := map[string]int{}
	for _, member := range p.Choice(f).Members {
		weights[member.Uplink] = member.Weight
	}
	// By id: the order of the configuration must not move anything.
	byID := slices.Clone(m.Uplinks)
	slices.SortFunc(byID, func(a, b Uplink) int { return cmp.Compare(a.ID, b.ID) })
	var hops []routes.Nexthop
	for _, u := range byID {
		if weights[u.Name] > 0 {
			hop := u.Leg(f).Nexthop
			hop.Weight = weights[u.Name]
			hops = append(hops, hop)
		}
	}
	switch len(hops) {
	case 0:
	case 1:
		hops[0].Weight = 1
	default:
		if f == routes.IPv6 {
			for i := range hops {
				hops[i] = withGateway6(hops[i])
			}
		}
	}
	if len(hops) > 0 {
		m.route(routes.Route{Family: f, Table: p.Table, Dst: f.Default(), Source: m.ownSource(f), Nexthops: hops})
	}
	m.route(routes.Route{Family: f, Table: p.Table, Dst: f.Default(), Metric: routes.MetricLast, Unreachable: true})
}

// withGateway6 names a gateway on a link that needs none: the kernel refuses
// device-only nexthops in an IPv6 multipath route, and a link without
// neighbours never asks who the gateway is.
func withGateway6(h routes.Nexthop) routes.Nexthop {
	if !h.Gateway.IsValid() {
		h.Gateway = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
	}
	return h
}

// pinned makes the table of destinations that belong to one uplink, and
// reports whether there are any. They never leave by another one: behind each
// stands "unreachable".
func (m *maker) pinned(f routes.Family) bool {
	some := false
	for i, c := range m.Config.Uplinks {
		for _, p := range belonging(c) {
			if routes.FamilyOf(p.Addr()) != f {
				continue
			}
			some = true
			if leg := m.Uplinks[i].Leg(f); leg.Usable {
				m.route(routes.Route{Family: f, Table: m.pins(), Dst: p, Source: m.ownSource(f), Nexthops: []routes.Nexthop{leg.Nexthop}})
			}
			m.route(routes.Route{Family: f, Table: m.pins(), Dst: p, Metric: routes.MetricLast, Unreachable: true})
		}
	}
	return some
}

// ownSource is the source of the router's own unbound connections: an address
// of its LAN. They are then NATed like a client's, so that each of them can be
// put on any uplink (the kernel chooses the source before the ports, and a
// source of an uplink would decide the uplink), and each stays what it is for
// the program when an uplink's address changes.
func (m *maker) ownSource(f routes.Family) netip.Addr {
	for _, name := range m.router.LAN {
		link := m.Facts.Link(name)
		if link == nil || !link.Up {
			continue
		}
		for _, a := range m.addresses(link.Index, f) {
			if !a.Secondary && !m.uplinkAddress(a.Prefix.Addr()) {
				return a.Prefix.Addr()
			}
		}
	}
	return netip.Addr{}
}

func (m *maker) uplinkAddress(a netip.Addr) bool {
	return slices.ContainsFunc(m.Uplinks, func(u Uplink) bool {
		return slices.Contains(u.V4.Addresses, a) || slices.Contains(u.V6.Addresses, a)
	})
}
