package nat

import (
	"net/netip"
	"slices"
)

// A list of addresses is two dynamic sets, one for each family.

// MaxListed bounds a list's addresses in each family: a name has few of them, and
// to empty the set the kernel makes a page of notification for each.
const MaxListed = 16384

// ListSet returns the name of the set with a list's addresses in one family.
func ListSet(list string, v6 bool) string {
	if v6 {
		return list + "6"
	}
	return list + "4"
}

// listSet is a list's set in one family.
func listSet(list string, v6 bool) Dynamic {
	return Dynamic{Name: ListSet(list, v6), Fields: []Field{destination(v6)}, Size: MaxListed}
}

// inList reports whether an address is in a list.
func inList(list string, a netip.Addr, holds func(set, key string) bool) bool {
	return holds != nil && holds(ListSet(list, a.Is6()), string(a.AsSlice()))
}

// withLists makes a part for each list; without any, it is the part itself.
func (p part) withLists(lists []string, v6 bool) []part {
	if len(lists) == 0 {
		return []part{p}
	}
	var all []part
	for _, list := range lists {
		one := p
		one.fields = append(slices.Clone(p.fields), partField{field: destination(v6), set: ListSet(list, v6)})
		all = append(all, one)
	}
	return all
}
