//go:build linux

package rig

import (
	"fmt"
	"strings"

	"multiroute/test/lab"
)

// LinksOnly switches probing off: an uplink is what its link, address and
// gateway say, at once.
const LinksOnly = "[health]\ntargets = []\ntargets6 = []\n\n"

// Config writes a configuration for a topology: its LAN, its uplinks with the
// given weights (1 where there are fewer weights than uplinks), then more.
// Nothing is probed.
func Config(t *lab.Topology, weights []int, more ...string) string {
	return LinksOnly + Probing(t, weights, more...)
}

// Probing is Config with probes of the default targets, which the lab's
// internet has; more may hold a table [health].
func Probing(t *lab.Topology, weights []int, more ...string) string {
	var b strings.Builder
	lan := ""
	if t.LAN != "" {
		lan = fmt.Sprintf("%q", t.LAN)
	}
	fmt.Fprintf(&b, "[router]\nlan = [%s]\n", lan)
	for i, u := range t.Uplinks {
		weight := 1
		if i < len(weights) {
			weight = weights[i]
		}
		gateway := "none"
		if u.Gateway.IsValid() {
			gateway = u.Gateway.String()
		}
		fmt.Fprintf(&b, "\n[uplink.%s]\ninterface = %q\ngateway = %q\nweight = %d\n", u.Name, u.Interface, gateway, weight)
		if u.Gateway6.IsValid() {
			fmt.Fprintf(&b, "gateway6 = %q\n", u.Gateway6)
		} else {
			b.WriteString("gateway6 = \"off\"\n")
		}
		if t.Switch != nil && u.Address6.IsValid() { // link-local gateways do not tell whose addresses are whose
			fmt.Fprintf(&b, "addresses = [%q, %q]\n", u.Address.Addr(), u.Address6.Addr())
		}
	}
	b.WriteString(strings.Join(more, "\n"))
	return b.String()
}
