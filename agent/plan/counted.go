package plan

import (
	"slices"

	"multiroute/agent/config"
)

// counted reports whether the rules have to count an uplink's bytes: some policy
// wants to know how much of it is free, and the interface's own counters do not
// tell, because it has others' traffic, too.
func (m *maker) counted(u Uplink) bool {
	return (m.shared(u.Interface) || slices.Contains(m.router.LAN, u.Interface)) &&
		slices.ContainsFunc(m.Config.Policies, func(p config.Policy) bool {
			return p.Balance == config.BalanceCapacity && slices.Contains(p.Members(m.Config.Uplinks), u.Name)
		})
}
