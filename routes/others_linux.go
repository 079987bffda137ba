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
