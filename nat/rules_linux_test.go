package nat

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

func ruleSets(s *nftables.Set) bool { return !s.Anonymous }

// TestKernelRules: a thousand rules of each shape, and a hundred thousand
// prefixes, arrive whole and stay as they are while other rules change.
func TestKernelRules(t *testing.T) {
	for _, c := range []struct {
		name     string
		rules    []PolicyRule
		elements int // as the library counts them: two for a range of one field; 0: all of what is in pieces
	}{
		{"from", manyRules("from", 1000), 1000},
		{"to", manyRules("to", 1000), 2000},
		{"from . port", manyRules("from . port", 1000), 1000},
		{"to . ports", manyRules("to . ports", 1000), 3000},
		{"prefixes", []PolicyRule{{To: manyPrefixes(20000, 0), Policy: markOf(10)}}, 0},
		{"prefixes of two rules", []PolicyRule{{To: manyPrefixes(10000, 0), Policy: markOf(10)}, {To: manyPrefixes(10000, 1), Policy: markOf(11)}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t)
			want := Compile(ruleSpec(c.rules...))
			if c.elements == 0 {
				c.elements = kernelElements(want)
			}
			start := time.Now()
			k.write(want)
			t.Logf("written and read: %v", time.Since(start))
			// Dumps of long sets are what nobody should do; here it is the question.
			got := k.elements(ruleSets)
			if got != c.elements && got != c.elements+1 { // and the kernel's end of everything before the first
				t.Errorf("%d elements, wanted %d", got, c.elements)
			}
			more := Compile(ruleSpec(append([]PolicyRule{{Protocols: []uint8{47}, Policy: markOf(11)}}, c.rules...)...))
			commands := k.read().Commands(more)
			t.Logf("one more rule: %d commands", len(commands))
			start = time.Now()
			k.write(more)
			t.Logf("one more rule: %v", time.Since(start))
			start = time.Now()
			k.write(Compile(separate()))
			t.Logf("no rules: %v", time.Since(start))
			if got := k.elements(ruleSets); got != 0 {
				t.Errorf("%d elements are left", got)
			}
		})
	}
}

// TestKernelRulesRandom: the kernel takes whatever rules become, instead of
// whatever they were, and lists what nft(8) makes of their text.
func TestKernelRulesRandom(t *testing.T) {
	k := newKernel(t)
	r := rand.New(rand.NewPCG(9, 10))
	for i := range 150 {
		spec := ruleSpec(randomRules(r)...)
		spec.Lists = testLists
		want := Compile(spec)
		if err := k.tryWrite(k.read(), want); err != nil {
			t.Fatalf("round %d: %v\n%s", i, err, want)
		}
		if s := k.read(); !s.Satisfies(want) || len(s.Missing(want)) > 0 {
			t.Fatalf("round %d: missing %v", i, s.Missing(want))
		}
		if i%5 > 0 {
			continue
		}
		ours, theirs := newKernel(t), newKernel(t)
		ours.write(want)
		theirs.nft(want.String())
		if strings.Contains(listing(theirs), "@th,0,32") {
			continue // nft(8) makes one comparison of two ports
		}
		if diff := cmp.Diff(listing(theirs), listing(ours)); diff != "" {
			t.Fatalf("round %d: listed (-as nft loads our text +as we write it):\n%s", i, diff)
		}
	}
}

// TestKernelRulesKept: a set that a rule of ours uses stays as it is; one that
// none uses may hold anything, and is written again.
func TestKernelRulesKept(t *testing.T) {
	k := newKernel(t)
	spec := ruleSpec(PolicyRule{To: manyPrefixes(2000, 0), Policy: markOf(10)})
	want := Compile(spec)
	set := want.Sets[0].Name
	k.write(want)
	spec.Rules[0].Policy = markOf(11)
	want = Compile(spec)
	if write, stale := k.read().setChanges(want); len(write)+len(stale) > 0 || want.Sets[0].Name != set {
		t.Errorf("another policy: %d sets are written again, %q deleted", len(write), stale)
	}
	k.write(want)

	mine := &nftables.Set{Table: ourTable(), Name: set, KeyType: nftables.TypeIPAddr, Interval: true}
	k.foreign.FlushSet(mine)
	if err := k.foreign.Flush(); err == nil {
		t.Error("somebody emptied a set that is in use")
	}
	k.foreign.FlushChain(&nftables.Chain{Name: rulesChain, Table: ourTable()})
	k.flush()
	k.foreign.FlushSet(mine)
	k.flush()
	s := k.read()
	if s.Satisfies(want) {
		t.Error("an emptied set satisfies")
	}
	if lost := s.Missing(want); len(lost) != 2 {
		t.Errorf("missing: %q, wanted the set and its rule", lost)
	}
	k.write(want)
	if got := k.elements(ruleSets); got != 4000 {
		t.Errorf("%d elements after mending, wanted 4000", got)
	}
}

// TestKernelRulesLoading: whoever dies while a long set is loaded leaves what
// the next one does not take for whole.
func TestKernelRulesLoading(t *testing.T) {
	want := Compile(ruleSpec(PolicyRule{To: manyPrefixes(20000, 0), Policy: markOf(10)}))
	transactions := len(difference(State{}, want))
	if transactions < 3 {
		t.Errorf("%d transactions, wanted at least 3", transactions)
	}
	for died := range transactions {
		k := newKernel(t)
		before := Compile(separate())
		k.write(before)
		for _, b := range difference(k.read(), want)[:died] {
			if err := k.table.commit("writing", b); err != nil {
				t.Fatal(err)
			}
		}
		s := k.read()
		if s.Satisfies(want) {
			t.Errorf("after %d transactions the kernel holds all", died)
		}
		if lost := s.Missing(before); len(lost) > 0 {
			t.Errorf("after %d transactions the kernel lacks what it had: %q", died, lost)
		}
		k.write(want)
		if got := k.elements(ruleSets); got != kernelElements(want) {
			t.Errorf("died after %d transactions: %d elements in the end, wanted %d", died, got, kernelElements(want))
		}
	}
}

// kernelElements counts elements as the library does.
func kernelElements(r Ruleset) int {
	n := 0
	for _, s := range r.Sets {
		for _, e := range s.Elements {
			if n++; e.Lo != e.Hi && len(s.Fields) == 1 {
				n++
			}
		}
	}
	return n
}
