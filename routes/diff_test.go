package routes

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addr(text string) netip.Addr     { return netip.MustParseAddr(text) }
func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func hop(gateway, iface string, index, weight int) Nexthop {
	h := Nexthop{Interface: iface, Index: index, Weight: weight}
	if gateway != "" {
		h.Gateway = addr(gateway)
	}
	return h
}

func defaultVia(table int, hops ...Nexthop) Route {
	return Route{Family: IPv4, Table: table, Dst: IPv4.Default(), Nexthops: hops}
}

func fwmark(priority int, mark uint32, table int) Rule {
	return Rule{Family: IPv4, Priority: priority, Mark: mark, Mask: 0xff000000, Table: table}
}

var (
	dsl   = hop("198.18.1.1", "eth1", 11, 1)
	cable = hop("198.18.2.1", "eth2", 12, 1)
)

func weighted(h Nexthop, weight int) Nexthop { h.Weight = weight; return h }

func texts(ops []Op) []string {
	var all []string
	for _, op := range ops {
		all = append(all, op.String())
	}
	return all
}

func TestDiff(t *testing.T) {
	house := Spec{
		Rules:  []Rule{fwmark(10200, 1<<24, 20001), {Family: IPv4, Priority: 32765, Table: 20009}},
		Routes: []Route{defaultVia(20001, dsl), defaultVia(20009, weighted(dsl, 3), cable), {Family: IPv4, Table: 20009, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}},
	}
	for _, c := range []struct {
		name       string
		have, want Spec
		ops        []string
	}{
		{"nothing", Spec{}, Spec{}, nil},
		{"the same", house, house, nil},
		{"the same in another order", house, Spec{Rules: reversed(house.Rules), Routes: reversed(house.Routes)}, nil},
		{"all new: routes first", Spec{}, house, []string{
			"ip -4 route replace default via 198.18.1.1 dev eth1 table 20001 proto 77",
			"ip -4 route replace default table 20009 proto 77 nexthop via 198.18.1.1 dev eth1 weight 3 nexthop via 198.18.2.1 dev eth2 weight 1",
			"ip -4 route replace unreachable default table 20009 metric 4278198272 proto 77",
			"ip -4 rule add pref 10200 fwmark 0x1000000/0xff000000 lookup 20001 proto 77",
			"ip -4 rule add pref 32765 lookup 20009 proto 77",
		}},
		{"all gone: rules first", house, Spec{}, []string{
			"ip -4 rule del pref 10200 fwmark 0x1000000/0xff000000 lookup 20001 proto 77",
			"ip -4 rule del pref 32765 lookup 20009 proto 77",
			"ip -4 route del default via 198.18.1.1 dev eth1 table 20001 proto 77",
			"ip -4 route del default table 20009 proto 77 nexthop via 198.18.1.1 dev eth1 weight 3 nexthop via 198.18.2.1 dev eth2 weight 1",
			"ip -4 route del unreachable default table 20009 metric 4278198272 proto 77",
		}},
		{"another gateway: replaced", Spec{Routes: []Route{defaultVia(20001, dsl)}}, Spec{Routes: []Route{defaultVia(20001, hop("198.18.1.254", "eth1", 11, 1))}},
			[]string{"ip -4 route replace default via 198.18.1.254 dev eth1 table 20001 proto 77"}},
		{"another weight: replaced", Spec{Routes: []Route{defaultVia(20009, dsl, cable)}}, Spec{Routes: []Route{defaultVia(20009, dsl, weighted(cable, 2))}},
			[]string{"ip -4 route replace default table 20009 proto 77 nexthop via 198.18.1.1 dev eth1 weight 1 nexthop via 198.18.2.1 dev eth2 weight 2"}},
		{"a nexthop less: replaced", Spec{Routes: []Route{defaultVia(20009, dsl, cable)}}, Spec{Routes: []Route{defaultVia(20009, cable)}},
			[]string{"ip -4 route replace default via 198.18.2.1 dev eth2 table 20009 proto 77"}},
		{"another table for a mark: never a moment without", Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001)}}, Spec{Rules: []Rule{fwmark(10200, 1<<24, 20002)}},
			[]string{"ip -4 rule add pref 10200 fwmark 0x1000000/0xff000000 lookup 20002 proto 77", "ip -4 rule del pref 10200 fwmark 0x1000000/0xff000000 lookup 20001 proto 77"}},
		{"a rule twice: one goes", Spec{Rules: []Rule{fwmark(1, 1<<24, 2), fwmark(1, 1<<24, 2)}}, Spec{Rules: []Rule{fwmark(1, 1<<24, 2)}},
			[]string{"ip -4 rule del pref 1 fwmark 0x1000000/0xff000000 lookup 2 proto 77"}},
		{"a rule three times, unwanted: all go", Spec{Rules: []Rule{fwmark(1, 1<<24, 2), fwmark(1, 1<<24, 2), fwmark(1, 1<<24, 2)}}, Spec{},
			slices.Repeat([]string{"ip -4 rule del pref 1 fwmark 0x1000000/0xff000000 lookup 2 proto 77"}, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.ops, texts(Diff(c.have, c.want))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if lost := Missing(c.have, c.want); (len(lost) == 0) != !slices.ContainsFunc(c.ops, func(o string) bool { return !strings.Contains(o, " del ") }) {
				t.Errorf("missing: %q", lost)
			}
		})
	}
}

func reversed[T any](s []T) []T { s = slices.Clone(s); slices.Reverse(s); return s }

// TestDiffPure: neither argument is written to, and equal input gives equal output.
func TestDiffPure(t *testing.T) {
	have := Spec{Rules: []Rule{fwmark(3, 1, 1), fwmark(1, 1, 1)}, Routes: []Route{defaultVia(3, cable), defaultVia(1, dsl)}}
	want := Spec{Rules: []Rule{fwmark(4, 1, 1), fwmark(2, 1, 1)}, Routes: []Route{defaultVia(4, cable), defaultVia(2, dsl)}}
	before := []Rule{have.Rules[0], want.Rules[0]}
	first := texts(Diff(have, want))
	if got := texts(Diff(have, want)); !slices.Equal(got, first) {
		t.Errorf("second time %q, first time %q", got, first)
	}
	if have.Rules[0] != before[0] || want.Rules[0] != before[1] {
		t.Error("an argument was sorted")
	}
}

func TestStrings(t *testing.T) {
	six := addr("fe80::1")
	for _, c := range []struct {
		want string
		got  string
	}{
		{"ip -4 rule pref 10000 lookup main suppress_prefixlength 0 proto 77", Rule{Family: IPv4, Priority: 10000, Table: TableMain, SuppressDefault: true}.String()},
		{"ip -6 rule pref 10300 from 2001:db8::1/128 lookup 20001 proto 77", Rule{Family: IPv6, Priority: 10300, From: prefix("2001:db8::1/128"), Table: 20001}.String()},
		{"ip -6 route default via fe80::1 dev eth1 table 20001 metric 1024 proto 77", Route{Family: IPv6, Table: 20001, Dst: IPv6.Default(), Metric: Metric6, Nexthops: []Nexthop{{Gateway: six, Interface: "eth1", Weight: 1}}}.String()},
		{"ip -4 route default via 10.0.0.1 dev eth1 onlink table 1 proto 77", defaultVia(1, Nexthop{Gateway: addr("10.0.0.1"), Interface: "eth1", OnLink: true, Weight: 1}).String()},
		{"ip -4 route default dev ppp0 table 1 proto 77", defaultVia(1, hop("", "ppp0", 3, 1)).String()},
		{"ip -4 route 9.9.9.9/32 via 198.18.1.1 dev eth1 table 1 src 192.168.0.1 proto 77", Route{Family: IPv4, Table: 1, Dst: prefix("9.9.9.9/32"), Source: addr("192.168.0.1"), Nexthops: []Nexthop{dsl}}.String()},
		{"ip -4 route blackhole default table 1 proto 77", Route{Family: IPv4, Table: 1, Dst: IPv4.Default(), Blackhole: true}.String()},
		{"ip -4 route del unreachable default table 1 metric 5 proto 77", Op{Verb: Delete, Route: &Route{Family: IPv4, Table: 1, Dst: IPv4.Default(), Metric: 5, Unreachable: true}}.String()},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

func TestEqual(t *testing.T) {
	one := defaultVia(1, dsl, cable)
	for name, change := range map[string]func(*Route){
		"table":       func(r *Route) { r.Table = 2 },
		"family":      func(r *Route) { r.Family = IPv6 },
		"destination": func(r *Route) { r.Dst = prefix("10.0.0.0/8") },
		"metric":      func(r *Route) { r.Metric = 1 },
		"source":      func(r *Route) { r.Source = addr("10.0.0.1") },
		"unreachable": func(r *Route) { r.Unreachable = true },
		"blackhole":   func(r *Route) { r.Blackhole = true },
		"gateway":     func(r *Route) { r.Nexthops[1].Gateway = addr("10.0.0.1") },
		"interface":   func(r *Route) { r.Nexthops[1].Index++ },
		"weight":      func(r *Route) { r.Nexthops[1].Weight++ },
		"onlink":      func(r *Route) { r.Nexthops[1].OnLink = true },
		"fewer":       func(r *Route) { r.Nexthops = r.Nexthops[:1] },
	} {
		other := one
		other.Nexthops = slices.Clone(one.Nexthops)
		change(&other)
		if one.Equal(other) || other.Equal(one) {
			t.Errorf("another %s is equal", name)
		}
	}
	named := one
	named.Nexthops = slices.Clone(one.Nexthops)
	named.Nexthops[0].Interface = "if11"
	if !one.Equal(named) {
		t.Error("the name of an interface is for people only")
	}
}
