package nat

import (
	"fmt"
	"hash/fnv"
	"iter"
)

// A long list of one field is many short sets, pieces, and a map that leads to
// the one where a value can be. What changes one element writes one piece and
// that map, whatever the length: where a piece ends is decided by its own
// elements, so the others stay as they are, and so do their names.

// maxWhole is how long a set of one field may be in one piece.
const maxWhole = 2048

// A piece has at least minPiece elements, and ends behind one in cutOf, or with
// the last that maxPiece allows. Longer ones take longer to write, and more of
// them longer to read.
const (
	minPiece = 512
	cutOf    = 256
	maxPiece = 2048
)

// listChain is how the names of the chains begin that look into a piece. The
// rest says what is in it.
const listChain = "list-"

// long reports whether a set with that many elements of a field is in pieces.
// Only fields whose values have an order are.
func long(f Field, elements int) bool { return elements > maxWhole && ordered(f) }

// pieces makes a long set's look-up: the value's piece is found and looked into,
// and what is not in it goes on in the chain rest. (A jump would come back here
// from a policy's chain, too.) What is in a set without verdicts takes v.
func (c *chosen) pieces(s Set, v Verdict, rest string) Lookup {
	top := Set{Fields: s.Fields, Verdicts: true}
	for list := range pieces(s.Elements) {
		rule := Rule{c.lookup(Set{Fields: s.Fields, Verdicts: s.Verdicts, Elements: list})}
		if !s.Verdicts {
			rule = append(rule, v)
		}
		chain := Chain{Rules: []Rule{rule, {Verdict{Goto, rest}}}}
		h := fnv.New64a()
		for _, r := range chain.Rules {
			fmt.Fprintln(h, r)
		}
		chain.Name = fmt.Sprintf("%s%016x", listChain, h.Sum64())
		c.chains = append(c.chains, chain) // no other has this rest
		top.Elements = append(top.Elements, Element{list[0].Lo, list[len(list)-1].Hi, Verdict{Goto, chain.Name}})
	}
	return c.lookup(top)
}

// pieces cuts elements behind those whose own value says so: what comes and goes
// elsewhere moves no cut, and what moves one moves the next few at most.
func pieces(all []Element) iter.Seq[[]Element] {
	return func(yield func([]Element) bool) {
		for len(all) > 0 {
			n := min(len(all), minPiece)
			for n < min(len(all), maxPiece) && !cutBehind(all[n-1].Lo) {
				n++
			}
			if !yield(all[:n:n]) {
				return
			}
			all = all[n:]
		}
	}
}

func cutBehind(lo string) bool {
	h := fnv.New64a()
	h.Write([]byte(lo))
	x := h.Sum64()
	return (x^x>>32)%cutOf == 0
}
