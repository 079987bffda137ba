package plan

import (
	"slices"

	"multiroute/routes"
)

// warnings says what a person should look at although everything was done
// that could be done.
func (m *maker) warnings() {
	for _, name := range m.router.LAN {
		if m.Facts.Link(name) == nil {
			m.warn("lan interface %s does not exist (yet): correct router.lan if it never will", name)
		}
	}
	for _, f := range m.Facts.Marks {
		if f.Mask&m.router.MarkMask != 0 {
			m.warn("ip %s rule %d of another program uses mark %#x/%#x, which overlaps our mark_mask %#08x: give one of the two other bits", f.Family, f.Priority, f.Mark, f.Mask, m.router.MarkMask)
		}
	}
	for _, f := range m.families() {
		if slices.Contains(m.Facts.NoMain, f) {
			m.warn("the kernel's ip %s rule for table main is gone (\"ip rule flush\" and systemd-networkd do that): after a purge nothing leads anywhere; put it back: ip %s rule add pref 32766 lookup main", f, f)
		}
	}
	for _, r := range m.Facts.Intruders {
		m.warn("another program (protocol %d) has put a route to %s, metric %d, into our table %d, where it goes before ours: ip %s route del %s metric %d table %d proto %d",
			r.Protocol, r.Dst, r.Metric, r.Table, r.Family, r.Dst, r.Metric, r.Table, r.Protocol)
	}
	var seen []int
	for _, d := range m.Facts.Defaults {
		i := slices.IndexFunc(m.Facts.Links, func(l routes.Link) bool { return l.Index == d.Index })
		if i < 0 || slices.Contains(seen, d.Index) || slices.Contains(m.router.LAN, m.Facts.Links[i].Name) {
			continue
		}
		name := m.Facts.Links[i].Name
		if !slices.ContainsFunc(m.Uplinks, func(u Uplink) bool { return u.Interface == name }) && slices.Contains(m.families(), d.Family) {
			seen = append(seen, d.Index)
			m.warn("table main has a default route by %s, which is no uplink: it is not used; make it an uplink, or route what belongs there by prefix", name)
		}
	}
	if !slices.ContainsFunc(m.Uplinks, Uplink.Usable) {
		m.warn("no uplink is usable: everything that would leave by one is answered \"unreachable\"")
	}
}
