package routes

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForeignRule is a policy rule that is not ours; the kernel's own three are
// among them.
type ForeignRule struct {
	Family   Family
	Priority int
	Table    int // 0: it looks none up
	Mark     uint32
	Mask     uint32 // 0: the mark does not count
	Not      bool   // it holds for what does not match
	Narrow   bool   // it asks for more than the mark: addresses, interfaces, ports
	// NoDefault: routes of the table's that are as short as a default route do
	// not count (suppress_prefixlength).
	NoDefault bool
	// Default: the table has a default route that leads somewhere.
	Default  bool
	Protocol uint8
}

// String is the rule as the arguments of "ip rule", as far as it is known.
func (r ForeignRule) String() string {
	not := ""
	if r.Not {
		not = " not"
	}
	mark := ""
	if r.Mask != 0 {
		mark = fmt.Sprintf(" fwmark %#x/%#x", r.Mark, r.Mask)
	}
	more := ""
	if r.Narrow {
		more = " ..."
	}
	return fmt.Sprintf("ip %s rule pref %d%s%s%s lookup %s", r.Family, r.Priority, not, mark, more, tableName(r.Table))
}

// ForeignRules reads the policy rules that are not ours, in the order in which
// the kernel asks them.
func (k *Kernel) ForeignRules() ([]ForeignRule, error) {
	var all []ForeignRule
	for _, family := range k.families() {
		rules, err := k.rules(family)
		if err != nil {
			return nil, err
		}
		defaults := map[int]bool{}
		_, err = retry(func() (struct{}, error) {
			clear(defaults)
			return struct{}{}, k.strict.RouteListFilteredIter(int(family), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
				// Two halves of everything are a default route, too: what VPNs write.
				if prefixFromKernel(family, r.Dst).Bits() <= 1 && r.Type == unix.RTN_UNICAST {
					defaults[r.Table] = true
				}
				return true
			})
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("listing the routes of others (%s): %w", family, err)
		}
		for _, r := range rules {
			if r.Protocol == Protocol {
				continue
			}
			f := ForeignRule{Family: family, Priority: r.Priority, Table: r.Table, Mark: r.Mark, Not: r.Invert, Protocol: r.Protocol,
				Narrow:    r.Src != nil || r.Dst != nil || r.IifName != "" || r.OifName != "" || r.Tos != 0 || r.IPProto != 0 || r.Sport != nil || r.Dport != nil || r.UIDRange != nil || r.TunID != 0,
				NoDefault: r.SuppressPrefixlen >= 0, Default: defaults[r.Table]}
			if r.Mask != nil {
				f.Mask = *r.Mask
			} else if r.Mark != 0 {
				f.Mask = ^uint32(0)
			}
			all = append(all, f)
		}
	}
	return all, nil
}

// Feature is something that our rules and routes need of the kernel.
type Feature struct {
	Name   string
	Option string // the kernel's build option
}

// Probe returns the features that the kernel does not have. It switches the
// loopback interface on and leaves rules and routes behind: k must have been
// opened in a network namespace that is there for this alone.
func (k *Kernel) Probe() ([]Feature, error) {
	lo, err := k.h.LinkByName("lo")
	if err == nil {
		err = k.h.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("switching lo on: %w", err)
	}
	const table, mark, mask = 20001, 1 << 24, 0xff000000
	var missing []Feature
	try := func(f Feature, ops ...Op) {
		k.attempt = newAttempt()
		if err := k.Apply(ops); err != nil {
			missing = append(missing, f)
		}
	}
	hop := Nexthop{Index: lo.Attrs().Index, Interface: "lo", Weight: 1}
	heavy := hop
	heavy.Weight = 3
	for _, f := range k.families() {
		rules := "CONFIG_IP_MULTIPLE_TABLES"
		if f == IPv6 {
			rules = "CONFIG_IPV6_MULTIPLE_TABLES"
		}
		try(Feature{f.Name() + " policy rules on marks", rules}, Op{Verb: Add, Rule: &Rule{Family: f, Priority: 10200, Mark: mark, Mask: mask, Table: table}})
		try(Feature{f.Name() + " rules that leave out a default route", rules}, Op{Verb: Add, Rule: &Rule{Family: f, Priority: 10000, Table: TableMain, SuppressDefault: true}})
		if f == IPv6 {
			continue // several next hops need no option there, and lo takes none
		}
		try(Feature{"routes over several uplinks", "CONFIG_IP_ROUTE_MULTIPATH"}, Op{Verb: Replace, Route: &Route{Family: f, Table: table, Dst: f.Default(), Nexthops: []Nexthop{hop, heavy}}})
	}
	return missing, nil
}
