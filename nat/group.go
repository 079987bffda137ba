package nat

import (
	"slices"
	"strings"
)

// group is neighbouring parts with the same fields, which become one look-up:
// one rule in the kernel, however many they are. Fields that are the same in all
// of them are compared before it.
type group struct {
	parts   []part
	varying []int // which of the fields are not the same in all parts
	// elements are what the varying fields are looked up in. No two overlap:
	// of one varying field, the first rule's range stays and is cut out of the
	// later ones'; of several fields, what would overlap is no part of the group.
	elements []Element
	near     nearby // the elements of several fields
}

// A concatenation's limits: registers of 4 bytes (NFT_REG32_NUM), types that
// nft(8) can name, and how many elements are worth looking for overlaps.
const (
	maxRegisters = 16
	maxFields    = 5
	maxTogether  = 4096
)

// join adds a part to the last group that it fits in and may be moved up to, or
// makes a new one of it.
func join(groups []*group, p part) []*group {
	for _, g := range slices.Backward(groups) {
		if g.add(p) {
			return groups
		}
		if !g.commutes(p) {
			break
		}
	}
	return append(groups, newGroup(p))
}

func newGroup(p part) *group { return &group{parts: []part{p}} }

// commutes reports whether it is all the same if the part comes before the
// group: no packet matches both, or it does not matter which.
func (g *group) commutes(p part) bool {
	return g.parts[0].family != 0 && p.family != 0 && g.parts[0].family != p.family ||
		!slices.ContainsFunc(g.parts, func(o part) bool { return o.verdict != p.verdict })
}

// add adds a part; false if it does not fit in.
func (g *group) add(p part) bool {
	first := g.parts[0]
	if len(p.fields) != len(first.fields) {
		return false
	}
	var varying []int
	for i, f := range p.fields {
		if f.field != first.fields[i].field || f.set != first.fields[i].set {
			return false // what is in lists is not known here
		}
		if slices.Contains(g.varying, i) || !f.equal(first.fields[i]) {
			varying = append(varying, i)
		}
	}
	if len(varying) == 0 {
		return true // an earlier part matches all that this one does
	}
	if !fits(first, varying) {
		return false
	}
	elements, near, todo := g.elements, g.near, []part{p}
	if len(varying) != len(g.varying) {
		elements, near, todo = nil, nearby{}, append(slices.Clip(g.parts), p)
	}
	for _, t := range todo {
		if len(varying) == 1 {
			elements = cut(elements, t.fields[varying[0]].spans, t.verdict)
			continue
		}
		var ok bool
		if elements, ok = near.join(elements, t, varying); !ok {
			return false
		}
	}
	g.parts, g.varying, g.elements, g.near = append(g.parts, p), varying, elements, near
	return true
}

// fits reports whether the varying fields can be looked up, in a way that
// nft(8) lists right: it shifts a DSCP in a set, and turns users' numbers round
// among ranges of other fields. A family does not vary without addresses.
func fits(p part, varying []int) bool {
	size := 0
	for _, i := range varying {
		switch f := p.fields[i].field; {
		case f == DSCP4, f == DSCP6, f == IPv6, f == SocketUID && len(varying) > 1:
			return false
		default:
			size += registers(f)
		}
	}
	return len(varying) == 1 || len(varying) <= maxFields && size <= maxRegisters
}

// cut adds what of the ranges is not covered yet; they do not overlap each
// other. The elements stay in order.
func cut(all []Element, list []span, v Verdict) []Element {
	var pieces []Element
	for _, s := range list {
		pieces = append(pieces, uncovered(all, Element{s.lo, s.hi, v})...)
	}
	if len(pieces) > 16 {
		all = append(all, pieces...)
		slices.SortFunc(all, func(a, b Element) int { return strings.Compare(a.Lo, b.Lo) })
		return all
	}
	for _, e := range pieces {
		all = slices.Insert(all, behind(all, e.Lo), e)
	}
	return all
}

// behind returns the index of the first element that does not end before lo.
func behind(all []Element, lo string) int {
	i, _ := slices.BinarySearchFunc(all, lo, func(o Element, lo string) int { return strings.Compare(o.Hi, lo) })
	return i
}

// uncovered returns what of e is in none of the elements.
func uncovered(all []Element, e Element) []Element {
	var pieces []Element
	lo := e.Lo
	for _, o := range all[behind(all, lo):] {
		if o.Lo > e.Hi {
			break
		}
		if lo < o.Lo {
			pieces = append(pieces, Element{lo, predecessor(o.Lo), e.Verdict})
		}
		if o.Hi >= e.Hi {
			return pieces
		}
		next, _ := successor(o.Hi)
		lo = string(next)
	}
	return append(pieces, Element{lo, e.Hi, e.Verdict})
}

// predecessor returns the number before lo, which is not 0.
func predecessor(lo string) string {
	b := []byte(lo)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return string(b)
}
