package nat

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// randomFeatures adds rules with lists, clients who stay, prefixes, counters and
// policies that nobody carries.
func randomFeatures(r *rand.Rand, s *Spec) {
	s.Policies = ruleSpec().Policies
	if r.IntN(2) == 0 {
		s.Lists = testLists
	}
	for range r.IntN(5) {
		x := PolicyRule{Policy: markOf(9 + r.IntN(4)), Local: r.IntN(4) == 0}
		if r.IntN(3) == 0 {
			x.Ports = []PortRange{{80, uint16(80 + r.IntN(2))}}
		}
		if r.IntN(3) == 0 {
			x.From = nets("192.168.0.10/32", "fd00:1::/64", "203.0.113.0/24")[r.IntN(2):]
		}
		if len(s.Lists) > 0 && r.IntN(2) == 0 {
			x.ToLists = s.Lists[:1+r.IntN(len(s.Lists))]
		}
		s.Rules = append(s.Rules, x)
	}
	var ids []int
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		ids = append(ids, u.ID)
		u.Counted = r.IntN(3) == 0
		if u.NoIPv6 || r.IntN(2) == 0 {
			continue
		}
		subnet := func(n int) netip.Prefix { return nets(fmt.Sprintf("2001:db8:%d:ff%02x::/64", u.ID, n))[0] }
		u.Delegated = nets(fmt.Sprintf("2001:db8:%d:ff00::/56", u.ID))[0]
		u.Translations = []Translation{{Inside: nets("fd00:1::/64")[0], Outside: subnet(0)}, {Inside: nets("fd00:9::/64")[0], Outside: subnet(9)}}
		if r.IntN(2) == 0 {
			u.Translations[0].Except = addrs("fd00:1::2", "fd00:1::10")[:1+r.IntN(2)]
		}
		if own := nets("2001:db8:1:ff01::/64")[0]; u.Delegated.Overlaps(own) {
			u.Translations = append(u.Translations, Translation{Inside: own, Outside: own})
		} else {
			u.Translations = append(u.Translations, Translation{Inside: own, Outside: subnet(1)})
		}
	}
	members := func() []int { return slices.DeleteFunc(slices.Clone(ids), func(int) bool { return r.IntN(3) == 0 }) }
	for _, id := range []int{9, 10, 11} {
		if r.IntN(3) == 0 {
			s.Sticky = append(s.Sticky, Sticky{Policy: markOf(id), Pairs: r.IntN(2) == 0, Timeout: time.Minute, Uplinks: ids, Members4: members(), Members6: members()})
		}
		if r.IntN(4) == 0 && id > 9 {
			s.Refused = append(s.Refused, Refusal{markOf(id), r.IntN(2) == 0})
		}
	}
	if len(s.Sticky)+len(s.Refused) > 0 && r.IntN(2) == 0 {
		s.Pinned = nets("198.51.100.1/32", "2001:db8:ffff::/48")[r.IntN(2):]
	}
}

// sometimes is what is in dynamic sets: every third of all that may be.
func sometimes(seed uint64) func(set, key string) bool {
	return func(set, key string) bool {
		h := fnv.New64a()
		fmt.Fprint(h, seed, set, key)
		return h.Sum64()%3 == 0
	}
}

// chosenMark is the mark that a new connection of a client is to have on its way,
// by a plain reading of the spec.
func chosenMark(s *Spec, p packet, holds func(set, key string) bool) uint32 {
	what := Packet{In: p.in, Source: p.src, Destination: p.dst, SourcePort: p.sport, DestPort: p.dport, Protocol: p.proto, MAC: p.mac, DSCP: p.dscp}
	var policy uint32
	if i := slices.IndexFunc(s.Rules, func(x PolicyRule) bool { return x.Matches(what, holds) }); i >= 0 {
		policy = s.Rules[i].Policy
	}
	for _, y := range s.Sticky {
		if y.Policy != policy && (policy != 0 || y.Policy != defaultPolicy.Mark) {
			continue
		}
		policy = y.Policy
		if slices.ContainsFunc(s.Pinned, func(x netip.Prefix) bool { return x.Contains(p.dst) }) {
			break
		}
		v6 := p.src.Is6()
		for _, id := range y.Uplinks {
			u := s.Uplinks[id-1]
			set := s.Remembers(y, id)[map[bool]int{true: 1}[v6]]
			if slices.Contains(y.members(v6), id) && !(v6 && u.NoIPv6) && holds(set.Name, set.Key(p.src, p.dst)) {
				return u.Mark
			}
		}
	}
	return policy
}

// TestWalkRandomChoice: whatever is configured and remembered, a client's new
// connection gets the mark that a plain reading of the spec gives it.
func TestWalkRandomChoice(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	kinds := map[string]int{}
	for i := range 2000 {
		s := randomSpec(r)
		rules := Compile(s)
		holds := sometimes(uint64(i))
		for range 10 {
			p, _ := randomPacket(r, &s)
			p.in, p.conn = "eth9", fresh()
			want := chosenMark(&s, p, holds)
			w := &walker{rules: rules, holds: holds}
			before := p
			if !w.hook(Prerouting, &p) || w.err != nil || p.mark&s.Mask != want {
				t.Fatalf("packet %+v\nmark %#x, wanted %#x (%v)\nway %q\nspec %+v\n%s", before, p.mark, want, w.err, w.trace, s, rules)
			}
			switch {
			case want == 0:
				kinds["none"]++
			case want < defaultPolicy.Mark:
				kinds["uplink"]++
			default:
				kinds["policy"]++
			}
		}
	}
	t.Logf("marks: %v", kinds)
	if len(kinds) < 3 {
		t.Error("the packets are all alike")
	}
}

// TestWalkRandomOwn: of the router's own new connections only TCP of policies
// that nobody carries is reset, and none is NATed by prefix or remembered.
func TestWalkRandomOwn(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	resets := 0
	for i := range 2000 {
		s := randomSpec(r)
		rules := Compile(s)
		for range 10 {
			p, _ := randomPacket(r, &s)
			p.in, p.conn, p.middle, p.mark = "", fresh(), false, 0
			p.proto = []uint8{6, 17}[r.IntN(2)]
			w := &walker{rules: rules, holds: sometimes(uint64(i))}
			w.sent(&p)
			pinned := slices.ContainsFunc(s.Pinned, func(x netip.Prefix) bool { return x.Contains(p.dst) })
			refused := !pinned && slices.ContainsFunc(s.Refused, func(x Refusal) bool { return x.Policy == p.mark&s.Mask && x.IPv6 == p.dst.Is6() })
			translated := slices.ContainsFunc(s.Uplinks, func(u Uplink) bool { return u.Delegated.IsValid() && u.Delegated.Contains(p.conn.snat) })
			if w.err != nil || p.reset && !(refused && p.proto == 6) || translated || len(w.changed) > 0 {
				t.Fatalf("packet %+v: reset %v, refused %v, NATed to %s, remembered %v (%v)\nway %q\nspec %+v\n%s", p, p.reset, refused, p.conn.snat, w.changed, w.err, w.trace, s, rules)
			}
			if p.reset {
				resets++
			}
		}
	}
	if resets == 0 {
		t.Error("nothing was reset")
	}
}
