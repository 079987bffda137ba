package plan

import (
	"net/netip"
	"slices"

	"multiroute/routes"
)

// End is what has to be deleted of an uplink's connections.
type End struct {
	Mark   uint32
	Family routes.Family // 0: both
	// Outgoing: only those that began behind the router. What came in, and what
	// chose its address itself, cannot move.
	Outgoing bool
	// Of, with Outgoing: only connections of these policies; none: of all.
	Of PolicySet
}

// PolicySet is a set of policies, by their IDs, which are at most 255. It is
// comparable with ==.
type PolicySet [4]uint64

// Has reports whether the policy with that ID is in the set.
func (s PolicySet) Has(id int) bool { return s[id/64]&(1<<(id%64)) != 0 }

func (s PolicySet) with(id int) PolicySet {
	s[id/64] |= 1 << (id % 64)
	return s
}

// Ended returns whose connections cannot, or should not, go on in the new plan
// and must be deleted after it is in force: their uplink is gone, its address
// is gone, it is unusable while another one can take over, or it stood in for
// a better tier that is back. An uplink that is well in
// one family keeps the connections of that one.
// With nobody to take over nothing is deleted, because the uplink may come
// back; its connections end when another uplink comes back first. So do those
// of an uplink that old does not know: a predecessor may have left some.
func Ended(old, new Plan) []End {
	var ends []End
	for _, o := range old.Uplinks {
		i := slices.IndexFunc(new.Uplinks, func(u Uplink) bool { return u.Name == o.Name && u.ID == o.ID })
		switch {
		case i < 0, new.Uplinks[i].Usable() && o.Interface != new.Uplinks[i].Interface:
			ends = append(ends, End{Mark: o.Mark})
		default:
			ends = append(ends, endedLegs(old, new, o, new.Uplinks[i])...)
		}
	}
	for _, n := range new.Uplinks {
		if !slices.ContainsFunc(old.Uplinks, func(u Uplink) bool { return u.Name == n.Name && u.ID == n.ID }) {
			ends = append(ends, endedLegs(old, new, Uplink{}, n)...)
		}
	}
	for _, e := range returned(old, new) {
		if !slices.Contains(ends, e) && !slices.Contains(ends, End{Mark: e.Mark}) && !slices.Contains(ends, End{Mark: e.Mark, Family: e.Family}) {
			ends = append(ends, e)
		}
	}
	return ends
}

// heir reports whether somebody carries what an uplink would carry if it were
// well: another uplink, by a policy that the uplink is in.
func (p *Plan) heir(uplink string, f routes.Family) bool {
	return slices.ContainsFunc(p.Policies, func(o Policy) bool {
		return slices.Contains(o.Uplinks, uplink) &&
			slices.ContainsFunc(o.Choice(f).Members, func(m Member) bool { return m.Uplink != uplink })
	})
}

// returned returns whose connections move because a better tier is back: those
// of the tier that stood in for it, where the policy or the uplink says so. What
// other policies have there stays.
func returned(old, new Plan) []End {
	var ends []End
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		for _, u := range new.Uplinks {
			var back PolicySet
			others := false
			for _, p := range new.Policies {
				i := slices.IndexFunc(old.Policies, func(o Policy) bool { return o.Name == p.Name })
				switch {
				case i >= 0 && returns(old.Policies[i].Choice(f), p.Choice(f), u.Name) && (p.MoveBack || u.Metered):
					back = back.with(p.ID)
				case slices.Contains(p.Uplinks, u.Name) || p.Choice(f).has(u.Name) || i >= 0 && old.Policies[i].Choice(f).has(u.Name):
					others = true
				}
			}
			if back == (PolicySet{}) {
				continue
			}
			e := End{Mark: u.Mark, Family: f, Outgoing: true}
			if others {
				e.Of = back
			}
			ends = append(ends, e)
		}
	}
	return ends
}

// returns reports whether a policy is back on a better tier than that in which
// an uplink stood in.
func returns(before, now *Choice, uplink string) bool {
	better := now.Tier != NoTier && (before.Tier == NoTier || now.Tier < before.Tier)
	return better && before.has(uplink) && !now.has(uplink)
}

func (c *Choice) has(uplink string) bool {
	return slices.ContainsFunc(c.Members, func(m Member) bool { return m.Uplink == uplink })
}

// Serves reports whether an uplink carries new connections of some policy in of;
// none: of any.
func (p *Plan) Serves(uplink string, f routes.Family, of PolicySet) bool {
	return slices.ContainsFunc(p.Policies, func(o Policy) bool {
		return (of == PolicySet{} || of.Has(o.ID)) && o.Choice(f).has(uplink)
	})
}

// endedLegs is Ended for one uplink; o is what it was, the zero Uplink if that
// is not known.
func endedLegs(old, new Plan, o, n Uplink) []End {
	var ends []End
	others := false // in a family that does not end
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		was, is := o.Leg(f), n.Leg(f)
		lost := !is.Usable && new.heir(n.Name, f) && (was.Usable || !old.heir(n.Name, f))
		if lost || moved(*was, *is) {
			ends = append(ends, End{Mark: n.Mark, Family: f})
		} else {
			others = others || is.Usable || len(was.Addresses)+len(is.Addresses) > 0
		}
	}
	if len(ends) > 0 && !others {
		return []End{{Mark: n.Mark}}
	}
	return ends
}

// Settled returns p as old for the next Ended, once what ended since old is
// deleted: an uplink that went down while nobody could take its connections
// over keeps their addresses, so that it is seen when it returns with others.
func Settled(old, p Plan) Plan {
	p.Uplinks = slices.Clone(p.Uplinks)
	for i := range p.Uplinks {
		u := &p.Uplinks[i]
		o := slices.IndexFunc(old.Uplinks, func(o Uplink) bool { return o.Name == u.Name && o.ID == u.ID })
		if o < 0 {
			continue
		}
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			if leg := u.Leg(f); !leg.Usable && !p.heir(u.Name, f) {
				leg.Addresses, leg.Source = old.Uplinks[o].Leg(f).Addresses, old.Uplinks[o].Leg(f).Source
			}
		}
	}
	return p
}

// moved reports whether a leg lost the address that its connections have, and
// all of them with it. For IPv4 that is the first (inet_select_addr). IPv6 takes
// any, and temporary ones come and go: there all have to be lost.
//
// A leg that was usable all the time has new connections by now. There the
// kernel ends what was masqueraded as the address that has gone (masq_inet_event,
// net/netfilter/nf_nat_masquerade.c), and whoever applies the plan looks for what
// else had it.
func moved(old, new Leg) bool {
	if len(old.Addresses) == 0 || !new.Usable {
		return false
	}
	if old.Source.IsValid() && old.Source != new.Source {
		return true
	}
	if old.Usable && !old.Source.IsValid() && !new.Source.IsValid() {
		return false
	}
	if len(old.Addresses) > 0 && old.Addresses[0].Is4() {
		return !slices.Contains(new.Addresses, old.Addresses[0])
	}
	return !slices.ContainsFunc(old.Addresses, func(a netip.Addr) bool { return slices.Contains(new.Addresses, a) })
}
