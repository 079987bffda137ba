package agent

import (
	"fmt"
	"slices"
	"strings"

	"multiroute/nat"
)

// guess is a rule, and a hardware address with which it is the one that matches.
type guess struct {
	rule string
	mac  [6]byte
}

// guesses finds those of the rules that match what is known of a packet, and
// would with a hardware address of theirs.
func (e *explainer) guesses(rules []nat.PolicyRule) []guess {
	var all []guess
	p, taken := e.packet, map[[6]byte]bool{}
	for _, r := range rules {
		first := true
		for _, mac := range r.MACs {
			if p.MAC = mac; taken[mac] || !r.Matches(p, e.holds) {
				continue
			}
			if first {
				all = append(all, guess{r.Name, mac})
			}
			first, taken[mac] = false, true
		}
	}
	return all
}

// doubt follows the packet with each hardware address that a rule asks for, too,
// and of all that was said leaves what is true either way. Fresh is the
// explainer as it was before.
func (e *explainer) doubt(fresh explainer) error {
	all := []*explainer{e}
	var names []string
	for _, g := range e.guessed {
		x := fresh
		r := e.request
		r.MAC = g.mac
		if err := x.follow(r); err != nil {
			return err
		}
		all = append(all, &x)
		names = append(names, fmt.Sprintf("rule %q", g.rule))
	}
	out := &e.out
	out.Rule = nil
	why := append(slices.Clone(out.Why[:e.choosing]), fmt.Sprintf("The hardware address of %s is not known: %s may match; give --mac.", e.sender, strings.Join(names, " or ")))
	tail := out.Why[e.choosing:]
	for _, x := range all[1:] {
		tail = commonEnd(tail, x.out.Why[x.choosing:])
	}
	for _, x := range all {
		if !x.out.Agrees {
			why = append(why, x.out.Why[x.choosing:len(x.out.Why)-len(tail)]...)
		}
	}
	for _, x := range all[1:] {
		out.Agrees = out.Agrees && x.out.Agrees
		out.Policy, out.Table = common(out.Policy, x.out.Policy), common(out.Table, x.out.Table)
		out.Uplink, out.Interface = common(out.Uplink, x.out.Uplink), common(out.Interface, x.out.Interface)
		out.Gateway, out.Source = common(out.Gateway, x.out.Gateway), common(out.Source, x.out.Source)
		for _, c := range x.out.Candidates {
			if !slices.Contains(out.Candidates, c) {
				out.Candidates = append(out.Candidates, c)
			}
		}
	}
	out.Why = append(why, tail...)
	return nil
}

// common is a if b is the same, else nil.
func common[T comparable](a, b *T) *T {
	if a == nil || b == nil || *a != *b {
		return nil
	}
	return a
}

// commonEnd is with what both a and b end.
func commonEnd(a, b []string) []string {
	n := 0
	for n < min(len(a), len(b)) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return a[len(a)-n:]
}
