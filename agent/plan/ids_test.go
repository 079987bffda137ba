package plan

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/config"
)

// names makes a configuration of uplinks with these names, and the policy
// "default".
func names(mask uint32, uplinks ...string) *config.Config {
	c := &config.Config{Router: config.Router{MarkMask: mask}, Policies: []config.Policy{{Name: "default"}}}
	for _, n := range uplinks {
		c.Uplinks = append(c.Uplinks, config.Uplink{Name: n})
	}
	return c
}

func TestAssign(t *testing.T) {
	t.Parallel()
	ids := func(policy int, uplinks ...any) IDs {
		i := IDs{Uplinks: map[string]int{}, Policies: map[string]int{"default": policy}}
		for pair := range slices.Chunk(uplinks, 2) {
			i.Uplinks[pair[0].(string)] = pair[1].(int)
		}
		return i
	}
	const wide = 0xff000000
	tests := []struct {
		name string
		have IDs
		cfg  *config.Config
		want IDs
	}{
		{"first start", IDs{}, names(wide, "a", "b"), ids(3, "a", 1, "b", 2)},
		{"reordered", ids(3, "a", 1, "b", 2), names(wide, "b", "a"), ids(3, "a", 1, "b", 2)},
		{"one more, in front", ids(3, "a", 1, "b", 2), names(wide, "c", "a", "b"), ids(3, "a", 1, "b", 2, "c", 4)},
		{"one less", ids(3, "a", 1, "b", 2), names(wide, "b"), ids(3, "b", 2)},
		{"renamed: the old one's connections are not the new one's", ids(3, "a", 1, "b", 2), names(wide, "a2", "b"), ids(3, "a2", 4, "b", 2)},
		{"added again: its number is free", ids(3, "b", 2), names(wide, "a", "b"), ids(3, "a", 1, "b", 2)},
		{"a policy's number is no uplink's", ids(1), names(wide, "a"), ids(1, "a", 2)},
		{"two have one number: the first keeps it", ids(3, "a", 1, "b", 1), names(wide, "a", "b"), ids(3, "a", 1, "b", 2)},
		{"nonsense from the kernel", ids(-1, "a", 0, "b", 256), names(wide, "a", "b"), ids(3, "a", 1, "b", 2)},
		{"a mask of two bits is full", IDs{}, names(0x300, "a", "b"), ids(3, "a", 1, "b", 2)},
		{"a freed number, where nothing else is left", ids(3, "a", 1, "b", 2), names(0x300, "c", "b"), ids(3, "b", 2, "c", 1)},
		{"a narrower mask than before", ids(9, "a", 8, "b", 2), names(0x300, "a", "b"), ids(3, "a", 1, "b", 2)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Assign(tt.have, tt.cfg)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if !got.Equal(tt.want) || !tt.want.Equal(got) {
				t.Error("Equal disagrees")
			}
		})
	}
}

// Whatever is added, removed and reordered: everybody has a number that fits
// the mask, nobody shares one, nobody's changes, and a number that was just
// freed is given out only if there is no other.
func TestAssignProperties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, mask := range []uint32{0xff000000, 0x00000f00, 0x7, 0x80000000 | 0x40000000} {
		limit := 1<<bits.OnesCount32(mask) - 1
		have := IDs{}
		for step := range 300 {
			var list []string
			for len(list) < r.IntN(min(limit, 12)) {
				if n := fmt.Sprintf("u%d", r.IntN(20)); !slices.Contains(list, n) {
					list = append(list, n)
				}
			}
			got := Assign(have, names(mask, list...))
			used := map[int]string{}
			given := func(name string, id int) {
				t.Helper()
				if id < 1 || id > limit {
					t.Fatalf("mask %#x, step %d: %s has number %d", mask, step, name, id)
				}
				if o, ok := used[id]; ok {
					t.Fatalf("mask %#x, step %d: %s and %s share %d", mask, step, name, o, id)
				}
				used[id] = name
			}
			for n, id := range got.Uplinks {
				given("uplink "+n, id)
			}
			given("policy default", got.Policies["default"])
			if len(got.Uplinks) != len(list) {
				t.Fatalf("mask %#x, step %d: %d numbers for %d uplinks", mask, step, len(got.Uplinks), len(list))
			}
			freed := map[int]bool{}
			for n, id := range have.Uplinks {
				if now, ok := got.Uplinks[n]; ok && now != id {
					t.Fatalf("mask %#x, step %d: %s had %d, has %d", mask, step, n, id, now)
				} else if !ok {
					freed[id] = true
				}
			}
			for n, id := range got.Uplinks {
				if _, old := have.Uplinks[n]; !old && freed[id] && len(used)+len(freed) < limit {
					t.Fatalf("mask %#x, step %d: %s has %d, which was just freed", mask, step, n, id)
				}
			}
			have = got
		}
	}
}
