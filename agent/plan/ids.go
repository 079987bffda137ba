package plan

import (
	"maps"

	"multiroute/agent/config"
)

// IDs gives every uplink and policy a small number, its mark and table. Both
// kinds share one range, from 1 to what the mark mask holds.
type IDs struct {
	Uplinks  map[string]int `json:"uplinks"`
	Policies map[string]int `json:"policies"`
}

// Assign returns ids for everything in c. Names in have keep theirs, whatever
// the order of the configuration; new ones get the lowest number that is free
// now and was free before, so that no connection of a removed uplink can pass
// for one of a new uplink's. Only when nothing else is left are numbers of
// removed names given out at once.
func Assign(have IDs, c *config.Config) IDs {
	limit := int(c.Router.MarkMask >> shift(c.Router.MarkMask))
	all := policies(c)
	ids := IDs{Uplinks: map[string]int{}, Policies: map[string]int{}}
	taken, before := map[int]bool{}, map[int]bool{}
	for _, m := range []map[string]int{have.Uplinks, have.Policies} {
		for _, id := range m {
			before[id] = true
		}
	}
	keep := func(from, to map[string]int, name string) {
		if id, ok := from[name]; ok && id >= 1 && id <= limit && !taken[id] {
			to[name], taken[id] = id, true
		}
	}
	for _, u := range c.Uplinks {
		keep(have.Uplinks, ids.Uplinks, u.Name)
	}
	for _, p := range all {
		keep(have.Policies, ids.Policies, p.Name)
	}
	give := func(to map[string]int, name string) {
		if _, ok := to[name]; ok {
			return
		}
		for _, avoid := range []bool{true, false} {
			for id := 1; id <= limit; id++ {
				if !taken[id] && !(avoid && before[id]) {
					to[name], taken[id] = id, true
					return
				}
			}
		}
	}
	for _, u := range c.Uplinks {
		give(ids.Uplinks, u.Name)
	}
	for _, p := range all {
		give(ids.Policies, p.Name)
	}
	return ids
}

// Equal reports whether both hold the same numbers.
func (i IDs) Equal(o IDs) bool {
	return maps.Equal(i.Uplinks, o.Uplinks) && maps.Equal(i.Policies, o.Policies)
}
