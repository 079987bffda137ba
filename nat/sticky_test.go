package nat

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// stickyWalk sends first packets through rules that remember.
type stickyWalk struct {
	t *testing.T
	w walker
}

// goes sends a client's first packet, which routing puts on an uplink where its
// mark does not say which, and checks its mark on the way and its connection's.
func (s *stickyWalk) goes(what string, p packet, chance int, way, bound uint32) {
	s.t.Helper()
	p.conn, p.in, p.out = fresh(), "eth0", "eth1"
	if p.proto == 0 {
		p.proto, p.dport = 6, 80
	}
	seen := uint32(0)
	passed := s.w.forwarded(&p, func(p *packet) {
		seen = p.mark
		to := chance
		for id := range 3 {
			if p.mark&testMask == markOf(id+1) {
				to = id + 1
			}
		}
		p.out = "eth" + string(rune('0'+to))
	})
	if !passed || s.w.err != nil || seen != way || p.conn.mark != bound {
		s.t.Errorf("%s: passes %v (%v), routed with mark %#x, wanted %#x; connection %#x, wanted %#x", what, passed, s.w.err, seen, way, p.conn.mark, bound)
	}
}

// TestStickyWalk: who is remembered where, and forgotten when.
func TestStickyWalk(t *testing.T) {
	t.Parallel()
	spec := sticky()
	s := &stickyWalk{t, walker{rules: Compile(spec)}}
	one, two, six := a("192.168.0.10"), a("192.168.0.11"), a("fd00:1::10")
	web, other, web6 := a("198.51.100.1"), a("198.51.100.2"), a("2001:db8:ffff::1")
	dsl, cable, voice, base := markOf(1), markOf(2), markOf(10), markOf(9)
	const foreign = 0x00abcdef

	s.goes("nobody knows the client", packet{src: one, dst: web}, 2, base, cable)
	s.goes("it stays", packet{src: one, dst: other}, 1, cable, cable)
	s.goes("it stays, and so do other bits", packet{src: one, dst: other, mark: foreign}, 1, cable|foreign, cable)
	s.goes("another one", packet{src: two, dst: web}, 1, base, dsl)
	s.goes("it stays, too", packet{src: two, dst: other}, 2, dsl, dsl)
	s.goes("IPv6", packet{src: six, dst: web6}, 1, base, dsl)
	s.goes("IPv6 again", packet{src: six, dst: web6}, 2, dsl, dsl)
	s.goes("a destination with an uplink of its own", packet{src: one, dst: a("10.1.2.3")}, 1, base, dsl)
	s.goes("does not move it", packet{src: one, dst: web}, 1, cable, cable)
	s.goes("a policy that remembers nobody", packet{src: one, dst: web, proto: 47}, 1, markOf(11), dsl)
	s.goes("a policy of its own memory, whose only member is the first", packet{src: one, dst: web, proto: 6, dport: 443}, 1, voice, dsl)
	s.goes("by pairs", packet{src: one, dst: web, proto: 6, dport: 443}, 2, dsl, dsl)
	s.goes("by pairs, another destination", packet{src: one, dst: other, proto: 6, dport: 443}, 1, voice, dsl)

	// The second uplink dies: who was there is forgotten at once.
	spec.Sticky = slices.Clone(spec.Sticky)
	spec.Sticky[0].Members4 = []int{1}
	s.w.rules = Compile(spec)
	s.goes("its uplink is dead", packet{src: one, dst: web}, 1, base, dsl)
	s.goes("it stays on the new one", packet{src: one, dst: web}, 2, dsl, dsl)
	spec.Sticky[0].Members4 = []int{1, 2}
	s.w.rules = Compile(spec)
	s.goes("the uplink is back", packet{src: one, dst: web}, 2, dsl, dsl)

	// The router's own connections are not remembered.
	own := packet{out: "eth1", src: a("fd00:1::1"), dst: web6, proto: 6, dport: 80, conn: fresh()}
	if !s.w.sent(&own) || own.mark != base {
		t.Errorf("the router's own: mark %#x, wanted %#x", own.mark, base)
	}
	for key, added := range s.w.changed {
		if added && key[1] == string(a("fd00:1::1").AsSlice()) {
			t.Errorf("the router is remembered in %s", key[0])
		}
	}
}

// TestStickyOnly: what changes when an uplink dies, and that it is little.
func TestStickyOnly(t *testing.T) {
	t.Parallel()
	spec := sticky()
	state := Compile(spec).State()
	spec.Sticky = slices.Clone(spec.Sticky)
	spec.Sticky[0].Members4 = []int{1}
	want := Compile(spec)
	if !state.StickyOnly(want) {
		t.Error("another member is more than that")
	}
	if refill, _ := state.changes(want); len(refill) != 1 {
		t.Errorf("%d chains are written again", len(refill))
	}
	if state.StickyOnly(Compile(sticky())) {
		t.Error("no difference is one")
	}
	for what, change := range map[string]func(*Spec){
		"another time":         func(s *Spec) { s.Sticky[0].Timeout = time.Minute },
		"another kind":         func(s *Spec) { s.Sticky[0].Pairs = true },
		"another uplink":       func(s *Spec) { s.Sticky[0].Uplinks = []int{1} },
		"another uplink there": func(s *Spec) { s.Uplinks = append(s.Uplinks, up(3, "lte", "eth3")) },
		"no table":             func(*Spec) { state = State{} },
	} {
		changed := spec
		changed.Sticky = slices.Clone(spec.Sticky)
		changed.Uplinks = slices.Clone(spec.Uplinks)
		change(&changed)
		if state.StickyOnly(Compile(changed)) {
			t.Errorf("%s is only that", what)
		}
		state = Compile(sticky()).State()
	}
}

// TestDynamicKey: what a pair of addresses is looked up by.
func TestDynamicKey(t *testing.T) {
	t.Parallel()
	y := sticky().Sticky[1]
	sets := sticky().Remembers(y, 1)
	if got := sets[0].Key(netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("203.0.113.1")); got != keyPair {
		t.Errorf("%q, wanted %q", got, keyPair)
	}
	if got := sets[1].Key(netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("203.0.113.1")); got != "" {
		t.Errorf("IPv4 in a set of IPv6: %q", got)
	}
}
