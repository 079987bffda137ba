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
		case u.Reason != "":
			all = append(all, finding(Note, subject, "", "%s", u.Reason))
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

// linkRemedy says what to do about an uplink whose link is not there.
func linkRemedy(u plan.Uplink) string {
	if strings.Contains(u.Reason, "switched off") {
		return "ip link set " + u.Interface + " up"
	}
	return ""
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
