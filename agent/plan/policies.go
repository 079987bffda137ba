package plan

import (
	"slices"

	"multiroute/agent/config"
	"multiroute/routes"
)

// The policies that rules need without anybody having written them. No
// configuration can hold such names.
const (
	onlyPolicy   = "only." // and the name of an uplink: that one or nothing
	bypassPolicy = "main.bypass"
)

// policies lists all policies, the default one first: those that are written,
// and those that rules need.
func policies(c *config.Config) []config.Policy {
	all := slices.Clone(c.Policies)
	slices.SortStableFunc(all, func(a, b config.Policy) int {
		switch {
		case a.Name == "default":
			return -1
		case b.Name == "default":
			return 1
		}
		return 0
	})
	for _, name := range c.RuleUplinks() {
		all = append(all, config.Policy{Name: onlyPolicy + name, Tiers: [][]string{{name}}})
	}
	if c.Bypasses() {
		all = append(all, config.Policy{Name: bypassPolicy})
	}
	return all
}

// makePolicy says who carries a policy.
func (m *maker) makePolicy(c config.Policy) Policy {
	id := m.IDs.Policies[c.Name]
	p := Policy{Name: c.Name, ID: id, Mark: m.mark(id), Table: m.table(id), MoveBack: c.Failback == config.FailbackAll,
		Implied: c.Name == bypassPolicy || m.Config.Policy(c.Name) == nil && c.Name != "default"}
	if c.Name == bypassPolicy {
		p.Bypass, p.Table = true, routes.TableMain
		p.V4.Tier, p.V6.Tier = NoTier, NoTier
		return p
	}
	p.Uplinks = slices.Concat(m.tiers(c)...)
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		*p.Choice(f) = m.choose(c, f)
		if c.Fallback == config.FallbackDefault && p.Choice(f).Tier == NoTier {
			*p.Choice(f) = Choice{NoTier, m.Policies[0].Choice(f).Members}
		}
	}
	return p
}
