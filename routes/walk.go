package routes

import (
	"cmp"
	"net/netip"
	"slices"
)

// Way is what a Spec wants done with a packet.
type Way struct {
	Kind     Kind      // empty: table main decides, with its defaults
	Table    int       // where the route is; 0: there is none
	Nexthops []Nexthop // those that it may go to; none where table main decides
}

// Walk says what becomes of a packet if the kernel holds exactly s. main are the
// destinations of table main without its defaults; what those are reached by,
// and where main's defaults lead, is not known here.
func (s Spec) Walk(q Query, main []netip.Prefix) Way {
	family := FamilyOf(q.To)
	rules := slices.DeleteFunc(slices.Clone(s.Rules), func(r Rule) bool { return r.Family != family })
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	at := 0
	for _, r := range rules {
		if r.Priority < at || !r.matches(q) {
			continue
		}
		switch {
		case r.Unreachable:
			return Way{Kind: Unreachable}
		case r.Goto != 0:
			at = r.Goto
			continue
		case r.Table == TableMain:
			if slices.ContainsFunc(main, func(p netip.Prefix) bool { return p.Contains(q.To) }) {
				return Way{Kind: Unicast, Table: TableMain}
			}
			if !r.SuppressDefault {
				return Way{Table: TableMain}
			}
			continue
		}
		if way, ok := s.lookup(r.Table, q.To); ok {
			return way
		}
	}
	return Way{Table: TableMain} // the kernel's own rule
}

func (r Rule) matches(q Query) bool {
	return q.Mark&r.Mask == r.Mark && (!r.From.IsValid() || r.From.Contains(q.From)) && (!r.Forwarded || q.In != 0)
}

// lookup takes the longest prefix, and of several routes to it the one with the
// least metric.
func (s Spec) lookup(table int, to netip.Addr) (Way, bool) {
	var best *Route
	for i := range s.Routes {
		r := &s.Routes[i]
		if r.Table != table || !r.Dst.Contains(to) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(best.Dst.Bits(), r.Dst.Bits()), cmp.Compare(r.Metric, best.Metric)) < 0 {
			best = r
		}
	}
	switch {
	case best == nil:
		return Way{}, false
	case best.Unreachable:
		return Way{Kind: Unreachable, Table: table}, true
	case best.Blackhole:
		return Way{Kind: Blackholed, Table: table}, true
	}
	return Way{Kind: Unicast, Table: table, Nexthops: best.Nexthops}, true
}

// Agrees reports whether the kernel's answer is one that the way allows.
func (w Way) Agrees(a Answer) bool {
	switch {
	case w.Kind == "" && a.Kind != Unicast:
		return true
	case w.Kind != "" && a.Kind != w.Kind:
		return false
	case a.Kind != Unicast:
		return true // the kernel tells no table of what it refuses
	case a.Table != w.Table:
		return false
	}
	return w.Table == TableMain || slices.ContainsFunc(w.Nexthops, func(h Nexthop) bool { return h.Index == a.Index && h.Gateway == a.Gateway })
}
