package nat

import (
	"slices"
	"strings"
)

// nearby finds the elements of several fields that could overlap another one:
// by the field that most likely tells them apart, the longest.
type nearby struct {
	apart []nearbySpan // in order; they do not overlap
	rest  []int        // indexes of the elements that overlap one of apart, and are not equal to it, in that field
}

// nearbySpan is a range of that field and the indexes of the elements that have
// it.
type nearbySpan struct {
	span
	elements []int
}

// join adds what the part's varying fields may be to all, as elements, but for
// what an earlier one covers; false if they cannot be looked up with the others.
func (x *nearby) join(all []Element, p part, varying []int) ([]Element, bool) {
	total := 1
	lists := make([]partField, len(varying))
	for i, v := range varying {
		lists[i] = p.fields[v]
		if total *= len(lists[i].spans); total+len(all) > maxTogether {
			return nil, false
		}
	}
	key := longest(lists)
	before := len(all)
	for n := range total {
		e := Element{Verdict: p.verdict}
		for _, f := range lists {
			s := f.spans[n%len(f.spans)]
			e.Lo += s.lo
			e.Hi += s.hi
			n /= len(f.spans)
		}
		covered := false
		for _, i := range x.near(key.of(e)) {
			switch o := all[i]; {
			case !overlap(o, e, lists):
			case covers(o, e, lists): // an earlier rule's: this one is never reached
				covered = true
			default:
				return nil, false
			}
		}
		if !covered {
			all = append(all, e)
		}
	}
	for i := before; i < len(all); i++ {
		x.add(key.of(all[i]), i)
	}
	return all, true
}

// place is where one field's value stands in an element's.
type place struct{ from, to int }

func (k place) of(e Element) span { return span{e.Lo[k.from:k.to], e.Hi[k.from:k.to]} }

func longest(fields []partField) place {
	var best place
	at := 0
	for _, f := range fields {
		if n := fieldBytes(f.field); n > best.to-best.from {
			best = place{at, at + n}
		}
		at += fieldBytes(f.field)
	}
	return best
}

// near returns the indexes of the elements that may overlap one with s.
func (x *nearby) near(s span) []int {
	found := x.rest
	for _, a := range x.apart[x.behind(s.lo):] {
		if a.lo > s.hi {
			break
		}
		found = append(slices.Clip(found), a.elements...)
	}
	return found
}

func (x *nearby) add(s span, element int) {
	i := x.behind(s.lo)
	switch {
	case i == len(x.apart) || x.apart[i].lo > s.hi:
		x.apart = slices.Insert(x.apart, i, nearbySpan{s, []int{element}})
	case x.apart[i].span == s:
		x.apart[i].elements = append(x.apart[i].elements, element)
	default:
		x.rest = append(x.rest, element)
	}
}

// behind returns the index of the first range that does not end before lo.
func (x *nearby) behind(lo string) int {
	i, _ := slices.BinarySearchFunc(x.apart, lo, func(o nearbySpan, lo string) int { return strings.Compare(o.hi, lo) })
	return i
}

// overlap reports whether some packet is in both elements.
func overlap(a, b Element, fields []partField) bool {
	at := 0
	for _, f := range fields {
		end := at + fieldBytes(f.field)
		if a.Lo[at:end] > b.Hi[at:end] || b.Lo[at:end] > a.Hi[at:end] {
			return false
		}
		at = end
	}
	return true
}

// covers reports whether all of b is in a.
func covers(a, b Element, fields []partField) bool {
	at := 0
	for _, f := range fields {
		end := at + fieldBytes(f.field)
		if a.Lo[at:end] > b.Lo[at:end] || b.Hi[at:end] > a.Hi[at:end] {
			return false
		}
		at = end
	}
	return true
}
