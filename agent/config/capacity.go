package config

import (
	"fmt"
	"strings"
)

// checkCapacity reports policies with balance = "capacity" whose uplinks do not
// all say what they can carry.
func (r *reader) checkCapacity(root *node, cfg *Config, uplinks []uplinkNode) {
	for _, p := range cfg.Policies {
		n := root.get("policy").get(p.Name)
		if b := n.get("balance"); p.Balance != BalanceCapacity || b == nil || b.bad || n.get("tiers") != nil && n.get("tiers").bad {
			continue
		}
		var silent, tables []string
		for _, name := range p.Members(cfg.Uplinks) {
			for _, u := range uplinks {
				if u.Name == name && u.saysNothing() {
					silent, tables = append(silent, quote(name)), append(tables, "[uplink."+name+"]")
				}
			}
		}
		if len(silent) > 0 {
			r.fail(n.get("balance"), keyPath{"policy", p.Name, "balance"}, fmt.Sprintf(
				`"capacity" needs to know what each uplink of this policy can carry, in both directions, and of %s it does not: add bandwidth = { down = "50mbit", up = "10mbit" } with the right numbers to %s`,
				strings.Join(silent, ", "), strings.Join(tables, " and ")))
		}
	}
}

// saysNothing reports whether a direction of the uplink's bandwidth is missing.
func (u uplinkNode) saysNothing() bool {
	n := u.n.get("bandwidth")
	if n == nil {
		return true
	}
	if n.bad || n.get("down") != nil && n.get("down").bad || n.get("up") != nil && n.get("up").bad {
		return false // which is reported already
	}
	return u.Bandwidth.Down == 0 || u.Bandwidth.Up == 0
}
