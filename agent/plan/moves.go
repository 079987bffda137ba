package plan

import (
	"net/netip"
	"slices"
)

// Ended returns the marks whose connections cannot go on in the new plan and
// whose entries must be deleted after it is in force: their uplink is gone,
// its address is gone, or it is unusable while another one can take over.
// With nobody to take over nothing is deleted, because the uplink may come
// back; its connections end when another uplink comes back first. So do those
// of an uplink that old does not know: a predecessor may have left some.
func Ended(old, new Plan) []uint32 {
	before := slices.ContainsFunc(old.Uplinks, Uplink.Usable)
	other := slices.ContainsFunc(new.Uplinks, Uplink.Usable)
	var marks []uint32
	for _, o := range old.Uplinks {
		i := slices.IndexFunc(new.Uplinks, func(u Uplink) bool { return u.Name == o.Name && u.ID == o.ID })
		switch {
		case i < 0:
			marks = append(marks, o.Mark)
		case !new.Uplinks[i].Usable():
			if other && (o.Usable() || !before) {
				marks = append(marks, o.Mark)
			}
		case o.Interface != new.Uplinks[i].Interface, moved(o.V4, new.Uplinks[i].V4), moved(o.V6, new.Uplinks[i].V6):
			marks = append(marks, o.Mark)
		}
	}
	for _, n := range new.Uplinks {
		known := slices.ContainsFunc(old.Uplinks, func(u Uplink) bool { return u.Name == n.Name && u.ID == n.ID })
		if !known && !n.Usable() && other {
			marks = append(marks, n.Mark)
		}
	}
	return marks
}

// moved reports whether a leg that was in use lost the address that its
// connections have. For IPv4 that is the first (inet_select_addr). IPv6 takes
// any, and temporary ones come and go: there all have to be lost.
func moved(old, new Leg) bool {
	if !old.Usable || !new.Usable {
		return false
	}
	if old.Source.IsValid() && old.Source != new.Source {
		return true
	}
	if len(old.Addresses) > 0 && old.Addresses[0].Is4() {
		return !slices.Contains(new.Addresses, old.Addresses[0])
	}
	return !slices.ContainsFunc(old.Addresses, func(a netip.Addr) bool { return slices.Contains(new.Addresses, a) })
}
