package plan

import (
	"net/netip"
	"slices"
	"time"

	"multiroute/agent/config"
	"multiroute/nat"
)

// sticky has clients stay on their uplinks where policies say so.
func (m *maker) sticky() {
	for _, c := range policies(m.Config) {
		i := slices.IndexFunc(m.Policies, func(p Policy) bool { return p.Name == c.Name })
		if c.Sticky == config.StickyConnection || i < 0 {
			continue
		}
		p := &m.Policies[i]
		y := nat.Sticky{Policy: p.Mark, Pairs: c.Sticky == config.StickySourceDestination, Timeout: wholeSeconds(c.StickyTimeout), Uplinks: m.carriers(c),
			Members4: m.memberIDs(p.V4), Members6: m.memberIDs(p.V6)}
		if len(y.Uplinks) > 1 {
			m.NAT.Sticky = append(m.NAT.Sticky, y)
		}
	}
}

// destinations tells the rules which ones have an uplink of their own, where that
// makes a difference.
func (m *maker) destinations() {
	if len(m.NAT.Sticky) == 0 && len(m.NAT.Refused) == 0 {
		return
	}
	for _, u := range m.Config.Uplinks {
		m.NAT.Pinned = append(m.NAT.Pinned, belonging(u)...)
	}
	slices.SortFunc(m.NAT.Pinned, netip.Prefix.Compare) // the order of the configuration must not rewrite rules
	m.NAT.Pinned = slices.Compact(m.NAT.Pinned)
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// carriers are the IDs, in order, of the uplinks that may ever carry a policy.
func (m *maker) carriers(p config.Policy) []int {
	tiers := m.tiers(p)
	if p.Fallback == config.FallbackDefault {
		tiers = slices.Concat(tiers, m.tiers(policies(m.Config)[0]))
	}
	var ids []int
	for _, name := range slices.Concat(tiers...) {
		ids = append(ids, m.IDs.Uplinks[name])
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (m *maker) memberIDs(c Choice) []int {
	var ids []int
	for _, member := range c.Members {
		ids = append(ids, m.IDs.Uplinks[member.Uplink])
	}
	slices.Sort(ids)
	return ids
}

// Sticky returns how a policy's clients stay, or nil.
func (p *Plan) Sticky(policy *Policy) *nat.Sticky {
	for i := range p.NAT.Sticky {
		if y := &p.NAT.Sticky[i]; policy != nil && y.Policy == policy.Mark {
			return y
		}
	}
	return nil
}
