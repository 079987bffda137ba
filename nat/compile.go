package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Compile turns a Spec into rules. It is pure: equal specs give equal rulesets.
func Compile(s Spec) Ruleset { return compile(s, policyRules) }

// compile is Compile with a way to compile PolicyRules.
func compile(s Spec, policyRules func([]PolicyRule, []Policy) chosen) Ruleset {
	c := compiler{Spec: s, byInterface: map[string][]Uplink{}, clients: Verdict{Kind: Return}}
	for _, u := range s.Uplinks {
		if len(c.byInterface[u.Interface]) == 0 {
			c.interfaces = append(c.interfaces, u.Interface)
		}
		c.byInterface[u.Interface] = append(c.byInterface[u.Interface], u)
	}
	for _, list := range s.Lists {
		c.rules.Dynamic = append(c.rules.Dynamic, listSet(list, false), listSet(list, true))
	}
	if len(s.Rules) > 0 {
		c.chosen = policyRules(s.Rules, s.Policies)
		c.rules.Sets = slices.Clip(c.chosen.sets)
		c.rules.Chains = append(c.rules.Chains, c.chosen.chains...)
	}
	if chains := behindLast(c.chosen.clients, rulesChain, c.otherwise()); len(chains[0].Rules) > 0 {
		c.rules.Chains = append(c.rules.Chains, chains...)
		c.clients = Verdict{Goto, rulesChain}
	}
	c.restore()
	c.portForwards()
	c.own()
	if s.Guard {
		c.guard()
	}
	c.bind()
	c.clamp()
	for _, u := range s.Uplinks {
		c.chain(Chain{Name: u.chain(markChain), Rules: c.marking(u)})
		c.chain(Chain{Name: u.chain(bindChain), Rules: []Rule{{SetMark{Conn: true, Mask: s.Mask, Value: u.Mark}, SetMark{Mask: s.Mask, Value: u.Mark}}}})
		c.chain(Chain{Name: u.chain(leaveChain), Rules: c.leave(u)})
	}
	for _, p := range s.Policies {
		c.chain(Chain{Name: p.chain(), Rules: append(c.recall(p), Rule{SetMark{Mask: s.Mask, Value: p.Mark}})})
		if slices.ContainsFunc(s.Rules, func(r PolicyRule) bool { return r.Local && r.Policy == p.Mark }) {
			c.local(p)
		}
	}
	if len(s.Notes) > 0 {
		notes := Chain{Name: notesChain}
		for _, text := range s.Notes {
			notes.Rules = append(notes.Rules, Rule{Verdict{Kind: Return}, Note(text)})
		}
		c.chain(notes)
	}
	return c.rules
}

func (p Policy) chain() string { return fmt.Sprintf("%s%d-%s", policyChain, p.ID, p.Name) }

func (p Policy) localChain() string { return fmt.Sprintf("%s%d-%s", localChain, p.ID, p.Name) }

// local makes the chain of a policy for the router's own connections. Routing
// refuses what nobody carries, but here the packet has been routed once, and TCP
// takes no notice of what becomes of it then: it would try for minutes. What has
// an uplink of its own goes there, whatever the policy.
func (c *compiler) local(p Policy) {
	rules := []Rule{{SetMark{Mask: c.Mask, Value: p.Mark}}}
	for _, v6 := range []bool{false, true} {
		if slices.Contains(c.Refused, Refusal{p.Mark, v6}) {
			if values := prefixes(family(c.Pinned, v6)); len(values) > 0 {
				rules = append(rules, Rule{Match{Field: destination(v6), Values: values}, Verdict{Kind: Return}})
			}
			rules = append(rules, Rule{Match{Field: IPv6, Values: []Value{nfproto(v6)}}, Match{Field: TCPFlags, Op: NoBit, Values: []Value{rst}}, Reset{}})
		}
	}
	c.chain(Chain{Name: p.localChain(), Rules: rules})
}

type compiler struct {
	Spec
	interfaces  []string // with uplinks, in order, each once
	byInterface map[string][]Uplink
	chosen      chosen
	clients     Verdict // what becomes of clients' new connections before they are routed
	rules       Ruleset
}

// rulesChain is where PolicyRules choose clients' policies.
const rulesChain = "rules"

// otherwise is what becomes of clients that no rule matches: they need the
// default policy's mark only where that remembers clients.
func (c *compiler) otherwise() []Rule {
	if len(c.Policies) == 0 {
		return nil
	}
	if _, ok := c.sticks(c.Policies[0]); !ok {
		return nil
	}
	return []Rule{{Verdict{Goto, c.Policies[0].chain()}}}
}

// behindLast puts rules behind those of the last chain; without any chain they are
// one with that name.
func behindLast(chains []Chain, name string, more []Rule) []Chain {
	if len(chains) == 0 {
		return []Chain{{Name: name, Rules: more}}
	}
	chains = slices.Clone(chains)
	last := &chains[len(chains)-1]
	last.Rules = slices.Concat(last.Rules, more)
	return chains
}

func (c *compiler) chain(ch Chain) { c.rules.Chains = append(c.rules.Chains, ch) }

// restore puts the mark of a known connection on each of its packets: at once
// where the packet has no mark yet, else (and where the marks' chains count) by
// one look-up, whatever the number of uplinks. Between the two stands what
// happens to first packets, which have no use for that look-up. It is no chain
// of type nat: another base chain costs them more than these comparisons cost
// the few known packets that come so far.
func (c *compiler) restore() {
	var rules []Rule
	marks := c.byConnMark(markChain)
	if len(marks) > 0 && !c.counted() {
		rules = []Rule{{RestoreMark{c.Mask}, Verdict{Kind: Accept}}}
		if lan := c.onlyLAN(); len(lan) > 0 && c.clients.Kind == Return {
			// A client's that has no mark by now is of no known connection of an uplink.
			rules = append(rules, Rule{Match{Field: PacketMark, Mask: everyBit, Values: []Value{mark(0)}},
				Match{Field: InInterface, Values: lan}, Verdict{Kind: Accept}})
		}
	}
	if first := c.classify(); len(first) > 0 {
		c.chain(Chain{Name: classifyChain, Rules: first})
		rules = append(rules, Rule{Match{Field: ConnStatus, Op: NoBit, Values: []Value{confirmed}}, Verdict{Goto, classifyChain}})
	}
	if len(marks) > 0 && c.counted() {
		marks = append(marks, Rule{RestoreMark{c.Mask}}) // for what finds nothing in the map, see difference
	}
	c.rules.Chains = slices.Insert(c.rules.Chains, 0, Chain{Name: "restore", Type: Filter, Hook: Prerouting, Priority: priorityMangle, Rules: append(rules, marks...)})
}

// classifyChain is where first packets of connections go that come in.
const classifyChain = "first"

func (c *compiler) byConnMark(chain string) []Rule {
	m := Map{Field: ConnMark, Mask: c.Mask}
	for _, u := range c.Uplinks {
		if u.Mark != 0 {
			m.Entries = append(m.Entries, MapEntry{mark(u.Mark), Verdict{Goto, u.chain(chain)}})
		}
	}
	for _, p := range c.bypasses() {
		m.Entries = append(m.Entries, MapEntry{mark(p.Mark), Verdict{Goto, p.chain()}})
	}
	if len(m.Entries) == 0 {
		return nil
	}
	return []Rule{{m}}
}

// bypasses are the policies whose marks connections can have.
func (c *compiler) bypasses() []Policy {
	return slices.DeleteFunc(slices.Clone(c.Policies), func(p Policy) bool { return !p.Bypass || p.Mark == 0 })
}

// classify binds a connection that comes in from an uplink to that uplink, so
// that its replies leave where it came in; for a client's, the rules choose a
// policy. It runs before port forwards change the destination.
func (c *compiler) classify() []Rule {
	m := Map{Field: InInterface}
	if len(c.interfaces) > 0 {
		for _, name := range c.interfaces {
			uplinks := slices.DeleteFunc(slices.Clone(c.byInterface[name]), func(u Uplink) bool { return u.Leaving })
			if len(uplinks) == 0 {
				continue
			}
			target := uplinks[0].chain(bindChain)
			if inbound := c.inbound(name, uplinks); inbound != nil {
				target = "inbound-" + name
				c.chain(Chain{Name: target, Rules: inbound})
			}
			m.Entries = append(m.Entries, MapEntry{ifname(name), Verdict{Goto, target}})
		}
	}
	if c.clients.Kind == Goto {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(c.LAN))) {
			if len(c.byInterface[name]) == 0 {
				m.Entries = append(m.Entries, MapEntry{ifname(name), c.clients})
			}
		}
	}
	rules := c.unasked()
	if len(m.Entries) > 0 {
		rules = append(rules, Rule{m})
	}
	return rules
}

// inbound tells apart what comes in by one interface: clients by their source,
// uplinks by the destination address, else by the gateway that sent the frame.
// It returns nil where there is nothing to tell apart.
func (c *compiler) inbound(name string, uplinks []Uplink) []Rule {
	networks := c.networks(name)
	if len(c.byInterface[name]) == 1 && len(networks) == 0 {
		return nil
	}
	var rules []Rule
	gateways := gatewaysOf(uplinks)
	for _, v6 := range []bool{false, true} {
		inside := prefixes(family(networks, v6))
		if len(inside) == 0 {
			continue
		}
		clients := Rule{Match{Field: source(v6), Values: inside}}
		if g := addresses(family(gateways, v6)); len(g) > 0 {
			clients = append(clients, Match{Field: source(v6), Op: IsNot, Values: g})
		}
		rules = append(rules, append(clients, c.clients))
	}
	owners := map[netip.Addr]int{}
	for _, u := range uplinks {
		for _, a := range u.Addresses {
			owners[a]++
		}
	}
	for _, v6 := range []bool{false, true} {
		m := Map{Field: destination(v6)}
		for _, u := range uplinks {
			for _, a := range family(u.Addresses, v6) {
				if owners[a] == 1 {
					m.Entries = append(m.Entries, MapEntry{address(a), Verdict{Goto, u.chain(bindChain)}})
				}
			}
		}
		if len(m.Entries) > 0 {
			rules = append(rules, Rule{m})
		}
	}
	// What comes to another address of ours is nobody's connection.
	for _, v6 := range []bool{false, true} {
		other := Rule{Match{Field: IPv6, Values: []Value{nfproto(v6)}}, Match{Field: DestType, Values: []Value{local}}}
		var ambiguous []netip.Addr
		for _, u := range uplinks {
			for _, a := range family(u.Addresses, v6) {
				if owners[a] > 1 {
					ambiguous = append(ambiguous, a)
				}
			}
		}
		if values := addresses(ambiguous); len(values) > 0 {
			other = append(other, Match{Field: destination(v6), Op: IsNot, Values: values})
		}
		rules = append(rules, append(other, Verdict{Kind: Return}))
	}
	senders := Map{Field: EtherSource}
	seen := map[[6]byte]bool{}
	for _, u := range uplinks {
		for _, mac := range u.MACs {
			if !seen[mac] {
				seen[mac] = true
				senders.Entries = append(senders.Entries, MapEntry{ether(mac), Verdict{Goto, u.chain(bindChain)}})
			}
		}
	}
	if len(senders.Entries) > 0 {
		rules = append(rules, Rule{senders})
	}
	return append(rules, Rule{Verdict{Goto, uplinks[0].chain(bindChain)}})
}

func (c *compiler) networks(name string) []netip.Prefix {
	var list []netip.Prefix
	for _, n := range c.Networks {
		if n.Interface == name {
			list = append(list, n.Prefix)
		}
	}
	return list
}

// own is restore for the router's own packets. What has no mark here and
// leaves by an uplink is the first packet of a connection, which is bound and
// NATed later, or it is never NATed: an answer to something that came in by
// another way, or a packet that conntrack does not know. That would leave with
// a wrong source, so it does not leave.
//
// IPv6 chooses the route of the router's own unbound connections before they
// have ports; the default policy's mark has it chosen again, with the flow
// label.
func (c *compiler) own() {
	rules := c.byConnMark(markChain)
	if len(c.interfaces) > 0 {
		m := Map{Field: OutInterface}
		for _, name := range c.interfaces {
			m.Entries = append(m.Entries, MapEntry{ifname(name), Verdict{Goto, c.ownOut(name)}})
		}
		rules = append(rules, Rule{m})
	}
	c.chain(Chain{Name: "own-out", Rules: c.ownUnbound()})
	c.chain(Chain{Name: "own", Type: Route, Hook: Output, Priority: priorityMangle, Rules: rules})
}

// ownOut returns the chain for what leaves by an interface; on a shared one
// only what goes to a gateway leaves by an uplink.
func (c *compiler) ownOut(name string) string {
	if len(c.byInterface[name]) == 1 && len(c.networks(name)) == 0 {
		return "own-out"
	}
	var rules []Rule
	if len(c.networks(name)) > 0 {
		// Clients here must not be told to go to the gateways by themselves;
		// IPv6 has no sysctl for that (ip6_forward, net/ipv6/ip6_output.c).
		rules = append(rules, Rule{Match{Field: ICMPv6Type, Values: []Value{redirect}}, Verdict{Kind: Drop}})
	}
	for _, v6 := range []bool{false, true} {
		if g := addresses(family(gatewaysOf(c.byInterface[name]), v6)); len(g) > 0 {
			rules = append(rules, Rule{Match{Field: nexthop(v6), Values: g}, Verdict{Goto, "own-out"}})
		}
	}
	c.chain(Chain{Name: "own-out-" + name, Rules: rules})
	return "own-out-" + name
}

func (c *compiler) ownUnbound() []Rule {
	rules := []Rule{
		{Match{Field: Source6, Values: prefixes([]netip.Prefix{linkLocal})}, Verdict{Kind: Return}},
		{Match{Field: ConnState, Op: AnyBit, Values: []Value{invalid}}, Verdict{Kind: Drop}},
		{Match{Field: ConnDirection, Values: []Value{reply}}, Verdict{Kind: Drop}},
	}
	var again []Rule
	for _, a := range c.Own {
		if a.Is6() && len(c.Policies) > 0 {
			again = append(again, Rule{Match{Field: Source6, Values: []Value{address(a)}}, Verdict{Goto, c.Policies[0].chain()}})
		}
	}
	if len(c.chosen.own) > 0 && len(c.chosen.own[0].Rules) > 0 {
		// A socket that has a mark was given its way by whoever opened it: our
		// own probes, for one.
		c.rules.Chains = append(c.rules.Chains, behindLast(c.chosen.own, ownRulesChain, again)...)
		rules = append(rules, Rule{Match{Field: ConnStatus, Op: NoBit, Values: []Value{confirmed}},
			Match{Field: PacketMark, Mask: c.Mask, Values: []Value{mark(0)}}, Verdict{Goto, ownRulesChain}})
	}
	return append(rules, again...)
}

// ownRulesChain is where PolicyRules choose policies for the router's own
// connections.
const ownRulesChain = "rules-local"

// guard drops what came in unasked and what would leave un-NATed. Every NATed
// connection passes at the first rule after its first packet.
func (c *compiler) guard() {
	if len(c.interfaces) == 0 {
		return
	}
	in, out := Map{Field: InInterface}, Map{Field: OutInterface}
	for _, name := range c.interfaces {
		inChain, outChain := "guard-in", "guard-out"
		if len(c.networks(name)) > 0 {
			inChain, outChain = "guard-in-"+name, "guard-out-"+name
		}
		in.Entries = append(in.Entries, MapEntry{ifname(name), Verdict{Goto, inChain}})
		out.Entries = append(out.Entries, MapEntry{ifname(name), Verdict{Goto, outChain}})
	}
	for _, name := range c.interfaces {
		if networks := c.networks(name); len(networks) > 0 {
			c.guardShared(name, networks, out)
		}
	}
	c.chain(Chain{Name: "guard-in", Rules: c.guardIn()})
	c.chain(Chain{Name: "guard-out", Rules: c.guardOut()})
	rules := []Rule{{Match{Field: ConnStatus, Op: AnyBit, Values: []Value{snat, dnatted}}, Verdict{Kind: Accept}}}
	answers := c.answers()
	if len(answers.Entries) > 0 {
		rules = []Rule{
			{Match{Field: ConnStatus, Op: AnyBit, Values: []Value{snat}}, Verdict{Kind: Accept}},
			{Match{Field: ConnStatus, Op: AnyBit, Values: []Value{dnatted}}, Match{Field: ConnDirection, Values: []Value{reply}}, answers},
			{Match{Field: ConnStatus, Op: AnyBit, Values: []Value{dnatted}}, Verdict{Kind: Accept}},
		}
	}
	if lan := c.onlyLAN(); len(lan) > 0 {
		c.chain(Chain{Name: "guard-new", Rules: c.guardNew(out)})
		rules = slices.Insert(rules, 1, Rule{Match{Field: InInterface, Values: lan},
			Match{Field: ConnStatus, Op: NoBit, Values: []Value{confirmed, snat, dnatted}}, Verdict{Goto, "guard-new"}})
	}
	rules = slices.Concat(c.translated(answers), rules, []Rule{{in}, {out}})
	c.chain(Chain{Name: "guard", Type: Filter, Hook: Forward, Priority: priorityFilter, Rules: rules})
}

// onlyLAN lists the interfaces with clients; none where one of them has an
// uplink, too.
func (c *compiler) onlyLAN() []Value {
	if len(c.Networks) > 0 {
		return nil
	}
	var names []Value
	for _, name := range c.LAN {
		if v := ifname(name); len(c.byInterface[name]) == 0 && !slices.Contains(names, v) {
			names = append(names, v)
		}
	}
	return names
}

// guardNew is a short way for the first packets of most clients' connections.
// What has a status is known to conntrack, and valid; as it is not confirmed
// yet, the nat chains are to come.
func (c *compiler) guardNew(out Map) []Rule {
	return append(c.without6(),
		Rule{Match{Field: Protocol, Op: IsNot, Values: []Value{tcp}}, Verdict{Kind: Accept}},
		Rule{Match{Field: TCPFlags, Op: AnyBit, Values: []Value{syn}}, Verdict{Kind: Accept}},
		Rule{out})
}

// without6 drops what would leave over IPv6 where no uplink has it.
func (c *compiler) without6() []Rule {
	var off []Value
	for _, name := range c.interfaces {
		if !c.wants6(name) {
			off = append(off, ifname(name))
		}
	}
	if len(off) == 0 {
		return nil
	}
	return []Rule{{Match{Field: IPv6, Values: []Value{ipv6}}, Match{Field: OutInterface, Values: off}, Verdict{Kind: Drop}}}
}

// answers makes the chains for what goes back to those who came in by an
// uplink: its source is that uplink's address, which only masquerade would
// change with the route. When the uplink's table is empty (its interface went
// down), routing finds another uplink for it; there it must not leave.
func (c *compiler) answers() Map {
	m := Map{Field: ConnMark, Mask: c.Mask}
	if len(c.interfaces) < 2 {
		return m // uplinks that share one do not fall through
	}
	for _, name := range c.interfaces {
		others := c.outUplink(Is)
		others.Values = slices.DeleteFunc(others.Values, func(v Value) bool { return v == ifname(name) })
		c.chain(Chain{Name: "answers-" + name, Rules: []Rule{{others, Verdict{Kind: Drop}}, {Verdict{Kind: Accept}}}})
	}
	for _, u := range c.Uplinks {
		if u.Mark != 0 {
			m.Entries = append(m.Entries, MapEntry{mark(u.Mark), Verdict{Goto, "answers-" + u.Interface}})
		}
	}
	return m
}

// guardShared makes the chains of an interface that serves clients too: what
// its clients send is judged as outgoing, by whatever interface it leaves; what
// goes to them as incoming.
func (c *compiler) guardShared(name string, networks []netip.Prefix, leaving Map) {
	gateways := gatewaysOf(c.byInterface[name])
	var in, out []Rule
	for _, v6 := range []bool{false, true} {
		if inside := prefixes(family(networks, v6)); len(inside) > 0 {
			client := Rule{Match{Field: source(v6), Values: inside}}
			if g := addresses(family(gateways, v6)); len(g) > 0 {
				client = append(client, Match{Field: source(v6), Op: IsNot, Values: g})
			}
			in = append(in, append(slices.Clone(client), leaving), append(slices.Clone(client), Verdict{Kind: Accept}))
		}
		if g := addresses(family(gateways, v6)); len(g) > 0 {
			out = append(out, Rule{Match{Field: nexthop(v6), Values: g}, Verdict{Goto, "guard-out"}})
		}
	}
	if !c.wants6(name) { // nobody named a gateway, but main may know one
		strangers := Rule{Match{Field: IPv6, Values: []Value{ipv6}}}
		if inside := prefixes(family(networks, true)); len(inside) > 0 {
			strangers = Rule{Match{Field: Dest6, Op: IsNot, Values: inside}}
		}
		out = append(out, append(strangers, Verdict{Kind: Drop}))
	}
	c.chain(Chain{Name: "guard-out-" + name, Rules: append(out, Rule{Verdict{Kind: Accept}})})
	c.chain(Chain{Name: "guard-in-" + name, Rules: append(in, Rule{Verdict{Goto, "guard-in"}})})
}

func (c *compiler) guardIn() []Rule {
	var rules []Rule
	known := Match{Field: ConnState, Op: AnyBit, Values: []Value{established, related}}
	var outside []Value       // nothing goes from one uplink to another: interfaces with nothing but uplinks
	var gateways []netip.Addr // and on the others, gateways
	for _, name := range c.interfaces {
		if len(c.networks(name)) == 0 {
			outside = append(outside, ifname(name))
		} else {
			gateways = append(gateways, gatewaysOf(c.byInterface[name])...)
		}
	}
	for _, v6 := range []bool{false, true} {
		if routed := prefixes(family(c.Routed, v6)); len(routed) > 0 {
			r := Rule{Match{Field: destination(v6), Values: routed}, known}
			if len(outside) > 0 {
				r = append(r, Match{Field: OutInterface, Op: IsNot, Values: outside})
			}
			if g := addresses(family(gateways, v6)); len(g) > 0 {
				r = append(r, Match{Field: nexthop(v6), Op: IsNot, Values: g})
			}
			rules = append(rules, append(r, Verdict{Kind: Accept}))
		}
	}
	rules = append(rules, c.asTheyAre(false, Verdict{Kind: Accept})...)
	return append(rules, Rule{Verdict{Kind: Drop}})
}

func (c *compiler) guardOut() []Rule {
	rules := []Rule{{Match{Field: ConnState, Op: AnyBit, Values: []Value{invalid, untracked}}, Verdict{Kind: Drop}}}
	rules = append(rules, c.without6()...)
	rules = append(rules, c.unNATed(Verdict{Kind: Accept})...)
	rules = append(rules, c.asTheyAre(true, Verdict{Kind: Accept})...)
	return append(rules,
		// The middle of a TCP connection that conntrack has let go of, because
		// its uplink died, or that began before the rules did. It would get an
		// address that the far end does not know: a reset or, behind a firewall,
		// nothing would come back. So the client learns it here, at once.
		Rule{Match{Field: TCPFlags, Op: NoBit, Values: []Value{syn, rst}}, Reset{}},
		Rule{Match{Field: ConnStatus, Op: AnyBit, Values: []Value{confirmed}}, Verdict{Kind: Drop}})
}

// wants6 reports whether an uplink of the interface has IPv6.
func (c *compiler) wants6(name string) bool {
	return slices.ContainsFunc(c.byInterface[name], func(u Uplink) bool { return !u.NoIPv6 })
}

// unNATed gives what leaves without NAT the verdict: sources in Routed; over
// IPv6 only by the uplinks that route.
func (c *compiler) unNATed(v Verdict) []Rule {
	var rules []Rule
	if routed := prefixes(family(c.Routed, false)); len(routed) > 0 {
		rules = append(rules, Rule{Match{Field: Source4, Values: routed}, v})
	}
	var routing []Value
	for _, name := range c.interfaces {
		if slices.ContainsFunc(c.byInterface[name], func(u Uplink) bool { return u.Routed6 }) {
			routing = append(routing, ifname(name))
		}
	}
	if routed := prefixes(family(c.Routed, true)); len(routed) > 0 && len(routing) > 0 {
		rules = append(rules, Rule{Match{Field: OutInterface, Values: routing}, Match{Field: Source6, Values: routed}, v})
	}
	return rules
}

// bind binds a new connection to the uplink that routing chose for it, by
// interface, on a shared one by gateway, and has it NATed to that uplink's
// address. It is the first of all programs' nat chains: where another one NATs
// a connection, the kernel runs none of those behind it. What should have found
// its interface or gateway in a map and did not (see difference) is dropped, and
// sent again.
func (c *compiler) bind() {
	var rules []Rule
	if len(c.interfaces) > 0 {
		m := Map{Field: OutInterface}
		for _, name := range c.interfaces {
			uplinks := c.byInterface[name]
			target := uplinks[0].chain(leaveChain)
			if len(uplinks) > 1 || len(c.networks(name)) > 0 {
				target = "outbound-" + name
				rules := outbound(uplinks, len(c.networks(name)) > 0)
				if len(c.networks(name)) > 0 && c.hairpins() {
					rules = append(rules, c.around(name))
				}
				c.chain(Chain{Name: target, Rules: rules})
			}
			m.Entries = append(m.Entries, MapEntry{ifname(name), Verdict{Goto, target}})
		}
		rules = []Rule{{m}, {c.outUplink(Is), Verdict{Kind: Drop}}}
		c.chain(Chain{Name: "masquerading", Rules: append(c.apartFromServices(), c.masquerade(PortRange{})...)})
	}
	if c.hairpins() {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(c.LAN))) {
			if len(c.byInterface[name]) == 0 {
				rules = append(rules, c.around(name))
			}
		}
	}
	for _, p := range c.bypasses() { // what leaves by no uplink
		rules = append(rules, Rule{Match{Field: PacketMark, Mask: c.Mask, Values: []Value{mark(p.Mark)}}, SetMark{Conn: true, Mask: c.Mask, Value: p.Mark}})
	}
	c.chain(Chain{Name: "bind", Type: NAT, Hook: Postrouting, Priority: priorityMangle, Rules: rules})
}

// leave is what happens to a connection that leaves by the uplink. Its packet
// needs no mark any more.
func (c *compiler) leave(u Uplink) []Rule {
	var rules []Rule
	if u.Mark != 0 {
		rules = append(rules, Rule{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(0)}}, SetMark{Conn: true, Mask: c.Mask, Value: u.Mark}})
	}
	rules = append(rules, c.remember(u)...)
	rules = append(rules, c.translations(u)...)
	return append(rules, Rule{Verdict{Goto, "masquerading"}})
}

// outbound tells uplinks apart by gateway; of two uplinks with one gateway the
// first gets it. What goes to a neighbour on the interface itself stays unbound:
// its packets need no uplink's table; a client there is no uplink's, so it is
// not NATed. Where no gateway is known and no clients are, all is the first
// uplink's: another one is just leaving the interface.
func outbound(uplinks []Uplink, clients bool) []Rule {
	var rules, missed []Rule
	for _, v6 := range []bool{false, true} {
		m := Map{Field: nexthop(v6)}
		taken := map[netip.Addr]bool{}
		for _, u := range uplinks {
			for _, g := range family(u.Gateways, v6) {
				if !taken[g] {
					taken[g] = true
					m.Entries = append(m.Entries, MapEntry{address(g), Verdict{Goto, u.chain(leaveChain)}})
				}
			}
		}
		if len(m.Entries) > 0 {
			rules = append(rules, Rule{m})
			missed = append(missed, Rule{Match{Field: nexthop(v6), Values: addresses(family(gatewaysOf(uplinks), v6))}, Verdict{Kind: Drop}})
		}
	}
	rules = append(rules, missed...)
	switch {
	case clients:
		return rules
	case len(rules) == 0:
		return []Rule{{Verdict{Goto, uplinks[0].chain(leaveChain)}}}
	}
	return append(rules, Rule{Verdict{Goto, "masquerading"}})
}

// masquerade gives what leaves an uplink the uplink's address. masquerade
// rather than snat wherever possible: it lets the kernel end connections whose
// interface or address is gone. Source ports are among ports, unless that is
// zero.
func (c *compiler) masquerade(ports PortRange) []Rule {
	rules := c.unNATed(Verdict{Kind: Return})
	var withPorts []Statement
	if ports != (PortRange{}) { // nft(8) asks for it
		withPorts = []Statement{Match{Field: Protocol, Values: []Value{tcp, udp}}}
	}
	for _, u := range c.Uplinks {
		if u.Mark == 0 {
			continue // nothing is bound to it
		}
		for _, a := range u.Source {
			rules = append(rules, Rule{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(u.Mark)}},
				Match{Field: IPv6, Values: []Value{nfproto(a.Is6())}}})
			rules[len(rules)-1] = append(append(rules[len(rules)-1], withPorts...), SNAT{a, ports})
		}
	}
	// Where uplinks share an interface and have their sources, masquerade
	// could take another one's: what is bound to one without does not leave.
	for _, u := range c.Uplinks {
		for _, v6 := range []bool{false, true} {
			fixed := slices.ContainsFunc(c.byInterface[u.Interface], func(o Uplink) bool { return len(family(o.Source, v6)) > 0 })
			if u.Mark != 0 && fixed && len(family(u.Source, v6)) == 0 {
				rules = append(rules, Rule{Match{Field: ConnMark, Mask: c.Mask, Values: []Value{mark(u.Mark)}},
					Match{Field: IPv6, Values: []Value{nfproto(v6)}}, Verdict{Kind: Drop}})
			}
		}
	}
	return append(rules, append(withPorts, Masquerade{ports}))
}

// outUplink matches packets by whether they leave by an uplink's interface.
func (c *compiler) outUplink(op Op) Match {
	m := Match{Field: OutInterface, Op: op}
	for _, name := range c.interfaces {
		m.Values = append(m.Values, ifname(name))
	}
	return m
}

func gatewaysOf(uplinks []Uplink) []netip.Addr {
	var all []netip.Addr
	for _, u := range uplinks {
		all = append(all, u.Gateways...)
	}
	return all
}

func source(v6 bool) Field      { return choose(v6, Source6, Source4) }
func destination(v6 bool) Field { return choose(v6, Dest6, Dest4) }
func nexthop(v6 bool) Field     { return choose(v6, Nexthop6, Nexthop4) }

func choose(v6 bool, six, four Field) Field {
	if v6 {
		return six
	}
	return four
}

// family keeps the addresses or prefixes of one family.
func family[T interface{ String() string }](all []T, v6 bool) []T {
	return slices.DeleteFunc(slices.Clone(all), func(t T) bool { return strings.Contains(t.String(), ":") != v6 })
}

// Values, in the byte order in which the kernel compares them.

// bits is a host-order number.
func bits(text string, n uint32) Value {
	return Value{Text: text, Raw: string(binary.NativeEndian.AppendUint32(nil, n))}
}

func mark(m uint32) Value { return bits(fmt.Sprintf("0x%08x", m), m) }

// Connection states and status bits (net/netfilter/nf_tables.h NF_CT_STATE_BIT,
// linux/netfilter/nf_conntrack_common.h enum ip_conntrack_status and
// ip_conntrack_dir), address type
// (linux/rtnetlink.h RTN_LOCAL), families (linux/netfilter.h).
var (
	invalid     = bits("invalid", 1)
	established = bits("established", 2)
	related     = bits("related", 4)
	untracked   = bits("untracked", 64)
	confirmed   = bits("confirmed", 1<<3)
	snat        = bits("snat", 1<<4)
	dnatted     = bits("dnat", 1<<5)
	local       = bits("local", 2)
	redirect    = Value{Text: "nd-redirect", Raw: "\x89"} // linux/icmpv6.h NDISC_REDIRECT
	syn         = Value{Text: "syn", Raw: "\x02"}         // net/tcp.h TCPHDR_SYN
	rst         = Value{Text: "rst", Raw: "\x04"}
	tcp         = Value{Text: "tcp", Raw: "\x06"}
	udp         = Value{Text: "udp", Raw: "\x11"}
	reply       = Value{Text: "reply", Raw: "\x01"}
	ipv4        = Value{Text: "ipv4", Raw: "\x02"}
	ipv6        = Value{Text: "ipv6", Raw: "\x0a"}
)

// linkLocal sources never leave the link (RFC 4291, 2.5.6).
var linkLocal = netip.MustParsePrefix("fe80::/10")

func nfproto(v6 bool) Value {
	if v6 {
		return ipv6
	}
	return ipv4
}

// ifname pads to IFNAMSIZ: shorter data would match every name with this
// prefix.
func ifname(name string) Value {
	var raw [16]byte
	copy(raw[:15], name)
	return Value{Text: fmt.Sprintf("%q", name), Raw: string(raw[:])}
}

func address(a netip.Addr) Value { return Value{Text: a.String(), Raw: string(a.AsSlice())} }

func addresses(all []netip.Addr) []Value {
	var values []Value
	seen := map[netip.Addr]bool{}
	for _, a := range all {
		if !seen[a] {
			seen[a] = true
			values = append(values, address(a))
		}
	}
	return values
}

func ether(mac [6]byte) Value {
	return Value{Text: fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]), Raw: string(mac[:])}
}

// prefixes turns prefixes into ranges, without those inside another.
func prefixes(all []netip.Prefix) []Value {
	var values []Value
	for _, p := range apart(all) {
		lo := p.Addr().AsSlice()
		hi := slices.Clone(lo)
		for i := p.Bits(); i < len(hi)*8; i++ {
			hi[i/8] |= 0x80 >> (i % 8)
		}
		values = append(values, Value{Text: p.String(), Raw: string(lo), Hi: string(hi)})
	}
	return values
}

// apart leaves out prefixes inside another: the kernel refuses overlapping
// ranges.
func apart(all []netip.Prefix) []netip.Prefix {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Masked().Addr().Compare(b.Masked().Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var kept []netip.Prefix
	for _, p := range all {
		p = p.Masked()
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}
