package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/plan"
	"multiroute/nat"
	"multiroute/routes"
)

// Explain implements api.Handler. Only what the owner knows is asked of the
// owner; the kernel is asked on sockets of its own. The owner may write meanwhile:
// where the kernel differs, both are asked afresh.
func (h *handler) Explain(ctx context.Context, r api.ExplainRequest) (e api.Explanation, err error) {
	for range 3 {
		if e, err = h.explain(ctx, r); err != nil || e.Agrees {
			break
		}
	}
	return e, err
}

func (h *handler) explain(ctx context.Context, r api.ExplainRequest) (api.Explanation, error) {
	var e explainer
	if err := h.ask(ctx, func() { e.plan, e.rules = h.d.plan, h.d.ruleset }); err != nil {
		return api.Explanation{}, err
	}
	k, err := routes.Open()
	if err != nil {
		return api.Explanation{}, err
	}
	defer k.Close()
	if e.facts, err = k.Facts(); err != nil {
		return api.Explanation{}, err
	}
	if e.main, err = k.MainPrefixes(); err != nil {
		return api.Explanation{}, err
	}
	lookups, err := routes.OpenLookups()
	if err != nil {
		return api.Explanation{}, err
	}
	defer lookups.Close()
	e.lookup, e.source = lookups.Lookup, lookups.Source
	table, err := nat.Open()
	if err != nil {
		return api.Explanation{}, err
	}
	defer table.Close()
	e.has, e.check = table.Has, table.Check
	return e.explain(r)
}

// explainer finds out where a packet goes: by the rules and routes that are
// wanted, step by step, and by what the kernel says about each.
type explainer struct {
	plan   plan.Plan
	rules  nat.Ruleset
	facts  routes.Facts
	main   []netip.Prefix // destinations of table main
	lookup func(routes.Query) (routes.Answer, error)
	source func(to netip.Addr) (netip.Addr, error) // asks the kernel as whom the router would send; nil: as nobody
	has    func(nat.Dynamic, string) (bool, error) // asks the kernel; nil: nothing is in dynamic sets
	check  func(*nat.Walk) (string, error)         // asks the kernel how its rules differ from the compiled ones; nil: in nothing

	request api.ExplainRequest
	out     api.Explanation
	in      *routes.Link // nil: the router sends it
	walk    *nat.Walk
	packet  nat.Packet
	policy  *plan.Policy // that routing looks at; nil: none
	stays   *plan.Policy // that remembers the client, who gets its uplink's mark; nil: none
	binding bool         // it comes in by an uplink
	mute    bool         // ... which cannot carry answers
	unsure  bool         // several may get it, and the kernel does not tell which one

	sender   netip.Addr // whose hardware address is not known; invalid: it is, or there is none
	guessed  []guess    // what may match instead, with the hardware address
	choosing int        // how many sentences were said before the rules were looked at
}

func (e *explainer) explain(r api.ExplainRequest) (api.Explanation, error) {
	fresh := *e
	err := e.follow(r)
	if err == nil && len(e.guessed) > 0 {
		err = e.doubt(fresh)
	}
	return e.out, err
}

// follow explains a packet; without a hardware address, as if it were none that
// a rule asks for.
func (e *explainer) follow(r api.ExplainRequest) error {
	if err := routable(r.From, r.To); err != nil {
		return err
	}
	e.request = r
	e.out = api.Explanation{Agrees: true, Candidates: []api.MemberStatus{}, Why: []string{}}
	e.packet = nat.Packet{Source: r.From, Destination: r.To, SourcePort: r.FromPort, DestPort: r.ToPort, Protocol: r.Protocol, MAC: r.MAC, DSCP: r.DSCP, UID: r.UID,
		ToRouter: e.own(r.To)}
	var err error
	switch own := !r.From.IsValid() || e.own(r.From); {
	case own && r.Interface != "":
		err = unexplained("the router itself sends it: it comes in by no interface; leave out --interface")
	case own && r.MAC != [6]byte{}:
		err = unexplained("the router itself sends it: it has no sender's hardware address; leave out --mac")
	case !own && r.UID != 0:
		err = unexplained("only what the router itself sends has a user: leave out --uid, or write \"local\" instead of %s", r.From)
	case own:
		err = e.sent()
	default:
		err = e.received()
	}
	if err == nil && e.walk != nil {
		if err = e.walk.Err(); err == nil {
			err = e.same()
		}
	}
	return err
}

// same tells whether the kernel holds the rules by which the packet was followed,
// and their sets say the same of it.
func (e *explainer) same() error {
	if e.check == nil {
		return nil
	}
	text, err := e.check(e.walk)
	if errors.Is(err, unix.EOPNOTSUPP) {
		e.say("This kernel does not tell all that is in its sets: they may differ from the compiled rules.")
		return nil
	}
	if text != "" {
		e.differs("The configuration wants other rules than the kernel has: %s. Somebody else changed them, or the agent has not mended them yet.", text)
	}
	return err
}

// holds asks the kernel what is in a dynamic set now.
func (e *explainer) holds(set, key string) bool {
	i := slices.IndexFunc(e.rules.Dynamic, func(d nat.Dynamic) bool { return d.Name == set })
	if i < 0 || e.has == nil {
		return false
	}
	found, err := e.has(e.rules.Dynamic[i], key)
	if err != nil {
		e.differs("What is in set %s is not known: %v.", set, err)
	}
	return found
}

func (e *explainer) say(format string, args ...any) {
	e.out.Why = append(e.out.Why, fmt.Sprintf(format, args...))
}

func (e *explainer) family() routes.Family { return routes.FamilyOf(e.request.To) }

// own reports whether a is an address of the router.
func (e *explainer) own(a netip.Addr) bool {
	return slices.ContainsFunc(e.facts.Addrs, func(x routes.Addr) bool { return x.Prefix.Addr() == a })
}

// received follows a packet of a client, or from the internet.
func (e *explainer) received() error {
	if err := e.arrival(); err != nil {
		return err
	}
	e.packet.In = e.in.Name
	e.walk = e.rules.Walk(e.packet, e.holds)
	if !e.walk.Prerouting() {
		e.say("It is dropped: %s.", last(e.walk.Trace()))
		return nil
	}
	inbound := e.uplinkByMark(e.walk.ConnMark())
	if inbound != nil {
		e.say("It comes in by %s, from the internet: uplink %s.", e.in.Name, inbound.Name)
		if err := e.binds(inbound); err != nil {
			return err
		}
	} else {
		e.say("It comes in by %s, from a client.", e.in.Name)
		e.chosen()
	}
	to := e.walk.Destination()
	if before := netip.AddrPortFrom(e.packet.Destination, e.packet.DestPort); to != before {
		e.say("A port forward leads it on to %s.", to)
	}
	answer, err := e.route(routes.Query{From: e.packet.Source, To: to.Addr(), In: e.in.Index, Mark: e.walk.Mark(), Protocol: e.packet.Protocol,
		SourcePort: e.packet.SourcePort, DestPort: to.Port()})
	if err != nil || answer.Kind == routes.Local {
		return err
	}
	if answer.Kind != routes.Unicast {
		e.nowhere()
		return nil
	}
	link := e.link(answer.Index)
	if !e.walk.Forward(link, answer.Gateway) {
		e.say("The guard drops it: nobody asked for it, or it would leave without NAT (%s).", last(e.walk.Trace()))
		e.nowhere()
		return nil
	}
	if inbound == nil {
		e.leaves(answer, e.packet.Source)
	}
	return nil
}

// sent follows a packet of the router's own.
func (e *explainer) sent() error {
	e.say("The router itself sends it.")
	q := routes.Query{From: e.request.From, To: e.request.To, Protocol: e.request.Protocol, SourcePort: e.request.FromPort, DestPort: e.request.ToPort}
	first := len(e.out.Why)
	if !q.From.IsValid() {
		var err error
		if q.From, err = e.ownSource(q); err != nil {
			return err
		}
	}
	answer, err := e.route(q)
	if err != nil || answer.Kind != routes.Unicast {
		return err
	}
	if e.packet.Source = q.From; !q.From.IsValid() {
		e.packet.Source = answer.Source
	}
	e.packet.Out, e.packet.Nexthop = e.link(answer.Index), answer.Gateway
	e.walk = e.rules.Walk(e.packet, e.holds)
	// What has a mark was refused because routing has nothing for it, and is
	// about to say so.
	if !e.walk.Output() && e.walk.Mark() == 0 {
		e.say("It is dropped: %s.", last(e.walk.Trace()))
		e.nowhere()
		return nil
	}
	way := slices.Clone(e.out.Why[first:])
	e.out.Why = e.out.Why[:first]
	e.chosen()
	if e.walk.Mark() == 0 {
		e.out.Why = append(e.out.Why, way...)
	} else {
		// The kernel looks for a way again, without ports (ip_route_me_harder,
		// net/ipv4/netfilter.c; ip6_route_me_harder, net/ipv6/netfilter.c).
		q = routes.Query{From: e.packet.Source, To: e.request.To, Mark: e.walk.Mark()}
		if answer, err = e.route(q); err != nil || answer.Kind != routes.Unicast {
			return err
		}
	}
	e.leaves(answer, e.packet.Source)
	return nil
}

// arrival finds the interface by which the packet comes in, and who sent the
// frame.
func (e *explainer) arrival() error {
	r := e.request
	back, err := e.lookup(routes.Query{To: r.From})
	if err != nil {
		return err
	}
	outside, asked := e.uplinkOf(back) != nil, e.uplinkWith(r.To)
	name := r.Interface
	switch {
	case name != "":
	case back.Kind != routes.Unicast:
		return unexplained("no route leads back to %s: say by which interface it comes in (--interface)", r.From)
	case !outside:
		name = e.link(back.Index)
	case asked == nil: // it can come by any uplink that has the destination
		return unexplained("%s is in the internet and %s is no address of an uplink: say by which interface it comes in (--interface)", r.From, r.To)
	default:
		name = asked.Interface
	}
	sender := r.From
	switch {
	case back.Kind == routes.Unicast && !outside && e.link(back.Index) == name: // a neighbour, or behind one
		if back.Gateway.IsValid() {
			sender = back.Gateway
		}
	case asked != nil && asked.Interface == name:
		sender = asked.Leg(e.family()).Nexthop.Gateway
	}
	if e.in = e.facts.Link(name); e.in == nil {
		var names []string
		for _, l := range e.facts.Links {
			names = append(names, l.Name)
		}
		return unexplained("there is no interface %q: there are %s", name, strings.Join(names, ", "))
	}
	if r.MAC == [6]byte{} && !e.in.PointToPoint {
		e.sender = sender
		for _, n := range e.facts.Neighbours {
			if n.Index == e.in.Index && n.Addr == sender {
				e.packet.MAC, e.sender = n.MAC, netip.Addr{}
			}
		}
	}
	return nil
}

// chosen tells which rule and policy the rules in nftables chose, and whether
// they are what the configuration says.
func (e *explainer) chosen() {
	mark := e.walk.Mark()
	e.policy = e.policyByMark(mark)
	stuck := e.uplinkByMark(mark)
	consulted := slices.ContainsFunc(e.walk.Trace(), func(step string) bool {
		return strings.HasSuffix(step, "goto rules") || strings.HasSuffix(step, "goto rules-local")
	})
	if !consulted {
		return
	}
	rules := e.plan.NAT.Rules
	i := slices.IndexFunc(rules, func(r nat.PolicyRule) bool { return r.Matches(e.packet, e.holds) })
	if e.choosing = len(e.out.Why); e.sender.IsValid() {
		before := rules
		if i >= 0 {
			before = rules[:i]
		}
		e.guessed = e.guesses(before)
	}
	if i < 0 {
		e.say("No rule matches.")
		if stuck != nil {
			e.remembered(&e.plan.Policies[0], stuck)
		} else if e.policy != nil && e.policy.Name != "default" {
			e.differs("The compiled rules chose policy %s all the same.", e.policy.Name)
		}
		return
	}
	rule := rules[i]
	e.out.Rule = &rule.Name
	wanted := e.policyByMark(rule.Policy)
	switch {
	case wanted == nil:
		e.say("Rule %q matches; its policy does not exist.", rule.Name)
	case wanted.Bypass:
		e.say("Rule %q matches: it leaves routing alone.", rule.Name)
	case wanted.Implied:
		e.say("Rule %q matches: it wants one uplink or nothing.", rule.Name)
	default:
		e.say("Rule %q matches: policy %s.", rule.Name, wanted.Name)
	}
	if stuck != nil {
		e.remembered(wanted, stuck)
	} else if mark != rule.Policy {
		e.differs("The compiled rules gave it another mark, %#x.", mark)
	}
}

// route asks the wanted state and the kernel for the way, and tells both.
func (e *explainer) route(q routes.Query) (routes.Answer, error) {
	answer, err := e.lookup(q)
	if err != nil {
		return routes.Answer{}, err
	}
	if answer.Kind == routes.Local {
		e.say("It is for the router itself.")
		return answer, nil
	}
	way := e.wanted(q)
	inbound := e.binding
	if !inbound {
		e.candidates(way)
		e.unsure = len(e.out.Candidates) > 1 && !e.decisive(q)
	}
	if !way.Agrees(answer) && !(e.mute && refusedSource(q, answer)) {
		e.differs("The configuration wants it otherwise than the kernel does it: wanted is %s, the kernel says %s. Somebody else's rules or routes get in the way, or the agent has not mended them yet.",
			e.wayText(way), e.answerText(answer))
	}
	switch {
	case e.mute && refusedSource(q, answer):
		e.say("The kernel drops it: it has no way back to who sent it.")
	case answer.Kind == routes.Unreachable:
		if p := e.policyOf(way); p != nil && len(p.Uplinks) > 0 {
			e.say("%s leads nowhere now: none of its uplinks is usable (%s).", e.tableText(way.Table), strings.Join(p.Uplinks, ", "))
		} else if e.pins(way.Table) {
			e.say("%s leads nowhere now: this destination's uplink is not usable.", e.tableText(way.Table))
		}
		e.say("It is answered with \"unreachable\".")
	case answer.Kind == routes.Martian:
		e.say("The kernel drops it: such a source cannot come in by %s.", e.in.Name)
	case answer.Kind == routes.Blackholed:
		e.say("It is dropped.")
	case !inbound:
		e.choice(way, answer)
	}
	return answer, nil
}

// wanted is the way by the wanted routes. What a provider has delegated and
// nobody uses leads nowhere in table main.
func (e *explainer) wanted(q routes.Query) routes.Way {
	way := e.plan.Routes.Walk(q, e.main)
	var longest netip.Prefix
	for _, p := range e.main {
		if p.Contains(q.To) && p.Bits() > longest.Bits() {
			longest = p
		}
	}
	if way.Table == routes.TableMain && slices.Contains(e.facts.Delegated, longest) {
		return routes.Way{Table: routes.TableMain}
	}
	return way
}

// decisive reports whether the kernel's answer to a question is by the same hash
// as the packet's own way. Over IPv6 and with a mark on the router's own packet it
// is not: RTM_GETROUTE hashes no packet there, and what it hashes never gives the
// packet's hash, whatever it is told (rt6_multipath_custom_hash_skb hashes once
// more than rt6_multipath_custom_hash_fl6, net/ipv6/route.c), or not without a
// protocol (inet_rtm_getroute, net/ipv4/route.c). Nor is it where the network card has hashed the packet
// (fib_multipath_hash, net/ipv4/route.c), which nobody can know beforehand.
func (e *explainer) decisive(q routes.Query) bool {
	if q.To.Is6() || q.In != 0 {
		return q.To.Is4()
	}
	if !q.From.IsValid() { // the port counts, and is chosen later unless the program has done it
		return q.SourcePort != 0 && (q.Protocol == unix.IPPROTO_TCP || q.Protocol == unix.IPPROTO_UDP)
	}
	// An unconnected UDP socket has no source yet when its packet is routed.
	return q.Mark == 0 && (q.Protocol == unix.IPPROTO_TCP || q.Protocol == unix.IPPROTO_UDP && e.request.From.IsValid())
}

// candidates tells who may get it by the wanted routes.
func (e *explainer) candidates(way routes.Way) {
	e.out.Policy, e.out.Table = nil, nil
	if p := e.policyOf(way); p != nil && !p.Implied {
		e.out.Policy = &p.Name
	} else if e.stays != nil && way.Table != routes.TableMain {
		e.out.Policy = &e.stays.Name
	}
	e.out.Candidates = e.out.Candidates[:0]
	for _, hop := range way.Nexthops {
		if u := e.uplinkOf(routes.Answer{Index: hop.Index, Gateway: hop.Gateway}); u != nil {
			e.out.Candidates = append(e.out.Candidates, api.MemberStatus{Uplink: u.Name, Weight: hop.Weight})
		}
	}
}

// choice says why the kernel's answer is what it is.
func (e *explainer) choice(way routes.Way, answer routes.Answer) {
	e.out.Table = &answer.Table
	u := e.uplinkOf(answer)
	var names []string
	for _, c := range e.out.Candidates {
		names = append(names, fmt.Sprintf("%s (weight %d)", c.Uplink, c.Weight))
	}
	by := e.link(answer.Index)
	if u != nil {
		by = "uplink " + u.Name
	}
	switch {
	case way.Table == routes.TableMain && e.policy != nil && e.policy.Bypass:
		e.say("Table main leads it by %s.", by)
	case way.Table == routes.TableMain:
		e.say("Table main has a route that is no default: it goes by %s.", by)
	case e.unsure:
		e.say("%s: %s share the connections; the kernel does not tell beforehand which one this gets.", e.tableText(way.Table), strings.Join(names, " and "))
	case len(names) > 1 && e.request.FromPort == 0 && (e.request.Protocol == unix.IPPROTO_TCP || e.request.Protocol == unix.IPPROTO_UDP):
		e.say("%s: %s share the connections; addresses and ports decide: from port 0, as none is given, this one gets %s; another port (FROM:PORT) may get another.", e.tableText(way.Table), strings.Join(names, " and "), by)
	case len(names) > 1:
		e.say("%s: %s share the connections; addresses and ports decide: this one gets %s.", e.tableText(way.Table), strings.Join(names, " and "), by)
	default:
		e.say("%s leads by %s.", e.tableText(way.Table), by)
	}
}

// leaves tells how the packet leaves.
func (e *explainer) leaves(answer routes.Answer, source netip.Addr) {
	link := e.link(answer.Index)
	if !e.walk.Postrouting(link, answer.Gateway) {
		e.say("It is dropped: it would leave with another uplink's address (%s).", last(e.walk.Trace()))
		e.nowhere()
		return
	}
	if e.unsure {
		return
	}
	e.out.Interface, e.out.Gateway, e.out.Source = &link, addrOrNil(answer.Gateway), addrOrNil(source)
	if u := e.uplinkOf(answer); u != nil {
		e.out.Uplink = &u.Name
	}
	to, masquerade := e.walk.Source()
	switch {
	case masquerade:
		to = e.masquerade(answer)
		fallthrough
	case to.IsValid() && to != source:
		e.out.Source = addrOrNil(to)
		e.say("It leaves by %s with the source %s.", link, to)
	default:
		e.say("It leaves by %s with the source %s, as it is.", link, source)
	}
}

// masquerade is the address that the kernel gives what leaves so: of the
// interface's, the first in the subnet of who gets it next, else the first
// (inet_select_addr, net/ipv4/devinet.c). IPv6 prefers what has most in common
// with the destination (ipv6_dev_get_saddr, net/ipv6/addrconf.c), which is the
// uplink's own.
func (e *explainer) masquerade(answer routes.Answer) netip.Addr {
	if u := e.uplinkOf(answer); u != nil && e.family() == routes.IPv6 && len(u.V6.Addresses) > 0 {
		return u.V6.Addresses[0]
	}
	hop, first := answer.Gateway, netip.Addr{}
	if !hop.IsValid() {
		hop = e.walk.Destination().Addr()
	}
	for _, a := range e.facts.Addrs {
		if a.Index != answer.Index || !a.Global || a.Secondary || routes.FamilyOf(a.Prefix.Addr()) != e.family() {
			continue
		}
		if a.Prefix.Contains(hop) {
			return a.Prefix.Addr()
		}
		if !first.IsValid() {
			first = a.Prefix.Addr()
		}
	}
	return first
}

// nowhere takes back what was said of leaving.
func (e *explainer) nowhere() {
	e.out.Uplink, e.out.Interface, e.out.Gateway, e.out.Source, e.out.Table = nil, nil, nil, nil, nil
	e.out.Candidates = e.out.Candidates[:0]
}

func (e *explainer) differs(format string, args ...any) {
	e.out.Agrees = false
	e.say(format, args...)
}

func (e *explainer) link(index int) string {
	for _, l := range e.facts.Links {
		if l.Index == index {
			return l.Name
		}
	}
	return fmt.Sprintf("interface %d", index)
}

// uplinkOf returns the uplink that is reached so, or nil.
func (e *explainer) uplinkOf(a routes.Answer) *plan.Uplink {
	for i := range e.plan.Uplinks {
		u := &e.plan.Uplinks[i]
		for _, hop := range []routes.Nexthop{u.V4.Nexthop, u.V6.Nexthop} {
			if hop.Index != 0 && hop.Index == a.Index && (hop.Gateway == a.Gateway || !hop.Gateway.IsValid()) {
				return u
			}
		}
	}
	return nil
}

// uplinkWith returns the uplink that has the address, or nil.
func (e *explainer) uplinkWith(a netip.Addr) *plan.Uplink {
	for i := range e.plan.Uplinks {
		u := &e.plan.Uplinks[i]
		if slices.Contains(u.Leg(routes.FamilyOf(a)).Addresses, a) ||
			u.Delegated.IsValid() && u.Delegated.Contains(a) {
			return u
		}
	}
	return nil
}

func (e *explainer) uplinkByMark(mark uint32) *plan.Uplink {
	for i := range e.plan.Uplinks {
		if u := &e.plan.Uplinks[i]; mark != 0 && u.Mark == mark {
			return u
		}
	}
	return nil
}

func (e *explainer) policyByMark(mark uint32) *plan.Policy {
	for i := range e.plan.Policies {
		if p := &e.plan.Policies[i]; mark != 0 && p.Mark == mark {
			return p
		}
	}
	return nil
}

// policyOf returns the policy whose table has the way, or nil.
func (e *explainer) policyOf(way routes.Way) *plan.Policy {
	for i := range e.plan.Policies {
		if p := &e.plan.Policies[i]; way.Table != routes.TableMain && p.Table == way.Table {
			return p
		}
	}
	return nil
}

func (e *explainer) tableText(table int) string {
	for _, p := range e.plan.Policies {
		if p.Table == table && !p.Implied {
			return fmt.Sprintf("Policy %s (table %d)", p.Name, table)
		}
	}
	for _, u := range e.plan.Uplinks {
		if u.Table == table {
			return fmt.Sprintf("The table of uplink %s (%d)", u.Name, table)
		}
	}
	if e.pins(table) {
		return fmt.Sprintf("The table of destinations that belong to one uplink (%d)", table)
	}
	return fmt.Sprintf("Table %d", table)
}

// pins reports whether a table is that of destinations that belong to one uplink.
func (e *explainer) pins(table int) bool {
	return slices.ContainsFunc(e.plan.Uplinks, func(u plan.Uplink) bool { return u.Table-u.ID == table })
}

func (e *explainer) wayText(w routes.Way) string {
	var hops []string
	for _, h := range w.Nexthops {
		hops = append(hops, h.String())
	}
	return strings.TrimSpace(fmt.Sprintf("%s by table %d %s", w.Kind, w.Table, strings.Join(hops, " or ")))
}

func (e *explainer) answerText(a routes.Answer) string {
	if a.Kind != routes.Unicast {
		return string(a.Kind)
	}
	return fmt.Sprintf("%s by table %d %s", a.Kind, a.Table, routes.Nexthop{Gateway: a.Gateway, Interface: e.link(a.Index)})
}

func last(trace []string) string {
	if len(trace) == 0 {
		return "by no rule"
	}
	return trace[len(trace)-1]
}

// unexplained is an error about the question.
func unexplained(format string, args ...any) error {
	return &api.Error{Code: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}
