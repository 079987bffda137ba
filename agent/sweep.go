package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// ownAddress is an address of the router's on the interface of a usable uplink,
// or a prefix that its clients have there.
type ownAddress struct {
	uplink  string
	family  routes.Family
	addr    netip.Prefix
	clients bool
}

// lostAddress reports whether a usable uplink has lost one of the addresses
// that connections were last swept with (nil: never). It also returns those to
// ask with the next time. What an uplink loses when it goes down does not
// count: its connections end by their mark, and looking through all of them
// would hold that up. Only clients' prefixes are kept in mind until it returns,
// as it may have kept its connections.
func lostAddress(before []ownAddress, p plan.Plan, facts routes.Facts) (now []ownAddress, lost bool) {
	now = []ownAddress{}
	usable := func(o ownAddress) bool {
		return slices.ContainsFunc(p.Uplinks, func(u plan.Uplink) bool { return u.Name == o.uplink && u.Leg(o.family).Usable })
	}
	for i := range p.Uplinks {
		link := facts.Link(p.Uplinks[i].Interface)
		for _, a := range facts.Addrs {
			own := netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen())
			o := ownAddress{p.Uplinks[i].Name, routes.FamilyOf(own.Addr()), own, false}
			if link != nil && a.Index == link.Index && usable(o) {
				now = append(now, o)
			}
		}
		for _, t := range p.Uplinks[i].Translations {
			if o := (ownAddress{p.Uplinks[i].Name, routes.IPv6, t.Outside, true}); usable(o) {
				now = append(now, o)
			}
		}
	}
	for _, o := range before {
		if o.clients && !usable(o) {
			now = append(now, o)
		}
	}
	return now, before == nil || slices.ContainsFunc(before, func(o ownAddress) bool { return usable(o) && !slices.Contains(now, o) })
}

// sweepIfLost sweeps at the start, and when a usable uplink has lost an address.
func (d *daemon) sweepIfLost(p plan.Plan, facts routes.Facts) error {
	now, lost := lostAddress(d.swept, p, facts)
	swept := func() { d.swept = now }
	switch {
	case !lost:
		swept()
		return nil
	case d.busy():
		return nil // the pass after that one does it
	}
	inside, err := d.router.MainPrefixes()
	if err != nil {
		return err
	}
	return d.later(false, p, nil, func(t tracker) error { return d.sweep(t, p, facts, inside) }, swept)
}

// sweep deletes the connections of usable uplinks whose answers can come no
// more, because they are sent to an address that the router does not have: one
// of several of an uplink, which went without any other change, or one that
// changed while no agent was there to see it. An uplink that is down keeps its
// connections: it may return with their address.
func (d *daemon) sweep(t tracker, p plan.Plan, facts routes.Facts, inside []netip.Prefix) error {
	own := make(map[netip.Addr]bool, len(facts.Addrs))
	for _, a := range facts.Addrs {
		own[a.Prefix.Addr()] = true
	}
	usable := map[uint32]plan.Uplink{}
	for _, u := range p.Uplinks {
		usable[u.Mark] = u
	}
	var gone []conntrack.Entry
	err := t.Each(conntrack.Filter{}, func(e conntrack.Entry) error {
		u, ok := usable[e.Mark&p.NAT.Mask]
		if ok && u.Leg(routes.Family(e.Family)).Usable && !translated(e, u) && unanswerable(e, own, inside, p.NAT.Routed) {
			gone = append(gone, e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for connections of addresses that have gone: %w", err)
	}
	n, err := t.DeleteAll(gone)
	if n > 0 {
		d.Log.Info("ending the connections of addresses that the router does not have any more", "connections", n)
	}
	return err
}

// translated reports whether a connection has the address that the uplink gives
// its client now.
func translated(e conntrack.Entry, u plan.Uplink) bool {
	return slices.ContainsFunc(u.Translations, func(t nat.Translation) bool {
		return t.Inside.Contains(e.Orig.Src) && nat.SNATPrefix{To: t.Outside}.Translate(e.Orig.Src) == e.Reply.Dst
	})
}

// unanswerable reports whether one end of a connection with an uplink's mark
// was the router, by an address that is none of own any more: the source that
// it went out with, or the destination that it came in to. What has both ends
// inside, or in a routed prefix, needs no address of the router's.
func unanswerable(e conntrack.Entry, own map[netip.Addr]bool, inside, routed []netip.Prefix) bool {
	if own[e.Reply.Dst] || own[e.Orig.Dst] {
		return false
	}
	for _, a := range []netip.Addr{e.Orig.Src, e.Orig.Dst, e.Reply.Dst} {
		if contains(routed, a) {
			return false
		}
	}
	return e.Status&conntrack.StatusSrcNAT != 0 || leaves(e.Reply.Src, inside) || leaves(e.Orig.Src, inside)
}
