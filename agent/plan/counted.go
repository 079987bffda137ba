package plan

import "slices"

// counted reports whether the rules have to count what an uplink carries: the
// interface's own counters do not tell, because it has others' traffic, too.
func (m *maker) counted(u Uplink) bool {
	return m.shared(u.Interface) || slices.Contains(m.router.LAN, u.Interface)
}
