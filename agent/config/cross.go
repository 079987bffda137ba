package config

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// crossCheck reports what is right key by key and wrong together. What is bad
// already takes no part in it.
func (r *reader) crossCheck(root *node, cfg *Config) {
	if len(cfg.Uplinks) == 0 {
		if n := root.get("uplink"); n == nil || !n.bad {
			r.failAt(0, 1, "uplink", `there is no uplink: add at least one, such as [uplink.dsl] with interface = "eth1" below it`)
		}
		return
	}
	r.checkIDs(root, cfg)
	if len(cfg.Uplinks) > maxIDs { // no need to compare them all with each other
		return
	}
	uplinks := make([]uplinkNode, len(cfg.Uplinks))
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		uplinks[i] = uplinkNode{u, root.get("uplink").get(u.Name)}
	}
	for i, u := range uplinks {
		r.checkUplink(u, cfg, root)
		for _, o := range uplinks[:i] {
			r.checkPrefixes6(u, o)
			if u.good("interface") && o.good("interface") && u.Interface == o.Interface {
				r.checkShared(u, o)
			}
		}
	}
	r.checkPinned(uplinks)
	r.checkFallback(root)
	r.checkCapacity(root, cfg, uplinks)
	r.checkHealth(contractSpec().children["health"], root, uplinks)
	r.checkForwards(root, cfg)
}

// uplinkNode is an uplink with the table it was made from.
type uplinkNode struct {
	*Uplink
	n *node
}

// good reports whether u's table is one and none of the keys in it is bad.
func (u uplinkNode) good(keys ...string) bool {
	if _, ok := u.n.raw.(*table); !ok {
		return false
	}
	return !slices.ContainsFunc(keys, func(k string) bool {
		n := u.n.get(k)
		return n == nil && k == "interface" || n != nil && n.bad
	})
}

// path returns the path of a key of u.
func (u uplinkNode) path(key string) keyPath { return keyPath{"uplink", u.Name, key} }

// at returns the node of a key of u, or the table if the key is not written.
func (u uplinkNode) at(key string) *node {
	if n := u.n.get(key); n != nil {
		return n
	}
	return u.n
}

// failKey reports a problem with a key of u.
func (r *reader) failKey(u uplinkNode, key, problem string) {
	n := u.at(key)
	r.failAt(n.file, n.line, u.path(key).String(), problem)
}

// checkUplink checks one uplink by itself.
func (r *reader) checkUplink(u uplinkNode, cfg *Config, root *node) {
	routed := root.get("router").get("routed")
	hasPrefix := slices.ContainsFunc(cfg.Router.Routed, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if u.IPv6 == IPv6Routed && u.good("ipv6", "gateway6") && !hasPrefix && (routed == nil || !routed.bad) {
		r.failKey(u, "ipv6", `"routed" needs the IPv6 prefix behind the router: add it to [router] routed, or write "masquerade"`)
	}
	r.checkPrefix6(u)
	if u.MTU > 0 && u.MTU < minMTU6 && u.IPv6 != IPv6Off && u.good("mtu", "ipv6", "gateway6") {
		r.failKey(u, "mtu", fmt.Sprintf(`IPv6 needs packets of %d bytes: write that or more, or ipv6 = "off"`, minMTU6))
	}
	for _, key := range []string{"gateway", "gateway6"} {
		gw := u.gateway(key)
		if gw.Mode == GatewayAddress && u.good(key, "addresses") && slices.Contains(u.Addresses, gw.Addr) {
			r.failKey(u, key, fmt.Sprintf("%s is this uplink's own address: write the provider's router", quote(gw.Addr.String())))
		}
	}
}

// minMTU6 is the smallest MTU in bytes that IPv6 works with (RFC 8200, section 5).
const minMTU6 = 1280

// gateway returns what key says.
func (u uplinkNode) gateway(key string) Gateway {
	if key == "gateway" {
		return u.Gateway
	}
	return u.Gateway6
}

// checkShared checks two uplinks on one interface; o was written before u.
func (r *reader) checkShared(u, o uplinkNode) {
	for _, key := range []string{"gateway", "gateway6"} {
		if !u.good(key) || !o.good(key) {
			continue
		}
		g, h := u.gateway(key), o.gateway(key)
		switch {
		case g.Mode == GatewayAddress && h.Mode == GatewayAddress && g.Addr == h.Addr:
			r.failKey(u, key, fmt.Sprintf("two uplinks with the same gateway and interface: uplink %s at %s has them too: correct or remove one", quote(o.Name), r.where(o.at(key))))
		case g.Mode == GatewayNone && h.Mode == GatewayNone:
			r.failKey(u, key, fmt.Sprintf("uplink %s at %s has interface %s and no gateway too: name the gateway of one", quote(o.Name), r.where(o.at(key)), quote(u.Interface)))
		}
	}
	if u.good("gateway", "addresses") && o.good("gateway", "addresses") && u.Gateway.Mode == GatewayAuto && o.Gateway.Mode == GatewayAuto && !has4(u.Addresses) && !has4(o.Addresses) {
		r.failKey(u, "gateway", fmt.Sprintf(`uplink %s at %s is "auto" on interface %s too, and nothing tells them apart: write the address of each gateway, or the uplink's own in addresses`, quote(o.Name), r.where(o.at("gateway")), quote(u.Interface)))
	}
	if !u.good("addresses") || !o.good("addresses") {
		return
	}
	for i, a := range u.Addresses {
		if slices.Contains(o.Addresses, a) {
			n := u.n.get("addresses").entries()[i]
			r.failAt(n.file, n.line, u.path("addresses").String(), fmt.Sprintf("%s is an address of uplink %s at %s too: each address belongs to one uplink", quote(a.String()), quote(o.Name), r.where(o.at("addresses"))))
		}
	}
}

// has4 reports whether there is an IPv4 address in the list.
func has4(list []netip.Addr) bool { return slices.ContainsFunc(list, netip.Addr.Is4) }

// checkPinned reports destinations that two uplinks want for themselves.
func (r *reader) checkPinned(uplinks []uplinkNode) {
	type pin struct {
		uplinkNode
		n *node
	}
	first := map[netip.Prefix]pin{}
	claim := func(u uplinkNode, key string, i int, p netip.Prefix) {
		n := u.n.get(key).entries()[i]
		o, taken := first[p]
		if !taken {
			first[p] = pin{u, n}
			return
		}
		if o.Name != u.Name {
			r.failAt(n.file, n.line, u.path(key).String(), fmt.Sprintf("%s is reached through uplink %s already, at %s: it can be pinned to one uplink only", quote(pinned(p)), quote(o.Name), r.where(o.n)))
		}
	}
	for _, u := range uplinks {
		for i, a := range u.DNS {
			claim(u, "dns", i, netip.PrefixFrom(a, a.BitLen()))
		}
		for i, p := range u.Destinations {
			claim(u, "destinations", i, p)
		}
	}
}

// pinned prints a prefix, that of one host as its address.
func pinned(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// checkFallback reports that the policy "default" falls back to itself.
func (r *reader) checkFallback(root *node) {
	if n := root.get("policy").get("default").get("fallback"); n != nil && n.val == "default" {
		r.fail(n, keyPath{"policy", "default", "fallback"}, `is this very policy: write "reject"`)
	}
}

// maxIDs is how many uplinks and policies the widest mask can count.
const maxIDs = 255

// checkIDs reports that the mark cannot hold an id for each uplink and policy,
// and for what rules want of their own. Id 0 means none.
func (r *reader) checkIDs(root *node, cfg *Config) {
	what, own := "uplinks and policies together", len(cfg.RuleUplinks())
	if cfg.Bypasses() {
		own++
	}
	if own > 0 {
		what += fmt.Sprintf(", with %d for what rules name instead of a policy", own)
	}
	need := len(cfg.Uplinks) + len(cfg.Policies) + own
	if have := 1<<bits.OnesCount32(cfg.Router.MarkMask) - 1; need > have {
		n := root.get("router").get("mark_mask")
		if n == nil {
			n = root.get("uplink").get(cfg.Uplinks[len(cfg.Uplinks)-1].Name)
		} else if n.bad {
			return
		}
		remedy := fmt.Sprintf("write a mask of %d bits or more", bits.Len(uint(need)))
		if need > maxIDs {
			remedy = fmt.Sprintf("remove uplinks, the widest mask can count %d", maxIDs)
		}
		r.failAt(n.file, n.line, "router.mark_mask", fmt.Sprintf("has room for %d %s, and there are %d: %s", have, what, need, remedy))
	}
}

// checkForwards reports port forwards that claim the same packets.
func (r *reader) checkForwards(root *node, cfg *Config) {
	type claim struct {
		*PortForward
		port PortRange
		n    *node // of the port
	}
	var earlier []claim
next:
	for i, n := range root.get("port_forward").entries() {
		for _, k := range []string{"protocol", "port", "to", "uplinks"} {
			if c := n.get(k); c == nil && k != "uplinks" || c != nil && c.bad {
				continue next
			}
		}
		f := claim{&cfg.PortForwards[i], n.get("port").val.(PortRange), n.get("port")}
		for _, o := range earlier {
			if f.port.overlaps(o.port) && f.Protocol == o.Protocol && f.To.Is4() == o.To.Is4() && sharesUplink(f.PortForward, o.PortForward) {
				r.failAt(f.n.file, f.n.line, keyPath{"port_forward"}.item(n.index).add("port").String(),
					fmt.Sprintf("port forward %s at %s takes this port too: choose another port, or give the two different uplinks", quote(o.Name), r.where(o.n)))
				break
			}
		}
		earlier = append(earlier, f)
	}
}

// sharesUplink reports whether one uplink is in both; none named means all.
func sharesUplink(f, o *PortForward) bool {
	return len(f.Uplinks) == 0 || len(o.Uplinks) == 0 ||
		slices.ContainsFunc(f.Uplinks, func(u string) bool { return slices.Contains(o.Uplinks, u) })
}
