package plan

import (
	"net/netip"
	"slices"
)

// Ended returns the marks whose connections cannot go on in the new plan and
// whose entries must be deleted after it is in force: their uplink is gone,
// its address is gone, or it is unusable while another one can take over.
// With nobody to take over nothing is deleted: the uplink may come back.
func Ended(old, new Plan) []uint32 {
	other := slices.ContainsFunc(new.Uplinks, Uplink.Usable)
	var marks []uint32
	for _, o := range old.Uplinks {
		i := slices.IndexFunc(new.Uplinks, func(u Uplink) bool { return u.Name == o.Name && u.ID == o.ID })
		switch {
		case i < 0:
			marks = append(marks, o.Mark)
		case o.Usable() && !new.Uplinks[i].Usable():
			if other {
				marks = append(marks, o.Mark)
			}
		case o.Interface != new.Uplinks[i].Interface, moved(o.V4, new.Uplinks[i].V4), moved(o.V6, new.Uplinks[i].V6):
			marks = append(marks, o.Mark)
		}
	}
	return marks
}

// moved reports whether a leg that was in use has none of its addresses left.
func moved(old, new Leg) bool {
	if !old.Usable || !new.Usable {
		return false
	}
	if old.Source.IsValid() && old.Source != new.Source {
		return true
	}
	return !slices.ContainsFunc(old.Addresses, func(a netip.Addr) bool { return slices.Contains(new.Addresses, a) })
}
