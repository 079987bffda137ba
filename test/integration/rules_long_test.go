//go:build linux

package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/test/lab"
)

// TestRuleLongList: a list that is too long for one set has what is in it, and
// nothing else, for clients and for the router itself; it gains and loses
// prefixes, and survives a kill.
func TestRuleLongList(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 3, Clients: 2, ClientAddresses: 2})
	one, two, three := h.name(0), h.name(1), h.name(2)
	var others strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&others, "%q, %q,\n", fmt.Sprintf("198.51.%d.%d/31", 101+i>>6, i%64*4), fmt.Sprintf("2001:db8:%x::/48", 2*i+1))
	}
	text := func(hosts ...int) string {
		list := others.String()
		for _, i := range hosts {
			list += fmt.Sprintf("%q, %q,\n", fmt.Sprintf("198.51.100.%d", i), fmt.Sprintf("2001:db8:ffff::%x", i))
		}
		return h.text(h.first(), fmt.Sprintf(`
[[rule]]
to = ["198.51.100.9", "2001:db8:ffff::9"]
uplink = %[2]q
[[rule]]
to = [%[1]s]
uplink = %[3]q
[[rule]]
to = ["198.51.100.8/30", "2001:db8:ffff::8/126"]
uplink = %[2]q
[[rule]]
local = true
to = [%[1]s]
policy = "default"
[[rule]]
local = true
uplink = %[2]q
`, list, two, three))
	}
	h.start(ctx, text(8, 9, 12))
	check := func(when, ten string) {
		t.Helper()
		h.goes(when+": in the list", three, try{host: 8}, try{host: 12, proto: udp})
		h.goes(when+": a rule before", two, try{host: 9})
		h.goes(when+": a rule behind", ten, try{host: 10})
		h.goes(when+": a rule behind", two, try{host: 11, proto: udp})
		h.goes(when+": in no list", one, try{host: 7}, try{host: 13})
		h.goes(when+": the router's own", one, try{router: true, host: 8})
		h.goes(when+": the router's own, in no list", two, try{router: true, host: 11})
		h.unchanged()
	}
	check("start", two)
	must(t, h.Reconfigure(ctx, text(8, 9, 10, 12)))
	check("one more", three)
	must(t, h.End(syscall.SIGKILL))
	must(t, h.Run(ctx))
	check("killed", three)
	must(t, h.Reconfigure(ctx, text(8, 9, 12)))
	check("one less", two)
}
