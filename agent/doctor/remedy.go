package doctor

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"multiroute/nat"
)

// remedy says how the owner of a chain is told to let clients' connections pass.
func remedy(f *Facts, c *nat.ForeignChain) string {
	lan, ups := f.Config.Router.LAN, f.interfaces()
	each := func(format string) string {
		var lines []string
		for _, l := range lan {
			for _, u := range ups {
				lines = append(lines, strings.NewReplacer("LAN", l, "WAN", u).Replace(format))
			}
		}
		return strings.Join(lines, "\n")
	}
	into := func(chain string) string {
		return each(iptables(c) + " -I " + chain + " -i LAN -o WAN -j ACCEPT\n" + iptables(c) + " -I " + chain + " -i WAN -o LAN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	}
	switch owner := owner(f, c); owner {
	case "Docker":
		return into("DOCKER-USER")
	case "ufw":
		return each("ufw route allow in on LAN out on WAN")
	case "firewalld":
		return "firewall-cmd --permanent --new-policy multiroute\n" +
			"firewall-cmd --permanent --policy multiroute --add-ingress-zone=ZONE   # of " + strings.Join(lan, ", ") + ": firewall-cmd --get-zone-of-interface\n" +
			"firewall-cmd --permanent --policy multiroute --add-egress-zone=ZONE    # of " + strings.Join(ups, ", ") + "\n" +
			"firewall-cmd --permanent --policy multiroute --set-target ACCEPT\nfirewall-cmd --reload"
	case "OpenWrt's firewall":
		return "uci add firewall forwarding; uci set firewall.@forwarding[-1].src=lan; uci set firewall.@forwarding[-1].dest=wan; uci commit firewall   # every uplink in a zone that lan may forward to"
	case "iptables":
		return into(c.Name)
	}
	return fmt.Sprintf("nft insert rule %s iifname { %s } oifname { %s } accept\nnft insert rule %s ct state established,related accept", c, quoted(lan), quoted(ups), c)
}

// forwardRemedy is the same for port forwards.
func forwardRemedy(f *Facts, c *nat.ForeignChain, fate nat.Fate) string {
	into := c.Name
	switch owner(f, c) {
	case "Docker":
		if !libvirts(c, fate) { // whose chains may come before Docker's
			into = "DOCKER-USER"
		}
	case "ufw", "iptables":
	default:
		return fmt.Sprintf("nft insert rule %s ct status dnat accept", c) + forGood(c, fate)
	}
	return iptables(c) + " -I " + into + " -m conntrack --ctstate DNAT -j ACCEPT" + forGood(c, fate)
}

// forGood is what the owner of the rule that drops has words for himself.
func forGood(c *nat.ForeignChain, fate nat.Fate) string {
	if libvirts(c, fate) {
		return "\n# for good: virsh net-edit NETWORK, and there <forward mode='route'/>; the NAT is multiroute's"
	}
	return ""
}

// libvirts reports whether libvirt made the rule that drops: since 10.4 it has a
// table of its own, before that chains in iptables' table.
func libvirts(c *nat.ForeignChain, fate nat.Fate) bool {
	return c.Table == libvirtTable || strings.HasPrefix(fate.By, libvirtChains)
}

const (
	libvirtTable  = "libvirt_network"
	libvirtChains = "LIBVIRT_"
)

// ownRemedy is the same for probes, which have an uplink's mark, and for the
// answers to them. Over IPv6 neighbours are found by packets that conntrack does
// not know and nobody marks.
func ownRemedy(f *Facts, c *nat.ForeignChain) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	discovery := slices.Contains(families(f, c), true)
	switch owner(f, c) {
	case "Docker", "ufw", "iptables":
		into := iptables(c) + " -I " + c.Name
		if c.Hook == nat.Input {
			add("%s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", into)
		} else {
			for _, up := range f.interfaces() {
				add("%s -o %s -m mark ! --mark 0/%#x -j ACCEPT", into, up, f.Config.Router.MarkMask)
			}
		}
		if discovery {
			for _, typ := range []string{"router-solicitation", "router-advertisement", "neighbour-solicitation", "neighbour-advertisement"} {
				add("%s -p icmpv6 --icmpv6-type %s -j ACCEPT", into, typ)
			}
		}
	default:
		into := fmt.Sprintf("nft insert rule %s", c)
		if c.Hook == nat.Input {
			add("%s ct state established,related accept", into)
		} else {
			add("%s oifname { %s } meta mark and %#x != 0 accept", into, quoted(f.interfaces()), f.Config.Router.MarkMask)
		}
		if discovery {
			add("%s icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept", into)
		}
	}
	return strings.Join(lines, "\n")
}

// iptables is the program that writes to the chain.
func iptables(c *nat.ForeignChain) string {
	if c.Family == unix.NFPROTO_IPV6 {
		return "ip6tables"
	}
	return "iptables"
}

// owner tells by the names of tables and chains whose chain it is; "" where
// nothing tells.
func owner(f *Facts, c *nat.ForeignChain) string {
	has := func(prefix string) bool {
		for _, o := range f.Tables.Chains {
			if o.Family == c.Family && o.Table == c.Table && strings.HasPrefix(o.Name, prefix) {
				return true
			}
		}
		return false
	}
	switch {
	case c.Table == "firewalld":
		return "firewalld"
	case c.Table == "fw4":
		return "OpenWrt's firewall"
	case has("DOCKER-USER"):
		return "Docker"
	case has("ufw-"), has("ufw6-"):
		return "ufw"
	case (c.Family == unix.NFPROTO_IPV4 || c.Family == unix.NFPROTO_IPV6) && c.Table == "filter" && (c.Name == "FORWARD" || c.Name == "INPUT" || c.Name == "OUTPUT"):
		return "iptables"
	}
	return ""
}

func quoted(names []string) string {
	var all []string
	for _, n := range names {
		all = append(all, `"`+n+`"`)
	}
	return strings.Join(all, ", ")
}
