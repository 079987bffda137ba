package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Sticky has a policy's clients stay on the uplink that they were put on: for
// each uplink a dynamic set remembers who is there. A connection of a client who
// is remembered gets the mark of the uplink instead of the policy's; one of a
// client who is not is remembered where it leaves. The router's own connections
// are not.
//
// It is sets rather than one map from clients to marks: nft(8) has no words for
// a mark from a map that keeps other bits of the packet's, and the kernel does
// not change the data of an element that is there (nft_dynset_eval,
// net/netfilter/nft_dynset.c).
type Sticky struct {
	Policy   uint32        // mark of one of Spec.Policies
	Pairs    bool          // each destination of a client by itself
	Timeout  time.Duration // since the last new connection; whole seconds
	Uplinks  []int         // IDs of who may ever carry the policy, in order
	Members4 []int         // of those, who may be given to a client again now, IPv4
	Members6 []int
}

// maxRemembered bounds the clients, or pairs, of one policy that are remembered
// on one uplink in one family. Beyond it connections choose each for itself.
const maxRemembered = 65536

// remembers returns the set of who is on an uplink.
func (s Sticky) remembers(policy Policy, uplink int, v6 bool) Dynamic {
	fields, kind, version := []Field{source(v6)}, "source", 4
	if s.Pairs {
		fields, kind = append(fields, destination(v6)), "pair"
	}
	if v6 {
		version = 6
	}
	return Dynamic{Name: fmt.Sprintf("sticky-%d-%d-%s%d", policy.ID, uplink, kind, version), Fields: fields, Packets: true, Size: maxRemembered}
}

func (s Sticky) members(v6 bool) []int {
	if v6 {
		return s.Members6
	}
	return s.Members4
}

// Remembers returns the sets that remember the policy's clients on an uplink,
// for IPv4 and IPv6.
func (s Spec) Remembers(y Sticky, uplink int) [2]Dynamic {
	p, _ := s.policy(y.Policy)
	return [2]Dynamic{y.remembers(p, uplink, false), y.remembers(p, uplink, true)}
}

func (s Spec) policy(mark uint32) (Policy, bool) {
	i := slices.IndexFunc(s.Policies, func(p Policy) bool { return p.Mark == mark })
	if i < 0 {
		return Policy{}, false
	}
	return s.Policies[i], true
}

// sticks returns how the policy's clients stay, if they do.
func (c *compiler) sticks(p Policy) (Sticky, bool) {
	i := slices.IndexFunc(c.Sticky, func(y Sticky) bool { return y.Policy == p.Mark })
	if i < 0 {
		return Sticky{}, false
	}
	return c.Sticky[i], true
}

// bindable is the uplink with that ID, if connections are bound to it.
func (c *compiler) bindable(id int) (Uplink, bool) {
	i := slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.ID == id && u.Mark != 0 && !u.Leaving })
	if i < 0 {
		return Uplink{}, false
	}
	return c.Uplinks[i], true
}

// recall is what stands before the policy's mark: clients who are remembered get
// the mark of their uplink. Who is remembered on an uplink that is no member now
// is forgotten: it is not to be had back when that uplink is.
func (c *compiler) recall(p Policy) []Rule {
	y, ok := c.sticks(p)
	if !ok {
		return nil
	}
	var rules []Rule
	for _, pinned := range c.pinned() { // goes where it must by routes, which its uplink's mark would get round
		rules = append(rules, Rule{pinned, SetMark{Mask: c.Mask, Value: p.Mark}, Verdict{Kind: Return}})
	}
	for _, v6 := range []bool{false, true} {
		var hits []Rule
		for _, id := range y.Uplinks {
			u, ok := c.bindable(id)
			if !ok || v6 && u.NoIPv6 {
				continue
			}
			set := y.remembers(p, id, v6)
			c.rules.Dynamic = append(c.rules.Dynamic, set)
			if !slices.Contains(y.members(v6), id) {
				rules = append(rules, Rule{Delete{Fields: set.Fields, Set: set.Name}})
				continue
			}
			hits = append(hits, Rule{Lookup{Fields: set.Fields, Set: set.Name},
				Update{Fields: set.Fields, Set: set.Name, Timeout: y.Timeout}, Verdict{Goto, u.chain(markChain)}})
		}
		rules = append(rules, hits...)
	}
	return rules
}

// pinned matches destinations that have an uplink of their own.
func (c *compiler) pinned() []Match {
	var all []Match
	for _, v6 := range []bool{false, true} {
		if values := prefixes(family(c.Pinned, v6)); len(values) > 0 {
			all = append(all, Match{Field: destination(v6), Values: values})
		}
	}
	return all
}

// remember puts clients of sticky policies on an uplink's sets, where their
// connection leaves by it. Packets that still have the policy's mark are those
// that nobody remembered.
func (c *compiler) remember(u Uplink) []Rule {
	if u.Leaving || u.Mark == 0 {
		return nil
	}
	var rules []Rule
	for _, y := range c.Sticky {
		p, ok := c.policy(y.Policy)
		if !ok || !slices.Contains(y.Uplinks, u.ID) {
			continue
		}
		for _, v6 := range []bool{false, true} {
			if v6 && u.NoIPv6 {
				continue
			}
			rule := Rule{Match{Field: PacketMark, Mask: c.Mask, Values: []Value{mark(p.Mark)}}, Match{Field: SourceType, Op: IsNot, Values: []Value{local}}}
			if values := prefixes(family(c.Pinned, v6)); len(values) > 0 {
				rule = append(rule, Match{Field: destination(v6), Op: IsNot, Values: values})
			}
			set := y.remembers(p, u.ID, v6)
			rules = append(rules, append(rule, Update{Fields: set.Fields, Set: set.Name, Timeout: y.Timeout}))
		}
	}
	return rules
}

// StickyOnly reports whether what the kernel holds and want differ in nothing
// but whose clients are remembered.
func (s State) StickyOnly(want Ruleset) bool {
	if !s.Exists || s.Dormant || !s.holdsDynamic(want) {
		return false
	}
	refill, stale := s.changes(want)
	sets, staleSets := s.setChanges(want)
	return len(refill) > 0 && len(stale)+len(sets)+len(staleSets) == 0 && !slices.ContainsFunc(refill, func(c Chain) bool {
		_, ok := s.chains[c.Name]
		_, _, policy := parseChain(c.Name, policyChain)
		return !ok || !policy
	})
}

// Key is what a set of fields of a packet between two addresses is looked up
// by. It is for sets of addresses only.
func (d Dynamic) Key(from, to netip.Addr) string {
	p := packet{src: from, dst: to}
	key, _ := p.key(d.Fields)
	return key
}
