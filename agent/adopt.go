package agent

import (
	"net/netip"
	"slices"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// adopt deals with connections that began while our rules, or some of them, were
// not there. One that uses an uplink's address is bound to that uplink and goes
// on. One that would leave by an uplink un-NATed can never be NATed any more,
// bound or not, and is deleted; its next packet begins a new connection. It does
// so once after each time that something of our table was not there.
func (d *daemon) adopt(p plan.Plan) error {
	if !d.fresh {
		return nil
	}
	inside, err := d.router.MainPrefixes()
	if err != nil {
		return err
	}
	owners := map[netip.Addr]uint32{}
	for _, u := range p.Uplinks {
		for _, a := range slices.Concat(u.V4.Addresses, u.V6.Addresses) {
			if _, taken := owners[a]; !taken && u.State != plan.Disabled {
				owners[a] = u.Mark
			}
		}
	}
	var bind []conntrack.MarkUpdate
	var end []conntrack.Entry
	err = d.tracker.Each(conntrack.Filter{}, func(e conntrack.Entry) error {
		mark, ok := owners[e.Reply.Dst] // it went out with this source
		if !ok && !around(e, inside) {
			mark, ok = owners[e.Orig.Dst] // it came in to this address
		}
		switch {
		case ok && e.Mark&p.NAT.Mask == 0:
			bind = append(bind, conntrack.MarkUpdate{Entry: e, Mark: mark, Mask: p.NAT.Mask})
		case ok:
		case asItIs(e, p):
		case e.Reply.Dst == e.Orig.Src && leaves(e.Reply.Src, inside) && !contains(p.NAT.Routed, e.Orig.Src):
			end = append(end, e) // whoever changed its destination, nobody its source
		}
		return nil
	})
	if err != nil {
		return err
	}
	bound, err := d.tracker.SetMarks(bind)
	if err != nil {
		return err
	}
	ended, err := d.tracker.DeleteAll(end)
	d.fresh = err != nil
	if bound+ended > 0 {
		d.Log.Info("connections that began before the rules", "bound_to_their_uplink", bound, "deleted_because_not_nated", ended)
	}
	return err
}

// asItIs reports whether a connection is bound to an uplink whose own prefix its
// client has, so that it leaves un-NATed.
func asItIs(e conntrack.Entry, p plan.Plan) bool {
	i := slices.IndexFunc(p.Uplinks, func(u plan.Uplink) bool { return u.Mark == e.Mark&p.NAT.Mask })
	return i >= 0 && e.Reply.Dst == e.Orig.Src && translated(e, p.Uplinks[i])
}

// settledBy is what a predecessor's rules in the kernel tell of its plan: whose
// connections there may be, by which interface and with which addresses. The
// rules on addresses do not say which of several IPv4 addresses was the first,
// so then it tells none.
func settledBy(state nat.State, have routes.Spec, mask uint32) plan.Plan {
	var p plan.Plan
	p.NAT.Mask = mask
	for _, n := range state.Uplinks() {
		if n.Interface == "" {
			continue
		}
		u := plan.Uplink{Name: n.Name, ID: n.ID, Mark: uint32(n.ID) * (mask & -mask), Interface: n.Interface}
		for _, r := range have.Rules {
			if r.Mask != mask || r.Mark != u.Mark || r.Goto != 0 {
				continue
			}
			u.Table = r.Table
			leg := &u.V4
			if r.Family == routes.IPv6 {
				leg = &u.V6
			}
			for _, from := range have.Rules {
				if from.Family == r.Family && from.Table == r.Table && from.From.IsValid() {
					leg.Addresses = append(leg.Addresses, from.From.Addr())
				}
			}
		}
		p.NAT.Uplinks = append(p.NAT.Uplinks, nat.Uplink{Name: u.Name, ID: u.ID, Mark: u.Mark, Public: slices.Concat(u.V4.Addresses, u.V6.Addresses)})
		if len(u.V4.Addresses) > 1 {
			u.V4.Addresses = nil
		}
		p.Uplinks = append(p.Uplinks, u)
	}
	return p
}

// leaves reports whether an address is reached by an uplink: it is in none of
// table main's own prefixes and is not for this host or link alone.
func leaves(a netip.Addr, inside []netip.Prefix) bool {
	return a.IsGlobalUnicast() && !contains(inside, a)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
