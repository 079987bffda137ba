package routes

import (
	"net/netip"
	"slices"
	"testing"
)

// TestStageLastResort: the last resort of an uplink's table comes last where its
// connections may still have to find their way, whoever took the default away,
// and before the rules that lead there where it is new.
func TestStageLastResort(t *testing.T) {
	t.Parallel()
	rule := Rule{Family: IPv4, Priority: 10200, Mark: 1 << 24, Mask: 0xff000000, Table: 20001}
	last := Route{Family: IPv4, Table: 20001, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}
	via := Route{Family: IPv4, Table: 20001, Dst: IPv4.Default(), Nexthops: []Nexthop{{Gateway: netip.MustParseAddr("198.18.1.1"), Interface: "eth1", Index: 9}}}
	hole := last
	hole.Unreachable, hole.Blackhole = false, true
	rules := []Rule{rule}
	for _, c := range []struct {
		name       string
		have, want Spec
		last       bool
	}{
		{"we take the default away", Spec{rules, []Route{via}}, Spec{rules, []Route{last}}, true},
		{"the kernel did", Spec{rules, nil}, Spec{rules, []Route{last}}, true},
		{"it did, and there is another last resort", Spec{rules, []Route{hole}}, Spec{rules, []Route{last}}, true},
		{"the table is new", Spec{}, Spec{rules, []Route{last}}, false},
		{"beside a default", Spec{rules, []Route{via}}, Spec{rules, []Route{via, hole}}, false},
	} {
		s := Stage(Diff(c.have, c.want), c.want)
		resort := func(op Op) bool { return op.Verb == Replace && op.Route.Metric == MetricLast }
		if slices.ContainsFunc(s.Last, resort) != c.last || slices.ContainsFunc(s.Before, resort) == c.last || len(s.After) > 0 && !c.last {
			t.Errorf("%s: before %v, after %v, last %v", c.name, s.Before, s.After, s.Last)
		}
	}
}
