package agent

import (
	"net/netip"

	"multiroute/agent/api"
	"multiroute/agent/plan"
	"multiroute/routes"
)

// binds tells what becomes of answers to what comes in by an uplink: they leave
// by it, or not at all.
func (e *explainer) binds(u *plan.Uplink) error {
	e.binding = true
	q := routes.Query{To: e.request.From, Mark: u.Mark}
	way := e.wanted(q)
	answer, err := e.lookup(q)
	if err != nil {
		return err
	}
	if !way.Agrees(answer) {
		e.differs("The configuration wants answers to go otherwise than the kernel does it: wanted is %s, the kernel says %s. Somebody else's rules or routes get in the way, or the agent has not mended them yet.",
			e.wayText(way), e.answerText(answer))
	}
	if way.Kind != routes.Unicast {
		e.mute = true
		e.say("Answers go nowhere: uplink %s carries nothing now, and no other may.", u.Name)
		return nil
	}
	leg := u.Leg(e.family())
	e.out.Uplink, e.out.Interface, e.out.Table, e.out.Source = &u.Name, &u.Interface, &u.Table, &e.request.To
	e.out.Gateway = addrOrNil(leg.Nexthop.Gateway)
	e.out.Candidates = append(e.out.Candidates, api.MemberStatus{Uplink: u.Name, Weight: 1})
	e.say("Answers leave by uplink %s, from the address that was asked.", u.Name)
	return nil
}

// ownSource is the source with which the kernel looks for the way of a packet of
// the router's own that has none yet. It looks without one first, to choose it:
// over IPv4 it looks again then (ip_route_connect, net/route.h), over IPv6 only
// if it was refused (ip6_dst_lookup_tail, net/ipv6/ip6_output.c). An uplink's
// address was chosen with its uplink: looking again by it says nothing of why.
func (e *explainer) ownSource(q routes.Query) (netip.Addr, error) {
	answer, err := e.lookup(q)
	if err != nil || q.To.Is4() || answer.Kind == routes.Unicast || answer.Kind == routes.Local || e.source == nil {
		if q.To.Is6() {
			return netip.Addr{}, err
		}
		if e.uplinkWith(answer.Source) != nil {
			return netip.Addr{}, nil
		}
		return answer.Source, err
	}
	a, err := e.source(q.To)
	if err == nil && a.IsValid() {
		e.say("There is no way for it; but the kernel has it come from %s then, and looks again.", a)
	}
	return a, err
}

// routable says why nothing between two addresses is ever routed; nil: it is.
func routable(from, to netip.Addr) error {
	for _, a := range []netip.Addr{from, to} {
		switch {
		case !a.IsValid():
		case a.IsUnspecified():
			return unexplained("%s is nobody's address", a)
		case a.IsLoopback():
			return unexplained("%s never leaves a computer: it is not routed", a)
		case a.IsMulticast():
			return unexplained("%s is many, in one network: it is not routed", a)
		case a.Is6() && a.IsLinkLocalUnicast():
			return unexplained("%s is known on its own link only: it is not routed", a)
		}
	}
	return nil
}

// refusedSource reports whether the kernel takes nothing from a sender whom it
// has no way to answer (rp_filter, IPv4 only). Since Linux 6.13 it tells so as it
// tells of blackholes (inet_rtm_getroute, net/ipv4/route.c).
func refusedSource(q routes.Query, a routes.Answer) bool {
	return q.In != 0 && q.To.Is4() && (a.Kind == routes.Martian || a.Kind == routes.Blackholed)
}
