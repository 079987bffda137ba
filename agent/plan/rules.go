package plan

import (
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/domains"
	"multiroute/nat"
	"multiroute/routes"
)

// rules turns the rules that are in force now into marks.
func (m *maker) rules() {
	marks := map[string]uint32{}
	for _, p := range m.Policies {
		marks[p.Name] = p.Mark
	}
	for _, r := range m.Config.Rules {
		if !r.ActiveAt(m.Now) {
			continue
		}
		n := nat.PolicyRule{Name: r.Name, From: r.From, To: r.To, Interfaces: r.Interfaces, MACs: r.MACs, Protocols: r.Protocols,
			Ports: natPorts(r.Ports), SourcePorts: natPorts(r.SourcePorts), DSCP: r.DSCP, Local: r.Local, UIDs: r.UIDs}
		if len(r.Domains) > 0 {
			n.ToLists = domains.NewList(r.Domains).Sets()
		}
		n.Policy = marks[policyOf(r)]
		m.NAT.Rules = append(m.NAT.Rules, n)
	}
	for _, p := range m.Policies {
		local := slices.ContainsFunc(m.NAT.Rules, func(r nat.PolicyRule) bool { return r.Local && r.Policy == p.Mark })
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			if local && !p.Bypass && len(p.Choice(f).Members) == 0 {
				m.NAT.Refused = append(m.NAT.Refused, nat.Refusal{Policy: p.Mark, IPv6: f == routes.IPv6})
			}
		}
	}
}

// policyOf is the name of the policy that a rule sends to.
func policyOf(r config.Rule) string {
	switch {
	case r.Bypass:
		return bypassPolicy
	case r.Uplink != "":
		return onlyPolicy + r.Uplink
	}
	return r.Policy
}

func natPorts(ranges []config.PortRange) []nat.PortRange {
	var all []nat.PortRange
	for _, r := range ranges {
		all = append(all, nat.PortRange(r))
	}
	return all
}
