package config

import (
	"fmt"
	"slices"
	"strings"
)

// checkNames reports names of uplinks and policies that do not exist.
func (r *reader) checkNames(root *node) {
	uplinks, policies := tableNames(root.get("uplink")), tableNames(root.get("policy"))
	if !slices.Contains(policies, "default") {
		policies = append(policies, "default")
	}
	for _, name := range root.get("policy").names() {
		pol, p := root.get("policy").get(name), keyPath{"policy", name}
		for _, up := range pol.get("weights").names() {
			if n := pol.get("weights").get(up); !n.bad {
				r.checkKnown(n, p.add("weights").add(up), "uplink", up, uplinks)
			}
		}
		for _, tier := range pol.get("tiers").entries() {
			for _, e := range tier.entries() {
				r.checkReference(e, pol.get("tiers"), p.add("tiers"), "uplink", uplinks)
			}
		}
	}
	for _, fw := range root.get("port_forward").entries() {
		for _, e := range fw.get("uplinks").entries() {
			r.checkReference(e, fw.get("uplinks"), keyPath{"port_forward"}.item(fw.index).add("uplinks"), "uplink", uplinks)
		}
	}
	for _, rule := range root.get("rule").entries() {
		p := keyPath{"rule"}.item(rule.index)
		r.checkReference(rule.get("uplink"), nil, p.add("uplink"), "uplink", uplinks)
		r.checkReference(rule.get("policy"), nil, p.add("policy"), "policy", policies)
	}
}

// tableNames returns the names of the tables in n, without other things in it.
func tableNames(n *node) []string {
	var names []string
	for _, name := range n.names() {
		if _, ok := n.get(name).raw.(*table); ok {
			names = append(names, name)
		}
	}
	return names
}

// checkReference reports a name in n that is not known, and marks the list it
// stands in as bad too.
func (r *reader) checkReference(n, list *node, p keyPath, what string, known []string) {
	if n == nil || n.bad {
		return
	}
	if name, ok := n.raw.(string); ok && !r.checkKnown(n, p, what, name, known) && list != nil {
		list.bad = true
	}
}

// checkKnown reports whether name is among the known ones, and fails n if not.
func (r *reader) checkKnown(n *node, p keyPath, what, name string, known []string) bool {
	if slices.Contains(known, name) {
		return true
	}
	problem := fmt.Sprintf("no %s is called %s: ", what, quote(name))
	if near := nearest(name, known); near != "" {
		problem += fmt.Sprintf("did you mean %s?", quote(near))
	} else if len(known) > 0 {
		quoted := make([]string, len(known))
		for i, k := range known {
			quoted[i] = quote(k)
		}
		problem += "known are " + strings.Join(quoted, ", ")
	} else {
		problem += "there is none yet"
	}
	r.fail(n, p, problem)
	return false
}

// where prints the position of n.
func (r *reader) where(n *node) string { return fmt.Sprintf("%s:%d", r.files[n.file], n.line) }
