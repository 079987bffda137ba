package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/routes"
)

// lostAddress reports whether one of the addresses that connections were last
// swept with (nil: never) is not the router's any more. It also returns those
// to ask with the next time.
func lostAddress(before []netip.Addr, facts routes.Facts) (now []netip.Addr, lost bool) {
	now = make([]netip.Addr, 0, len(facts.Addrs))
	for _, a := range facts.Addrs {
		now = append(now, a.Prefix.Addr())
	}
	lost = before == nil || slices.ContainsFunc(before, func(a netip.Addr) bool { return !slices.Contains(now, a) })
	return now, lost
}

// sweep deletes the connections of usable uplinks whose answers can come no
// more, because they are sent to an address that the router does not have: one
// of several of an uplink, which went without any other change, or one that
// changed while no agent was there to see it. An uplink that is down keeps its
// connections: it may return with their address.
func (d *daemon) sweep(p plan.Plan, facts routes.Facts) error {
	inside, err := d.router.MainPrefixes()
	if err != nil {
		return err
	}
	own := make(map[netip.Addr]bool, len(facts.Addrs))
	for _, a := range facts.Addrs {
		own[a.Prefix.Addr()] = true
	}
	usable := map[uint32]plan.Uplink{}
	for _, u := range p.Uplinks {
		usable[u.Mark] = u
	}
	var gone []conntrack.Entry
	err = d.tracker.Each(conntrack.Filter{}, func(e conntrack.Entry) error {
		u, ok := usable[e.Mark&p.NAT.Mask]
		if ok && u.Leg(routes.Family(e.Family)).Usable && unanswerable(e, own, inside, p.NAT.Routed) {
			gone = append(gone, e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for connections of addresses that have gone: %w", err)
	}
	n, err := d.tracker.DeleteAll(gone)
	if n > 0 {
		d.Log.Info("ending the connections of addresses that the router does not have any more", "connections", n)
	}
	return err
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
