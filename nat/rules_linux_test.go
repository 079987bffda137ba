package nat

import (
	"testing"
	"time"

	"github.com/google/nftables"
)

func ruleSets(s *nftables.Set) bool { return !s.Anonymous }

// TestKernelRules: a thousand rules of each shape, and a hundred thousand
// prefixes, arrive whole and stay as they are while other rules change.
func TestKernelRules(t *testing.T) {
	for _, c := range []struct {
		name     string
		rules    []PolicyRule
		elements int // as the library counts them: two for a range of one field
	}{
		{"from", manyRules("from", 1000), 1000},
		{"to", manyRules("to", 1000), 2000},
		{"from . port", manyRules("from . port", 1000), 1000},
		{"to . ports", manyRules("to . ports", 1000), 3000},
		{"prefixes", []PolicyRule{{To: manyPrefixes(20000, 0), Policy: markOf(10)}}, 40000},
		{"prefixes of two rules", []PolicyRule{{To: manyPrefixes(10000, 0), Policy: markOf(10)}, {To: manyPrefixes(10000, 1), Policy: markOf(11)}}, 40000},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t)
			want := Compile(ruleSpec(c.rules...))
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
