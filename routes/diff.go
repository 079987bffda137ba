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
// safe at every step: routes appear before the rules that lead to them; what
// keeps marked packets from going another way (see Stages) disappears last.
func Diff(have, want Spec) []Op {
	var ops, late []Op
	haveRoutes := make(map[routeKey]Route, len(have.Routes))
	for _, r := range have.Routes {
		haveRoutes[r.key()] = r
	}
	wantRoutes := make(map[routeKey]bool, len(want.Routes))
	for _, r := range sorted(want.Routes, compareRoutes) {
		wantRoutes[r.key()] = true
		if old, ok := haveRoutes[r.key()]; !ok || !old.Equal(r) {
			ops = append(ops, Op{Verb: Replace, Route: &r})
		}
	}
	for _, r := range sorted(have.Routes, compareRoutes) {
		if !wantRoutes[r.key()] {
			late = append(late, Op{Verb: Delete, Route: &r})
		}
	}
	haveRules := make(map[Rule]int, len(have.Rules))
	for _, r := range have.Rules {
		haveRules[r]++
	}
	for _, r := range sorted(want.Rules, compareRules) {
		if haveRules[r] > 0 {
			haveRules[r]--
			continue
		}
		ops = append(ops, Op{Verb: Add, Rule: &r})
	}
	for _, r := range sorted(have.Rules, compareRules) {
		if haveRules[r] > 0 {
			haveRules[r]--
			ops = append(ops, Op{Verb: Delete, Rule: &r})
		}
	}
	return append(ops, late...)
}

// Stages splits operations around the moment in which the connections of
// uplinks that go are deleted. The first stage leads new traffic elsewhere. The
// last one takes away what keeps the packets of old connections from going
// another way with the old address: rules on marks with the tables behind them,
// and it adds the last resorts of tables whose default has gone.
func Stages(ops []Op) (first, last []Op) {
	leaving := map[int]bool{}
	for _, op := range ops {
		if op.Verb == Delete && op.Rule != nil && op.Rule.Mask != 0 {
			leaving[op.Rule.Table] = true
		}
	}
	for _, op := range ops {
		late := false
		switch {
		case op.Rule != nil:
			late = op.Verb == Delete && op.Rule.Mask != 0
		case op.Verb == Delete:
			late = leaving[op.Route.Table] || op.Route.Metric == MetricLast
		default:
			late = op.Route.Metric == MetricLast && op.Route.Unreachable
		}
		if late {
			last = append(last, op)
		} else {
			first = append(first, op)
		}
	}
	return first, last
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
