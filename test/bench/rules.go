//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"multiroute/agent/domains"
	"multiroute/nat"
)

// rulesID begins the ids of the variants with rules.
const rulesID = "R"

// manyRules is how many rules of one shape there are, and domainRules how many by domain.
const (
	manyRules   = 1000
	domainRules = 20
)

// The policies that rules choose, in turn: as the default one, but each with a routing table of its own.
const twoPolicies = "\n[policy.odd]\n[policy.even]\n"

// ruleVariants lists what rules cost: each has a base with which it is compared. All packets that are measured match a rule, but for those by domain.
func ruleVariants() []*variant {
	all := []*variant{{id: rulesID, what: "no rules", start: startRules(twoPolicies, nil)}}
	none := all[0]
	for i, shape := range []struct{ what, one, many string }{
		{"from an address", rules(1, client), rules(manyRules, client)},
		{"to a prefix", rules(1, network), rules(manyRules, network)},
		{"a port", rules(1, port), rules(manyRules, port)},
	} {
		id := fmt.Sprint(rulesID, i+1)
		one := &variant{id: id, what: "1 rule " + shape.what, start: startRules(shape.one, nil), base: none}
		all = append(all, one, &variant{id: id + "m", what: fmt.Sprintf("%d rules %s", manyRules, shape.what), start: startRules(shape.many, nil), base: one})
	}
	all = append(all,
		&variant{id: rulesID + "l", what: fmt.Sprintf("1 rule to %d prefixes", prefixes), start: startRules(longRule(), nil), base: all[3]},
		&variant{id: rulesID + "s", what: "sticky = \"source\"", start: startRules(twoPolicies+"[policy.default]\nsticky = \"source\"\n", nil), base: none},
		&variant{id: rulesID + "d", what: fmt.Sprintf("%d rules by domain, none matches", domainRules), start: startRules(rules(domainRules, domain), fillDomains), base: none})
	for _, v := range all {
		v.uplinks = 2
	}
	return all
}

// rules writes n rules that match what match says of each; the last one, number 0, has what is measured.
func rules(n int, match func(i int) string) string {
	var s strings.Builder
	s.WriteString(twoPolicies)
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&s, "[[rule]]\n%s\npolicy = %q\n", match(i), []string{"odd", "even"}[i%2])
	}
	return s.String()
}

func client(i int) string {
	a := clientAddress.Addr()
	if i > 0 {
		a = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
	}
	return fmt.Sprintf("from = [%q]", a)
}

// network i has 128 of the targets; all that are sent to are in the first ones.
func network(i int) string { return fmt.Sprintf("to = [\"%s/25\"]", target(128*i)) }

func port(i int) string { return fmt.Sprintf("ports = [%d]", targetPort+i) }

func domain(i int) string { return fmt.Sprintf("domains = [%q]", domainName(i)) }

func domainName(i int) string { return fmt.Sprintf("host%d.example.org", i) }

// longRule is a long list, with the targets at its end.
func longRule() string {
	list := append(listOf(prefixes), targets)
	var s strings.Builder
	s.WriteString(twoPolicies + "[[rule]]\npolicy = \"odd\"\nto = [\n")
	for _, p := range list {
		fmt.Fprintf(&s, "\t%q,\n", p)
	}
	s.WriteString("]\n")
	return s.String()
}

// startRules runs the real agent with more in its configuration, and then does what is left to do.
func startRules(more string, then func(*house) error) func(context.Context, *bench, *house) error {
	return func(ctx context.Context, b *bench, h *house) error {
		a, err := b.agent(b.program, h.Router)
		if err != nil {
			return err
		}
		if err := a.Configure(config(h, true, nil) + more); err != nil {
			return err
		}
		if err := a.Run(ctx); err != nil || then == nil {
			return err
		}
		return then(h)
	}
}

// fillDomains gives each domain some addresses, as a resolver would.
func fillDomains(h *house) error {
	var all []nat.Listed
	for i := range domainRules {
		for _, set := range domains.NewList([]string{domainName(i)}).Sets() {
			for k := range 4 {
				all = append(all, nat.Listed{List: set, Addr: netip.AddrFrom4([4]byte{20, 1, byte(i), byte(k)}), Timeout: time.Hour})
			}
		}
	}
	return h.Router.Do(func() error {
		t, err := nat.Open()
		if err != nil {
			return err
		}
		defer t.Close()
		return t.Fill(all)
	})
}

// rules adds the rows of the variants with rules.
func (r *report) rules(all []*variant) {
	for _, v := range all {
		base := v.base
		if base == nil {
			base = v
		}
		w := row{ID: v.id, What: v.what, Missing: v.missing}
		if v.missing == "" && len(base.rounds) == len(v.rounds) {
			w.Established = compare(base.rounds, v.rounds, func(r round) samples { return r.established })
			w.First = compare(base.rounds, v.rounds, func(r round) samples { return r.first })
			r.value(v.id+" established", w.Established.Median)
			r.value(v.id+" first", w.First.Median)
		}
		r.Rules = append(r.Rules, w)
	}
}
