package plan

import (
	"slices"

	"multiroute/agent/config"
	"multiroute/routes"
)

// choose picks the tier that carries a policy's new connections in one family:
// the first with an uplink that is well; where none is, the first with one
// that is degraded.
func (m *maker) choose(p config.Policy, f routes.Family) Choice {
	for _, degraded := range []bool{false, true} {
		for tier, names := range m.tiers(p) {
			var members []Member
			for i := range m.Uplinks {
				u := &m.Uplinks[i]
				if leg := u.Leg(f); leg.Usable && (degraded || !leg.Degraded) && slices.Contains(names, u.Name) {
					members = append(members, Member{u.Name, m.weight(p, i)})
				}
			}
			if len(members) > 0 {
				return Choice{tier, members}
			}
		}
	}
	return Choice{Tier: NoTier}
}

// tiers are a policy's; without any, all uplinks are in one.
func (m *maker) tiers(p config.Policy) [][]string {
	if len(p.Tiers) > 0 {
		return p.Tiers
	}
	var all []string
	for _, u := range m.Uplinks {
		all = append(all, u.Name)
	}
	return [][]string{all}
}

// weight is the share of the i-th uplink in a policy.
func (m *maker) weight(p config.Policy, i int) int {
	if w, ok := m.Balance[p.Name][m.Uplinks[i].Name]; ok {
		return w
	}
	return p.Weight(&m.Config.Uplinks[i])
}
