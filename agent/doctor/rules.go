package doctor

import (
	"fmt"
	"slices"

	"multiroute/routes"
)

// Where our rules stand: from RuleBase on this many priorities, and just before
// the kernel's own rule for table main.
const (
	rulesSpan  = 600
	rulesLast  = 32764
	rulesFirst = 32766 // the kernel's for table main
	tablesSpan = 256
	tableLocal = 255
)

// policyRules looks at the policy rules of others.
func policyRules(f *Facts) []Finding {
	var all []Finding
	families := []routes.Family{routes.IPv4}
	if f.ipv6() {
		families = append(families, routes.IPv6)
	}
	base, tables := f.Config.Router.RuleBase, f.Config.Router.TableBase
	tailscale := false
	for _, r := range f.Rules {
		if !slices.Contains(families, r.Family) {
			continue
		}
		remedy := fmt.Sprintf("ip %s rule del pref %d   # and have whoever made it choose another", r.Family, r.Priority)
		switch {
		case r.Table >= tables && r.Table < tables+tablesSpan:
			all = append(all, finding(Warning, r.String(), remedy, "another program leads packets to table %d, which is among ours (table_base = %d)", r.Table, tables))
		case takesAll(r, base):
			all = append(all, finding(Error, r.String(), takenRemedy(r), "another program's rule comes before ours and leads everything to a table with a default route: no uplink is used"))
		case r.Priority >= base && r.Priority < base+rulesSpan:
			all = append(all, finding(Warning, r.String(), remedy, "another program's rule stands among ours (rule_base = %d)", base))
		case r.Priority >= rulesLast && r.Priority < rulesFirst:
			all = append(all, finding(Note, r.String(), remedy, "another program's rule has a priority of ours; which of the two is asked first hangs on who came first"))
		}
		if r.Priority >= 5210 && r.Priority <= 5270 && r.Mask == 0xff0000 {
			tailscale = true
		}
	}
	if tailscale && f.Config.Router.MarkMask&0xff0000 == 0 {
		all = append(all, finding(Note, "Tailscale", "nothing", "its rules come first and its marks (mask 0xff0000) have no bit of ours: the two get along"))
	}
	return append(all, ownRules(f, families)...)
}

// takesAll reports whether nothing of ours is asked after the rule.
func takesAll(r routes.ForeignRule, base int) bool {
	all := r.Mask == 0 && !r.Not || r.Mask != 0 && r.Not
	return r.Priority > 0 && r.Priority < base && all && !r.Narrow && !r.NoDefault && r.Default
}

// ownRules misses the rules that every kernel begins with.
func ownRules(f *Facts, families []routes.Family) []Finding {
	var all []Finding
	for _, family := range families {
		has := func(table int) bool {
			return slices.ContainsFunc(f.Rules, func(r routes.ForeignRule) bool { return r.Family == family && r.Table == table && !r.NoDefault })
		}
		if len(f.Rules) == 0 {
			continue
		}
		if !has(tableLocal) {
			all = append(all, finding(Error, "ip "+family.String()+" rule", fmt.Sprintf("ip %s rule add pref 0 lookup local", family), "the kernel's rule for table local is gone: the router does not know its own addresses"))
		}
		if !has(routes.TableMain) {
			all = append(all, finding(Warning, "ip "+family.String()+" rule", fmt.Sprintf("ip %s rule add pref 32766 lookup main", family),
				"the kernel's rule for table main is gone (\"ip rule flush\" and systemd-networkd do that): after a purge nothing leads anywhere"))
		}
	}
	return all
}

// takenRemedy says what to do about a rule that takes everything.
func takenRemedy(r routes.ForeignRule) string {
	if r.Not {
		return "wg-quick: write Table = off in the [Interface] section and route by prefixes; or end the VPN's default route (AllowedIPs)"
	}
	return fmt.Sprintf("ip %s rule del pref %d   # and have whoever made it stand behind ours, or route by prefixes", r.Family, r.Priority)
}
