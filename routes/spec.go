package routes

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Protocol is the routing protocol number on everything we own. It is not
// assigned in iproute2's rt_protos.
const Protocol = 77

// Family is an address family, with the kernel's numbers.
type Family uint8

// The two families (linux/socket.h).
const (
	IPv4 Family = 2
	IPv6 Family = 10
)

// FamilyOf returns the family of a. IPv4-mapped IPv6 addresses count as IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Name returns "IPv4" or "IPv6", for people.
func (f Family) Name() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// String returns the ip(8) option that selects f.
func (f Family) String() string {
	if f == IPv4 {
		return "-4"
	}
	return "-6"
}

// Default returns the prefix that matches every address of the family.
func (f Family) Default() netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// TableMain is the kernel's main routing table (linux/rtnetlink.h).
const TableMain = 254

// Rule is one policy rule. The zero value of a selector means "any".
type Rule struct {
	Family   Family
	Priority int
	Mark     uint32 // compared under Mask; ignored while Mask is 0
	Mask     uint32
	From     netip.Prefix
	Table    int
	// SuppressDefault skips the table's default route: a route that is found
	// must be longer than /0. The library drops this for tables >= 256, so it
	// is only used with TableMain.
	SuppressDefault bool
	// Goto is the priority at which to go on instead of looking a table up; 0:
	// look Table up. A rule that leads nowhere is skipped by the kernel.
	Goto int
	// Forwarded chooses packets that are not the router's own.
	Forwarded bool
	// Unreachable answers "unreachable" instead of looking Table (0) up.
	Unreachable bool
}

// String prints the rule as the arguments of "ip rule add".
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip %s rule pref %d", r.Family, r.Priority)
	if r.Forwarded {
		b.WriteString(" not iif lo")
	}
	if r.From.IsValid() {
		fmt.Fprintf(&b, " from %s", r.From)
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	switch {
	case r.Goto != 0:
		fmt.Fprintf(&b, " goto %d", r.Goto)
	case r.Unreachable:
		b.WriteString(" unreachable")
	default:
		fmt.Fprintf(&b, " lookup %s", tableName(r.Table))
	}
	if r.SuppressDefault {
		b.WriteString(" suppress_prefixlength 0")
	}
	fmt.Fprintf(&b, " proto %d", Protocol)
	return b.String()
}

func tableName(t int) string {
	if t == TableMain {
		return "main"
	}
	return fmt.Sprint(t)
}

// MetricLast is the metric of a route that is used only when nothing else in
// its table matches. IPv4 would take the largest number too; this one is kept
// below the kernel's own IPv6 unreachable default (4294967295).
const MetricLast = 4278198272

// Metric6 is the metric the kernel gives an IPv6 route that asks for none
// (IP6_RT_PRIO_USER); naming it keeps written and read routes equal.
const Metric6 = 1024

// Nexthop is one way out of a route.
type Nexthop struct {
	Gateway   netip.Addr // invalid: point to point
	Interface string     // for people
	Index     int        // for the kernel
	Weight    int        // 1..256; 1 where there is only one
	OnLink    bool       // the gateway need not be in a subnet of the interface
}

// String prints the nexthop as ip(8) does.
func (n Nexthop) String() string {
	var b strings.Builder
	if n.Gateway.IsValid() {
		fmt.Fprintf(&b, "via %s ", n.Gateway)
	}
	fmt.Fprintf(&b, "dev %s", n.Interface)
	if n.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// Route is one route in one of our tables.
type Route struct {
	Family      Family
	Table       int
	Dst         netip.Prefix
	Metric      uint32
	Source      netip.Addr // preferred source of the router's own packets; invalid: the kernel's choice
	Unreachable bool       // answer "unreachable"; no nexthops then
	Blackhole   bool       // drop in silence; no nexthops then
	Nexthops    []Nexthop
}

// routeKey is what the kernel replaces a route by.
type routeKey struct {
	Family Family
	Table  int
	Dst    netip.Prefix
	Metric uint32
}

func (r Route) key() routeKey { return routeKey{r.Family, r.Table, r.Dst, r.Metric} }

// Equal reports whether two routes are the same for the kernel.
func (r Route) Equal(o Route) bool {
	return r.key() == o.key() && r.Source == o.Source && r.Unreachable == o.Unreachable && r.Blackhole == o.Blackhole &&
		slices.EqualFunc(r.Nexthops, o.Nexthops, func(a, b Nexthop) bool {
			return a.Gateway == b.Gateway && a.Index == b.Index && a.Weight == b.Weight && a.OnLink == b.OnLink
		})
}

// String prints the route as the arguments of "ip route replace".
func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip %s route", r.Family)
	if r.Unreachable {
		b.WriteString(" unreachable")
	}
	if r.Blackhole {
		b.WriteString(" blackhole")
	}
	if r.Dst.Bits() == 0 {
		b.WriteString(" default")
	} else {
		fmt.Fprintf(&b, " %s", r.Dst)
	}
	if len(r.Nexthops) == 1 {
		fmt.Fprintf(&b, " %s", r.Nexthops[0])
	}
	fmt.Fprintf(&b, " table %d", r.Table)
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	fmt.Fprintf(&b, " proto %d", Protocol)
	if len(r.Nexthops) > 1 {
		for _, n := range r.Nexthops {
			fmt.Fprintf(&b, " nexthop %s weight %d", n, n.Weight)
		}
	}
	return b.String()
}

// Spec is all routing that should exist. It is plain data. Routes are in the
// order in which they may be changed (see Diff); the order of Rules does not
// matter.
type Spec struct {
	Rules  []Rule
	Routes []Route
}

// String prints the whole state, sorted, one "ip" line each.
func (s Spec) String() string {
	rules, routes := slices.Clone(s.Rules), slices.Clone(s.Routes)
	slices.SortFunc(rules, compareRules)
	slices.SortFunc(routes, compareRoutes)
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintln(&b, r)
	}
	for _, r := range routes {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func compareRules(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority),
		cmp.Compare(a.Mark, b.Mark), comparePrefixes(a.From, b.From), cmp.Compare(a.Table, b.Table), cmp.Compare(b.Mask, a.Mask))
}

func compareRoutes(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table),
		comparePrefixes(a.Dst, b.Dst), cmp.Compare(a.Metric, b.Metric))
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
