package routes

import "slices"

// Verb is what an operation does to its object.
type Verb string

// The verbs, in ip(8)'s words. Routes are replaced: one message, never a
// moment without a route.
const (
	Add     Verb = "add"
	Replace Verb = "replace"
	Delete  Verb = "del"
)

// Op is one change of the kernel. Exactly one of Rule and Route is set.
type Op struct {
	Verb  Verb
	Rule  *Rule
	Route *Route
}

// String prints the operation as an ip(8) command.
func (o Op) String() string {
	var text, noun string
	if o.Rule != nil {
		text, noun = o.Rule.String(), "rule"
	} else {
		text, noun = o.Route.String(), "route"
	}
	// "ip -4 rule pref ..." -> "ip -4 rule add pref ..."
	head := len("ip -4 ") + len(noun)
	return text[:head] + " " + string(o.Verb) + text[head:]
}

// Diff returns the operations that turn have into want, in an order that is
// safe at every step:
//
//  1. routes of tables that no rule leads to yet,
//  2. new rules,
//  3. changed routes of tables in use,
//  4. rules and then routes that are not wanted any more.
//
// Within 1 and 3 the routes keep want's order: whoever makes the Spec puts the
// tables that connections are bound to before those that choose among them.
// Otherwise the second packet of a connection finds no way, or a wrong one.
func Diff(have, want Spec) []Op {
	haveRoutes := make(map[routeKey]Route, len(have.Routes))
	for _, r := range have.Routes {
		haveRoutes[r.key()] = r
	}
	inUse := map[tableKey]bool{}
	haveRules := make(map[Rule]int, len(have.Rules))
	for _, r := range have.Rules {
		haveRules[r]++
		inUse[tableKey{r.Family, r.Table}] = true
	}
	var unused, used, rules, gone []Op
	wantRoutes := make(map[routeKey]bool, len(want.Routes))
	for _, r := range want.Routes {
		wantRoutes[r.key()] = true
		if old, ok := haveRoutes[r.key()]; ok && old.Equal(r) {
			continue
		}
		op := Op{Verb: Replace, Route: &r}
		if inUse[tableKey{r.Family, r.Table}] {
			used = append(used, op)
		} else {
			unused = append(unused, op)
		}
	}
	for _, r := range sorted(want.Rules, compareRules) {
		if haveRules[r] > 0 {
			haveRules[r]--
			continue
		}
		rules = append(rules, Op{Verb: Add, Rule: &r})
	}
	for _, r := range sorted(have.Rules, compareRules) {
		if haveRules[r] > 0 {
			haveRules[r]--
			gone = append(gone, Op{Verb: Delete, Rule: &r})
		}
	}
	for _, r := range sorted(have.Routes, compareRoutes) {
		if !wantRoutes[r.key()] {
			gone = append(gone, Op{Verb: Delete, Route: &r})
		}
	}
	return slices.Concat(unused, rules, used, gone)
}

// Staged are operations in the order of a change that also changes NAT rules
// and connections.
type Staged struct {
	// Before the NAT rules: tables that only bound traffic reaches (by mark or
	// source address), and the rules that lead there. A connection may be bound
	// as soon as the NAT rules are there.
	Before []Op
	// After the NAT rules: everything that leads new traffic somewhere.
	After []Op
	// Last, when the connections of uplinks that go are deleted: what keeps
	// their packets from going another way with the old address. These are
	// rules on marks with the tables behind them, and last resorts of tables
	// that have nothing else any more, whether we take that away, did so before,
	// or the kernel did. Rules on addresses, too: they tell the next agent
	// which connections had those, should this one die before.
	Last []Op
}

// Stage splits what Diff returned for want.
func Stage(ops []Op, want Spec) Staged {
	leads, leaving, fresh, open := map[tableKey]bool{}, map[int]bool{}, map[tableKey]bool{}, map[int]bool{}
	for _, r := range want.Routes {
		leads[tableKey{r.Family, r.Table}] = leads[tableKey{r.Family, r.Table}] || r.Metric != MetricLast
	}
	for _, r := range want.Rules {
		if r.Mask == 0 && !r.From.IsValid() {
			open[r.Table] = true // anybody's packets reach it
		}
	}
	for _, op := range ops {
		switch {
		case op.Verb == Delete && op.Rule != nil && op.Rule.Mask != 0 && op.Rule.Goto == 0:
			leaving[op.Rule.Table] = true
		case op.Verb == Add:
			fresh[tableKey{op.Rule.Family, op.Rule.Table}] = true // nobody has connections there
		}
	}
	bare := func(r *Route) bool {
		table := tableKey{r.Family, r.Table}
		return r.Metric == MetricLast && !leads[table] && !fresh[table] && !open[r.Table]
	}
	var s Staged
	for _, op := range ops {
		switch {
		case op.Verb == Delete && op.Rule != nil && op.Rule.Mask != 0 && op.Rule.Goto == 0,
			op.Verb == Delete && op.Rule != nil && op.Rule.From.IsValid(),
			op.Verb == Delete && op.Route != nil && (leaving[op.Route.Table] || op.Route.Metric == MetricLast),
			op.Verb == Replace && bare(op.Route):
			s.Last = append(s.Last, op)
		case op.Verb == Add && !open[op.Rule.Table],
			op.Verb == Replace && !open[op.Route.Table]:
			s.Before = append(s.Before, op)
		default:
			s.After = append(s.After, op)
		}
	}
	return s
}

func sorted[T any](s []T, compare func(a, b T) int) []T {
	s = slices.Clone(s)
	slices.SortStableFunc(s, compare)
	return s
}

// Missing lists what want has and have lacks or holds otherwise: what somebody
// else took away.
func Missing(have, want Spec) []string {
	var lost []string
	for _, op := range Diff(have, want) {
		switch {
		case op.Verb == Delete:
		case op.Rule != nil:
			lost = append(lost, op.Rule.String())
		default:
			lost = append(lost, op.Route.String())
		}
	}
	return lost
}
