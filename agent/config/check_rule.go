package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// checkRules reports what is wrong with rules and port forwards beyond single keys.
func (r *reader) checkRules(root *node) {
	r.checkUnique(root, "rule")
	r.checkUnique(root, "port_forward")
	r.checkAsked(root)
	for _, rule := range root.get("rule").entries() {
		if rule.bad {
			continue
		}
		p := keyPath{"rule"}.item(rule.index)
		r.checkTarget(rule, p)
		r.checkSender(rule, p, root.get("router").get("lan"))
		r.checkHavePorts(rule, p)
		r.checkFamilies(rule, p)
	}
	for _, fw := range root.get("port_forward").entries() {
		r.checkForward(fw, keyPath{"port_forward"}.item(fw.index))
	}
}

// maxAsked bounds the domains that the agent asks for. It asks 50 questions a
// second, so each of these every 7 minutes, and every 42 if the first server does
// not answer; addresses stay for an hour without.
const maxAsked = 10000

// checkAsked reports rules with too many domains that the agent must ask for.
func (r *reader) checkAsked(root *node) {
	asked := map[string]bool{}
	for _, rule := range root.get("rule").entries() {
		n := rule.get("domains")
		if n == nil || n.val == nil {
			continue
		}
		for _, d := range n.val.([]string) {
			if !strings.HasPrefix(d, "*.") {
				asked[strings.ToLower(d)] = true
			}
		}
		if len(asked) > maxAsked {
			r.fail(n, keyPath{"rule"}.item(rule.index).add("domains"), fmt.Sprintf("all rules up to this one have %d different domains to ask for: write at most %d, or such as \"*.example.org\" for all below one, which dnsmasq finds", len(asked), maxAsked))
			return
		}
	}
}

// checkUnique reports entries of the same name.
func (r *reader) checkUnique(root *node, what string) {
	first := map[string]*node{}
	for _, e := range root.get(what).entries() {
		n := e.get("name")
		if n == nil || n.val == nil {
			continue
		}
		name := n.val.(string)
		if o, ok := first[name]; ok {
			r.fail(n, keyPath{what}.item(e.index).add("name"), fmt.Sprintf("%s is the name of another one too, at %s: choose two different names", quote(name), r.where(o)))
		} else {
			first[name] = n
		}
	}
}

// checkTarget reports that a rule does not do exactly one thing.
func (r *reader) checkTarget(rule *node, p keyPath) {
	var does []string
	for _, k := range []string{"policy", "uplink", "action"} {
		if rule.get(k) != nil {
			does = append(does, k)
		}
	}
	switch {
	case len(does) == 0:
		r.fail(rule, p, "does not say what to do: add policy, uplink or action")
	case len(does) > 1:
		r.fail(rule.get(does[1]), p.add(does[1]), fmt.Sprintf("a rule does one thing only, and this one has %s already: remove one", does[0]))
	}
}

// checkSender reports what cannot be said about the router's own traffic, or
// about that of clients, and clients that are nowhere. lan is [router] lan.
func (r *reader) checkSender(rule *node, p keyPath, lan *node) {
	local := rule.get("local")
	if local != nil && local.bad {
		return
	}
	if local == nil || local.val == false {
		if uid := rule.get("uid"); uid != nil && !uid.bad {
			r.fail(uid, p.add("uid"), "only the router's own traffic has a user: add local = true")
		}
		if lan == nil || !lan.bad {
			r.checkClients(rule, p, lan)
		}
		return
	}
	for _, k := range []struct{ key, problem string }{
		{"interfaces", "the router's own traffic comes in by no interface: remove this key, or local"},
		{"macs", "the router's own traffic has no hardware address that it comes from: remove this key, or local"},
	} {
		if n := rule.get(k.key); n != nil && !n.bad && len(n.entries()) > 0 {
			r.fail(n, p.add(k.key), k.problem)
		}
	}
}

// checkClients reports interfaces of a rule that are not in [router] lan.
func (r *reader) checkClients(rule *node, p keyPath, lan *node) {
	var known, quoted []string
	if lan != nil {
		known, _ = lan.val.([]string)
	}
	if len(known) == 0 {
		r.failAt(rule.file, rule.line, p.String(), "is about clients, and there are none: name their interfaces in [router] lan, or add local = true for the router's own traffic")
		return
	}
	for _, name := range known {
		quoted = append(quoted, quote(name))
	}
	list := rule.get("interfaces")
	if list == nil || list.bad {
		return
	}
	for _, e := range list.entries() {
		if name := e.raw.(string); !slices.Contains(known, name) {
			r.fail(e, p.add("interfaces"), fmt.Sprintf("%s has no clients: add it to [router] lan, or write what is there: %s", quote(name), strings.Join(quoted, ", ")))
		}
	}
}

// checkHavePorts reports protocols without ports in a rule with ports.
func (r *reader) checkHavePorts(rule *node, p keyPath) {
	key := ""
	for _, k := range []string{"source_ports", "ports"} {
		if len(rule.get(k).entries()) > 0 {
			key = k
		}
	}
	n := rule.get("protocol")
	if key == "" || n == nil || n.bad {
		return
	}
	for _, e := range elements(n) {
		if name := e.raw.(string); !findProtocol(name).ports {
			r.fail(e, p.add("protocol"), fmt.Sprintf("%s has no ports: remove it, or %s", quote(name), key))
		}
	}
}

// elements returns the elements of a list, or n itself where it is none.
func elements(n *node) []*node {
	if _, ok := n.raw.([]*node); ok {
		return n.entries()
	}
	return []*node{n}
}

// families is a set of IP versions.
type families uint8

const (
	ipv4 families = 1 << iota
	ipv6
)

// familyOf returns the set of p's family.
func familyOf(p netip.Prefix) families {
	if p.Addr().Is4() {
		return ipv4
	}
	return ipv6
}

func (f families) String() string {
	if f == ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// checkFamilies reports keys of a rule that fit no packet together, because
// each packet is of one family.
func (r *reader) checkFamilies(rule *node, p keyPath) {
	have, by := ipv4|ipv6, ""
	for _, k := range []string{"from", "to", "protocol"} {
		n := rule.get(k)
		if n == nil || n.bad || len(elements(n)) == 0 {
			continue
		}
		var here families
		switch list := n.val.(type) {
		case []netip.Prefix:
			for _, p := range list {
				here |= familyOf(p)
			}
		case []string:
			for _, name := range list {
				here |= findProtocol(name).families()
			}
		}
		switch {
		case have&here == 0:
			r.fail(n, p.add(k), fmt.Sprintf("is about %s only, and %s about %s only: no packet is both, correct or remove one", here, by, have))
			return
		case have&here != have:
			have, by = have&here, k
		}
	}
}

// checkForward reports ranges and clients that do not fit to where a port forward leads.
func (r *reader) checkForward(fw *node, p keyPath) {
	to := fw.get("to")
	if to == nil || to.val == nil {
		return
	}
	target := to.val.(endpoint)
	if port := fw.get("port"); port != nil && port.val != nil {
		if from := port.val.(PortRange); target.ports.Hi > target.ports.Lo && target.ports.Hi-target.ports.Lo != from.Hi-from.Lo {
			r.fail(to, p.add("to"), fmt.Sprintf("leads from ports %s to %s: write ranges of the same length", from, target.ports))
		}
	}
	server := familyOf(netip.PrefixFrom(target.addr, 0))
	list := fw.get("sources")
	if list == nil || list.bad {
		return
	}
	for i, source := range list.val.([]netip.Prefix) {
		if familyOf(source) != server {
			r.fail(list.entries()[i], p.add("sources"), fmt.Sprintf("%s is %s, and the server %s: no such client can reach it, remove this one", quote(pinned(source)), familyOf(source), server))
		}
	}
}
