package plan

import (
	"slices"

	"multiroute/agent/sysctl"
	"multiroute/routes"
)

// sysctls lists the kernel parameters in the order in which they are set.
// Forwarding is last: nothing is forwarded before everything else is ready.
func (m *maker) sysctls() {
	set := func(key, value string) { m.Sysctls = append(m.Sysctls, sysctl.Setting{Key: key, Value: value}) }
	v6 := slices.Contains(m.families(), routes.IPv6)

	// Spread connections, not pairs of hosts. IPv6 knows a socket's ports too
	// late and gets the flow label instead (fields: all six).
	set("net/ipv4/fib_multipath_hash_policy", "1")
	// What the router answers by itself (resets, echo replies, errors) leaves
	// by the uplink of what it answers.
	set("net/ipv4/fwmark_reflect", "1")
	if v6 {
		set("net/ipv6/fib_multipath_hash_fields", "63")
		m.Sysctls = append(m.Sysctls, sysctl.Setting{Key: "net/ipv6/fib_multipath_hash_policy", Value: "3",
			Needs: "net/ipv6/fib_multipath_hash_fields", Else: "1"}) // both came with Linux 5.14
		set("net/ipv6/fwmark_reflect", "1")
	}
	var done []string
	for _, u := range m.Uplinks {
		name := u.Interface
		if m.Facts.Link(name) == nil || slices.Contains(done, name) {
			continue
		}
		done = append(done, name)
		// Replies come in where routing alone would not send: loose, and with
		// the mark taken into account.
		set("net/ipv4/conf/"+name+"/rp_filter", "2")
		set("net/ipv4/conf/"+name+"/src_valid_mark", "1")
		// A pulled cable moves new connections with no help from us.
		set("net/ipv4/conf/"+name+"/ignore_routes_with_linkdown", "1")
		// Two providers may use the same subnet: answer and ask for each
		// address only where it is.
		set("net/ipv4/conf/"+name+"/arp_ignore", "1")
		set("net/ipv4/conf/"+name+"/arp_announce", "2")
		if m.shared(name) || slices.Contains(m.router.LAN, name) {
			// Clients must not be told to pass us by. The kernel ORs the two.
			set("net/ipv4/conf/all/send_redirects", "0")
			set("net/ipv4/conf/"+name+"/send_redirects", "0")
		}
		if v6 {
			set("net/ipv6/conf/"+name+"/ignore_routes_with_linkdown", "1")
			// A forwarding host ignores router advertisements unless told not
			// to. Where they are switched off they stay so.
			m.Sysctls = append(m.Sysctls, sysctl.Setting{Key: "net/ipv6/conf/" + name + "/accept_ra", Value: "2", From: "1"})
		}
	}
	if len(m.router.LAN) == 0 && len(m.Config.PortForwards) == 0 {
		return // serves only itself
	}
	forward := sysctl.Setting{Key: "net/ipv4/ip_forward", Value: "1"}
	forward6 := sysctl.Setting{Key: "net/ipv6/conf/all/forwarding", Value: "1"}
	forward.Implied = []string{"net/ipv4/conf/all/forwarding", "net/ipv4/conf/default/forwarding", "net/ipv4/conf/all/accept_redirects"}
	forward6.Implied = []string{"net/ipv6/conf/default/forwarding"}
	for _, l := range m.Facts.Links {
		forward.Implied = append(forward.Implied, "net/ipv4/conf/"+l.Name+"/forwarding")
		forward6.Implied = append(forward6.Implied, "net/ipv6/conf/"+l.Name+"/forwarding")
	}
	m.Sysctls = append(m.Sysctls, forward)
	if v6 {
		m.Sysctls = append(m.Sysctls, forward6)
	}
}
