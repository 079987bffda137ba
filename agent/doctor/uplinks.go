package doctor

import (
	"net/netip"
	"slices"
	"strings"

	"multiroute/agent/plan"
	"multiroute/routes"
)

// uplinks looks at the interfaces and addresses of uplinks and LANs.
func uplinks(f *Facts) []Finding {
	var all []Finding
	for _, u := range f.Plan.Uplinks {
		subject := "uplink " + u.Name
		switch {
		case u.State == plan.Disabled:
			continue
		case !u.Usable():
			all = append(all, finding(Warning, subject, linkRemedy(u), "it carries nothing: %s", u.Reason))
			continue
		case f.Daemon.Down[u.Name] != "":
			all = append(all, finding(Warning, subject, "look at the modem, and whether the provider works; agent status says when it is asked again", "the agent finds it down: %s", f.Daemon.Down[u.Name]))
		case u.Reason != "":
			all = append(all, finding(Note, subject, familyRemedy(u), "%s", u.Reason))
		}
		c, l := f.Config.Uplink(u.Name), f.Kernel.Link(u.Interface)
		if l == nil {
			continue
		}
		if c.MTU > l.MTU {
			all = append(all, finding(Warning, subject, "ip link set "+u.Interface+" mtu "+itoa(c.MTU)+"   # or a smaller mtu in the configuration",
				"mtu = %d is more than its interface %s takes, %d: it has no effect", c.MTU, u.Interface, l.MTU))
		}
		if l.MTU < 1280 && u.V6.Linked {
			all = append(all, finding(Warning, subject, "ip link set "+u.Interface+" mtu 1280   # or gateway6 = \"off\"",
				"%s has an MTU of %d, and IPv6 needs 1280 (RFC 8200, 5)", u.Interface, l.MTU))
		}
		if s := f.Links[u.Interface]; s.Duplex == "half" || s.Mbit > 0 && s.Mbit <= 10 {
			all = append(all, finding(Note, subject, "look at cable and far end; ethtool "+u.Interface, "%s runs at %d Mbit/s, %s duplex", u.Interface, s.Mbit, s.Duplex))
		}
	}
	for _, name := range f.Joining {
		if f.forwards() && (slices.Contains(f.interfaces(), name) || slices.Contains(f.Config.Router.LAN, name)) {
			all = append(all, finding(Warning, "interface "+name, "ethtool -K "+name+" lro off", "it puts received packets together (LRO): what is forwarded is slow or lost"))
		}
	}
	return append(all, subnets(f)...)
}

// linkRemedy says what to do about an uplink whose link, address or gateway is
// not there.
func linkRemedy(u plan.Uplink) string {
	for _, r := range []struct{ reason, remedy string }{
		{"switched off", "ip link set " + u.Interface + " up"},
		{"does not exist", "ip link   # correct interface in [uplink." + u.Name + "], or start what makes it (PPP, VLAN, modem)"},
		{"no carrier", "look at the cable and at the modem; ethtool " + u.Interface},
		{"is not on", "ip addr show " + u.Interface + "   # correct addresses in [uplink." + u.Name + "], or start what sets them (DHCP, PPP)"},
		{"address (yet)", "start what gets one for " + u.Interface + " (DHCP, PPP), or write one down there"},
		{"gateway known", "let DHCP, PPP or router advertisements set a default route, or write gateway in [uplink." + u.Name + "]"},
		{"does not answer", "look at cable and modem; ping -I " + u.Interface + " the gateway"},
	} {
		if strings.Contains(u.Reason, r.reason) {
			return r.remedy
		}
	}
	return "as it says"
}

// familyRemedy says what to do about an uplink that has one family only.
func familyRemedy(u plan.Uplink) string {
	if u.V6.Wanted && !u.V6.Usable {
		return "gateway6 = \"off\" in [uplink." + u.Name + "] if this provider has no IPv6"
	}
	return linkRemedy(u)
}

// subnets finds the same subnet behind two interfaces.
func subnets(f *Facts) []Finding {
	type net struct {
		iface  string
		lan    bool
		prefix netip.Prefix
	}
	var nets []net
	for _, a := range f.Kernel.Addrs {
		i := slices.IndexFunc(f.Kernel.Links, func(l routes.Link) bool { return l.Index == a.Index })
		if i < 0 || !a.Global || a.Prefix.IsSingleIP() {
			continue
		}
		name := f.Kernel.Links[i].Name
		lan := slices.Contains(f.Config.Router.LAN, name)
		if lan || slices.Contains(f.interfaces(), name) {
			nets = append(nets, net{name, lan, a.Prefix.Masked()})
		}
	}
	var all []Finding
	for i, a := range nets {
		for _, b := range nets[:i] {
			switch {
			case a.iface == b.iface || !a.prefix.Overlaps(b.prefix):
			case a.lan != b.lan:
				all = append(all, finding(Warning, a.prefix.String(), "give the LAN, or the modem behind the uplink, another subnet",
					"it is behind %s and behind %s, which are LAN and uplink: some of those hosts cannot be reached", b.iface, a.iface))
			case !a.lan:
				all = append(all, finding(Note, a.prefix.String(), "give one of the modems another subnet if you need its pages",
					"it is behind %s and behind %s: uplinks work so, but what is in that subnet itself is reached by one of them only", b.iface, a.iface))
			}
		}
	}
	return all
}
