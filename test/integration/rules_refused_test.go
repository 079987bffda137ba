//go:build linux

package integration

import (
	"context"
	"fmt"
	"testing"

	"multiroute/test/lab"
)

// TestRefusedOwn: the router's own connections are refused where their policy has
// nobody, but not what belongs to an uplink that is well.
func TestRefusedOwn(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		gone, well := h.name(0), h.name(1)
		text := h.text(fmt.Sprintf("\n[policy.default]\ntiers = [[%q]]\n[policy.own]\ntiers = [[%q]]\n[[rule]]\nlocal = true\npolicy = \"own\"\n", well, gone))
		h.start(ctx, h.withUplinks(text, func(u *lab.Uplink) string {
			if u.Name != well {
				return ""
			}
			return "destinations = [\"198.51.100.200\", \"2001:db8:ffff::c8\"]\n"
		}))
		all, its := []try{{router: true}, {router: true, proto: udp}}, []try{{router: true, host: 200}, {router: true, host: 200, proto: udp}}
		h.goes("all is well", gone, all...)
		h.goes("a destination of its own", well, its...)
		must(h.t, h.setUplink("disable", gone))
		h.refuses("nobody carries the policy", all...)
		h.goes("a destination of its own", well, its...)
	})
}
