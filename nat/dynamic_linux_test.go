package nat

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

// dynamicRules are rules with dynamic sets of both kinds.
func dynamicRules() Ruleset {
	learned := Dynamic{Name: "sticky-test", Fields: []Field{Source4, Dest4}, Packets: true, Size: 65536}
	filled := Dynamic{Name: "domain-test", Fields: []Field{Dest6}, Timeout: 90 * time.Minute}
	return Ruleset{Dynamic: []Dynamic{learned, filled}, Chains: []Chain{
		{Name: "learn", Type: Filter, Hook: Postrouting, Priority: priorityMangle, Rules: []Rule{
			{Update{Fields: learned.Fields, Set: learned.Name, Timeout: 26*time.Hour + time.Second}},
			{Lookup{Fields: filled.Fields, Set: filled.Name}, Verdict{Kind: Accept}},
			{Delete{Fields: learned.Fields, Set: learned.Name}}}},
		{Name: "other", Rules: []Rule{{Verdict{Kind: Accept}}}}}}
}

// put adds an element, as somebody else.
func (k *kernel) put(d Dynamic, key string) {
	k.t.Helper()
	set := &nftables.Set{Table: ourTable(), Name: d.Name, KeyType: d.key(), Dynamic: d.Packets, HasTimeout: true}
	if err := k.foreign.SetAddElements(set, []nftables.SetElement{{Key: []byte(key), Timeout: time.Hour}}); err != nil {
		k.t.Fatal(err)
	}
	k.flush()
}

func (k *kernel) has(d Dynamic, key string) bool {
	k.t.Helper()
	found := false
	if err := k.ns.Do(func() (err error) { found, err = k.table.Has(d, key); return err }); err != nil {
		k.t.Fatal(err)
	}
	return found
}

var (
	keyPair = string(netip.MustParseAddr("192.168.0.2").AsSlice()) + string(netip.MustParseAddr("203.0.113.1").AsSlice())
	keySix  = string(netip.MustParseAddr("2001:db8::1").AsSlice())
)

// TestDynamicKept: what is in a dynamic set stays while rules change and while
// the set is wanted as it is, and goes with it.
func TestDynamicKept(t *testing.T) {
	k := newKernel(t)
	want := dynamicRules()
	k.write(want)
	if k.has(want.Dynamic[0], keyPair) || k.has(want.Dynamic[1], keySix) {
		t.Fatal("a new set is not empty")
	}
	k.put(want.Dynamic[0], keyPair)
	k.put(want.Dynamic[1], keySix)
	check := func(what string, first, second bool) {
		t.Helper()
		if got := k.has(want.Dynamic[0], keyPair); got != first {
			t.Errorf("%s: the first set's element: %v, wanted %v", what, got, first)
		}
		if got := k.has(want.Dynamic[1], keySix); got != second {
			t.Errorf("%s: the second set's element: %v, wanted %v", what, got, second)
		}
	}
	check("filled", true, true)
	if s := k.read(); !s.Satisfies(want) || len(s.Commands(want)) > 0 {
		t.Error("elements are taken for a difference")
	}

	more := dynamicRules()
	more.Chains[0].Rules = slices.Insert(more.Chains[0].Rules, 0, Rule{Match{Field: Protocol, Values: []Value{udp}}, Verdict{Kind: Return}})
	more.Chains[1].Rules = nil
	k.write(more)
	check("other rules", true, true)
	k.write(want)
	check("the first rules", true, true)

	wider := dynamicRules()
	wider.Dynamic[0].Size *= 2
	commands := strings.Join(k.read().Commands(wider), "\n")
	if strings.Contains(commands, "domain-test {") || strings.Contains(commands, "other") {
		t.Errorf("another size of one set:\n%s", commands)
	}
	k.write(wider)
	check("another size of the first", false, true)

	none := dynamicRules()
	none.Dynamic, none.Chains[0].Rules = nil, nil
	if s := k.read(); s.Satisfies(none) {
		t.Error("sets that nobody wants satisfy")
	}
	k.write(none)
	if got := k.elements(ruleSets); got != 0 {
		t.Errorf("%d elements are left", got)
	}
	k.write(want)
	check("wanted again", false, false)
}

// TestDynamicLost: a dynamic set that somebody deleted, or made anew in
// another way, is missed and put back.
func TestDynamicLost(t *testing.T) {
	k := newKernel(t)
	want := dynamicRules()
	k.write(want)
	k.nft("flush chain inet multiroute learn; delete set inet multiroute domain-test; add set inet multiroute domain-test { type ipv6_addr; flags timeout; }")
	if got := k.read().Missing(want); len(got) < 2 || got[0] != "set domain-test: definition" {
		t.Errorf("missing: %q", got)
	}
	k.write(want)
	k.nft("flush chain inet multiroute learn; delete set inet multiroute sticky-test")
	if got := k.read().Missing(want); len(got) < 2 || got[0] != "set sticky-test" {
		t.Errorf("missing: %q", got)
	}
	k.write(want)
}

// TestDynamicUnled: a set can be made anew although the last rule of a chain leads
// to it, and the rules before that one stay.
func TestDynamicUnled(t *testing.T) {
	k := newKernel(t)
	want := dynamicRules()
	rules := want.Chains[0].Rules
	want.Chains[0].Rules = []Rule{rules[1], rules[0]}
	k.write(want)
	want = dynamicRules()
	want.Dynamic[0].Size *= 2
	want.Chains[0].Rules, want.Chains[1].Rules = []Rule{rules[1]}, []Rule{rules[0]}
	k.write(want)
	if !k.read().Satisfies(want) {
		t.Errorf("missing: %q", k.read().Missing(want))
	}
}

// TestDynamicListing: nft(8) reads our text and commands, and lists what we
// write like what it makes of them.
func TestDynamicListing(t *testing.T) {
	for _, d := range []time.Duration{time.Second, time.Minute, 61 * time.Minute, 7 * 24 * time.Hour} {
		ours, text, commands := newKernel(t), newKernel(t), newKernel(t)
		want := dynamicRules()
		want.Dynamic[1].Timeout = d
		ours.write(want)
		text.nft(want.String())
		commands.nft(strings.Join(State{}.Commands(want), "\n"))
		if diff := cmp.Diff(listing(text), listing(ours)); diff != "" {
			t.Errorf("%v (-as nft loads our text +as we write it):\n%s", d, diff)
		}
		if diff := cmp.Diff(listing(commands), listing(ours)); diff != "" {
			t.Errorf("%v (-by the commands +as we write it):\n%s", d, diff)
		}
	}
}
