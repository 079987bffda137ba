package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/nat"
	"multiroute/routes"
)

// drift is what other programs did to our part of the kernel.
type drift struct {
	limiter *rate.Limiter
	pending bool      // something is missing and waits to be mended
	due     time.Time // when
	seen    time.Time // when it was first seen
	repairs uint64
	last    time.Time
}

// rounds bounds how often one pass writes and looks again.
const rounds = 4

// pass brings the kernel to the wanted state: it reads everything, plans, and
// writes what differs, until nothing does, or nothing but what the kernel refuses
// because of single uplinks: that is the error, and the others are served. A pass
// that finds nothing to do writes nothing.
func (d *daemon) pass(now time.Time) error {
	d.disabled.expire(now, d.cfg)
	d.noticed = now
	if heard := d.heard.Swap(nil); heard != nil {
		d.noticed = *heard
	}
	d.monitor.Hold(true)
	defer d.monitor.Hold(false)
	defer d.publish()
	for range rounds {
		facts, err := d.router.Facts()
		if err != nil {
			return err
		}
		d.seen = facts.Links
		if at := time.Now(); d.rates.due(at) {
			d.rates.see(at, d.carried(facts.Links))
		}
		wrote, err := d.converge(now, facts)
		refused := routes.Refused(err) && !d.trying
		if !refused {
			if d.refused = nil; err != nil {
				return err
			}
		}
		d.remember()
		done := refused && d.served
		d.ready = d.ready || done
		if done || !wrote {
			if !d.busy() {
				d.announce(time.Now())
			}
			return err
		}
	}
	return fmt.Errorf("the kernel did not keep what was written %d times: another program may be at work on our rules", rounds)
}

// try is pass for what somebody asked for, and what is undone if the kernel
// refuses it: connections must not have ended by then.
func (d *daemon) try(now time.Time) error {
	d.trying = true
	defer func() { d.trying = false }()
	return d.pass(now)
}

// converge compares once and writes what differs. It reports whether it wrote.
func (d *daemon) converge(now time.Time, facts routes.Facts) (bool, error) {
	p := d.makePlan(now, facts)
	if d.returnsEarly(p) {
		if err := d.wait(); err != nil {
			return false, err
		}
	}
	rules := d.compiler.Compile(p.NAT)
	state, err := d.table.Read()
	if err != nil {
		return false, err
	}
	have, err := d.router.Read()
	if err != nil {
		return false, err
	}
	wrong, err := d.sysctl.Check(p.Sysctls)
	if err != nil {
		return false, err
	}
	if !d.cfg.Router.ManageSysctls {
		for _, w := range wrong {
			p.Warnings = append(p.Warnings, w.String()+" (manage_sysctls = false)")
		}
		wrong = nil
	}
	ops := routes.Diff(have, p.Routes)
	if !state.Exists || !d.applied && len(state.Missing(rules)) > 0 {
		d.fresh = true
	}
	moved := renamed(d.plan, &facts)
	if moved {
		d.fresh = true
	}
	if !d.mend(now, state, have, p, rules) {
		return false, nil
	}
	d.adoptPlan(now, p, rules)
	if len(ops) == 0 {
		d.events.settled = d.events.count // no routes to change
	}
	holds := state.Satisfies(rules) && len(wrong) == 0
	if holds && len(ops) == 0 {
		// What a failure, or the end of a predecessor, kept from being done.
		if err := d.end(nil, p, false); err != nil {
			return false, err
		}
		if err := d.adopt(p); err != nil {
			return false, err
		}
		d.applied, d.ready, d.owing = true, true, false
		d.drift.pending = false
		return false, d.sweepIfLost(p, facts)
	}

	d.served = holds && reflect.DeepEqual(ops, d.refused)
	d.refused = ops
	staged := routes.Stage(ops, p.Routes)
	if len(ops) > 0 {
		d.writes.Routes += uint64(len(staged.Before) + len(staged.After))
		d.Log.Debug("writing routes", "before", staged.Before, "after", staged.After, "last", staged.Last)
	}
	refused := d.router.Apply(staged.Before) // it goes on after what the kernel refuses
	if refused != nil {
		if d.owing = true; d.trying {
			return true, refused
		}
	}
	// What leaves keeps its NAT until no route leads to it.
	leaving := leavers(state, p.NAT)
	spec, keeps := keeping(state, p.NAT)
	spec.Uplinks = append(spec.Uplinks, leaving...)
	twice := keeps || len(leaving) > 0
	// Who is remembered on which uplink follows the routes: a client who is sent
	// to the policy's table before would meet the uplink that has gone.
	late := state.StickyOnly(rules)
	if !state.Satisfies(rules) && !late {
		during := rules
		if twice {
			during = d.compiler.Compile(spec)
		}
		if !state.Satisfies(during) {
			if d.Log.Enabled(context.Background(), slog.LevelDebug) { // long lists make a long text
				d.Log.Debug("writing nftables", "commands", state.Commands(during))
			}
			d.refill = true
			d.writes.NFTables++
			if err := d.table.Write(state, during); err != nil {
				d.owing = true
				return true, errors.Join(refused, err)
			}
		}
	}
	// Before anything leads their packets elsewhere.
	// If that fails it stays owed: a network without forwarding would be worse.
	owed := errors.Join(refused, d.adopt(p))
	d.fresh = d.fresh || moved // once more, when no route leads there
	unled := d.router.Apply(staged.After)
	if unled != nil {
		d.owing = true
		owed = errors.Join(owed, unled)
		if d.trying || !routes.Refused(unled) {
			return true, owed
		}
	} else {
		d.events.routed(time.Now())
	}
	if late {
		d.writes.NFTables++
		if err := d.table.Write(state, rules); err != nil {
			d.owing = true
			return true, errors.Join(owed, err)
		}
	}
	d.writes.Sysctls += uint64(len(wrong))
	for _, w := range wrong {
		d.Log.Info("setting a sysctl", "key", w.Key, "was", w.Have, "now", w.Value)
	}
	if err := d.sysctl.Apply(wrong); err != nil {
		return true, errors.Join(owed, err)
	}
	if unled != nil { // who would begin again may have no other way yet
		return true, owed
	}
	if err := d.end(leaving, p, twice); err != nil {
		return true, errors.Join(owed, err)
	}
	if d.busy() && len(staged.Last) > 0 { // connections come first: the pass after that one goes on
		d.applied, d.owing = true, true
		return false, owed
	}
	d.writes.Routes += uint64(len(staged.Last))
	if err := d.router.Apply(staged.Last); err != nil {
		d.owing = true
		return true, errors.Join(owed, err)
	}
	if twice && !state.Satisfies(rules) {
		if state, err = d.table.Read(); err != nil {
			return true, err
		}
		d.writes.NFTables++
		if err := d.table.Write(state, rules); err != nil {
			d.owing = true
			return true, err
		}
	}
	d.applied = true
	return true, owed
}

// renamed reports whether the link of an uplink of the plan in force has another
// name now. Routes follow the link, our rules on names do not: what began in
// that moment left without NAT.
func renamed(p plan.Plan, facts *routes.Facts) bool {
	return slices.ContainsFunc(facts.Links, func(l routes.Link) bool {
		return slices.ContainsFunc(p.Uplinks, func(u plan.Uplink) bool {
			return u.Interface != l.Name && (u.V4.Linked && u.V4.Nexthop.Index == l.Index || u.V6.Linked && u.V6.Nexthop.Index == l.Index)
		})
	})
}

// leavers are the uplinks that the rules in the kernel serve and the new ones
// do not, or not by that interface. They keep their id, so their connections
// can be found.
func leavers(state nat.State, want nat.Spec) []nat.Uplink {
	var gone []nat.Uplink
	for _, u := range state.Uplinks() {
		stays := slices.ContainsFunc(want.Uplinks, func(w nat.Uplink) bool {
			return w.ID == u.ID && w.Name == u.Name && w.Interface == u.Interface
		})
		if stays || u.Interface == "" {
			continue
		}
		u.Leaving, u.Mark = true, uint32(u.ID)*(want.Mask&-want.Mask)
		if slices.ContainsFunc(want.Uplinks, func(w nat.Uplink) bool { return w.ID == u.ID }) {
			u.Name, u.Mark = u.Name+"-old", 0 // the same id by another interface: two chains for a moment
		}
		gone = append(gone, u)
	}
	return gone
}

// keeping returns want with the gateways and sources that the rules in the
// kernel know of its uplinks and that want has none for any more, and whether
// there are any.
func keeping(state nat.State, want nat.Spec) (nat.Spec, bool) {
	spec, keeps := want, false
	spec.Uplinks = slices.Clone(want.Uplinks)
	for _, old := range state.Uplinks() {
		i := slices.IndexFunc(spec.Uplinks, func(w nat.Uplink) bool {
			return w.ID == old.ID && w.Name == old.Name && w.Interface == old.Interface
		})
		if i < 0 {
			continue
		}
		u := &spec.Uplinks[i]
		for _, g := range old.Gateways {
			if !slices.ContainsFunc(want.Uplinks, func(w nat.Uplink) bool { return w.Interface == old.Interface && slices.Contains(w.Gateways, g) }) {
				u.Gateways, keeps = append(slices.Clone(u.Gateways), g), true
			}
		}
		for _, a := range old.Source {
			if !slices.ContainsFunc(u.Source, func(s netip.Addr) bool { return s.Is4() == a.Is4() }) {
				u.Source, keeps = append(slices.Clone(u.Source), a), true
			}
		}
	}
	return spec, keeps
}

// end deletes the connections that cannot go on since the last plan for which
// that succeeded. Routes lead elsewhere by now. With together they are gone when
// it returns, because something else has to wait for that.
func (d *daemon) end(leaving []nat.Uplink, p plan.Plan, together bool) error {
	// What begins on an uplink that goes on with another address must not be
	// deleted with what had the old one.
	together = together || slices.ContainsFunc(plan.Ended(d.settled, p), func(e plan.End) bool { return !e.Outgoing && p.Usable(e.Mark, e.Family) })
	if together || d.together() {
		if err := d.wait(); err != nil {
			return err
		}
	} else if d.busy() {
		return nil // the pass after that one does it
	}
	old := d.settled
	ends, gone := plan.Ended(old, p), lacking(old.NAT.Forwards, p.NAT.Forwards)
	for _, u := range leaving {
		if e := (plan.End{Mark: u.Mark}); u.Mark != 0 && !slices.Contains(ends, e) {
			ends = append(ends, e)
		}
	}
	slices.SortFunc(ends, func(a, b plan.End) int { return cmp.Or(cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Family, b.Family)) })
	for _, e := range ends {
		about := []any{"mark", fmt.Sprintf("%#x", e.Mark)}
		if i := slices.IndexFunc(p.Uplinks, func(u plan.Uplink) bool { return u.Mark == e.Mark }); i >= 0 && !e.Outgoing {
			about = append(d.events.about(p.Uplinks[i].Name, d.announced), about...)
		}
		switch {
		case e.Outgoing:
			d.Log.Info("moving the connections of an uplink that stood in for a better one", append(about, "family", e.Family.Name())...)
		case e.Family == 0:
			d.Log.Info("ending the connections of an uplink that cannot carry them any more", about...)
		default:
			d.Log.Info("ending the connections of an uplink that cannot carry this family any more", append(about, "family", e.Family.Name())...)
		}
	}
	settled := func() { d.settled = plan.Settled(old, p) }
	if len(ends) == 0 && len(gone) == 0 {
		settled()
		return nil
	}
	return d.later(together, p, ends, func(t tracker) error {
		var errs []error
		for _, e := range ends {
			if e.Of != (plan.PolicySet{}) {
				errs = append(errs, d.endOf(t, e, p))
			} else if e.Outgoing {
				errs = append(errs, t.DeleteOutgoing(e.Mark, p.NAT.Mask, uint8(e.Family)))
			} else {
				errs = append(errs, t.DeleteByMark(e.Mark, p.NAT.Mask, uint8(e.Family)))
			}
		}
		return errors.Join(append(errs, d.endForwards(t, gone, old, p))...)
	}, settled)
}

// mend decides about what is missing in the kernel although it was there and
// is still wanted: somebody took it away. It reports whether this pass may
// write.
func (d *daemon) mend(now time.Time, state nat.State, have routes.Spec, p plan.Plan, rules nat.Ruleset) bool {
	if !d.applied || d.owing {
		return true
	}
	var lost []string
	if sameRuleset(rules, d.ruleset) && !state.Satisfies(rules) {
		if lost = state.Missing(rules); len(lost) == 0 {
			lost = []string{"table inet " + nat.TableName + ": foreign chains in it"}
		}
	}
	gone := routes.Missing(have, both(d.plan.Routes, p.Routes))
	if len(lost) == 0 && len(gone) == 0 {
		return true
	}
	// Routes die with their device without anybody's fault, so they are put
	// back at once. Rules do not: their enemy may be in the middle of something.
	// But without the whole table nothing is NATed, and each packet counts.
	exposed := len(lost) > 0 && (!state.Exists || state.Dormant)
	rulesLost := (len(lost) > 0 || slices.ContainsFunc(gone, isRule)) && !exposed
	if !d.drift.pending {
		d.drift.pending, d.drift.seen = true, now
		d.drift.due = now
		if rulesLost {
			d.drift.due = now.Add(patience)
		}
	}
	// A failover does not wait for somebody else's fight with us.
	changed := !sameRuleset(rules, d.ruleset) || len(routes.Diff(d.plan.Routes, p.Routes)) > 0
	if now.Before(d.drift.due) && !changed {
		return false
	}
	if !changed && !d.drift.limiter.AllowN(now, 1) {
		d.drift.due = now.Add(repairEvery / 4)
		d.Log.Error("another program keeps removing our rules: repairs are limited; find it and stop it", "lost", brief(slices.Concat(lost, gone)))
		return false
	}
	d.fresh = d.fresh || len(lost) > 0 // connections began without the rules that were missing
	d.drift.pending = false
	d.drift.repairs++
	d.drift.last = now
	d.Log.Warn("something of ours was missing in the kernel and is put back", "lost", brief(slices.Concat(lost, gone)))
	return true
}

func isRule(s string) bool { return len(s) > 10 && s[6:10] == "rule" }

func brief(s []string) []string {
	const most = 20
	if len(s) > most {
		return append(slices.Clone(s[:most]), fmt.Sprintf("and %d more", len(s)-most))
	}
	return s
}

// both returns what is in both specs.
func both(a, b routes.Spec) routes.Spec {
	var s routes.Spec
	for _, r := range a.Rules {
		if slices.Contains(b.Rules, r) {
			s.Rules = append(s.Rules, r)
		}
	}
	for _, r := range a.Routes {
		if slices.ContainsFunc(b.Routes, r.Equal) {
			s.Routes = append(s.Routes, r)
		}
	}
	return s
}

func sameRuleset(a, b nat.Ruleset) bool { return reflect.DeepEqual(a, b) }

// equal reports whether two configurations mean the same, wherever it is
// written.
func equal(a, b *config.Config) bool {
	x, y := *a, *b
	x.Files, y.Files = nil, nil
	for _, c := range []*config.Config{&x, &y} {
		c.Uplinks = slices.Clone(c.Uplinks)
		for i := range c.Uplinks {
			c.Uplinks[i].Pos = ""
		}
	}
	return reflect.DeepEqual(x, y)
}

// adoptPlan makes p the plan in force and logs what became of the uplinks.
func (d *daemon) adoptPlan(now time.Time, p plan.Plan, rules nat.Ruleset) {
	for _, w := range p.Warnings {
		if !slices.Contains(d.plan.Warnings, w) {
			d.Log.Warn(w)
		}
	}
	states := map[string]uplinkState{}
	for _, u := range p.Uplinks {
		s, known := d.states[u.Name]
		switch {
		case !known:
			s.since = d.remembered.since(u.Name, u.State, now)
		case s.state != u.State:
			s.since = now
		}
		if !known || s.state != u.State {
			d.events.add(d.transition(now, s, known, &u))
		} else {
			for _, e := range d.transitions(now, s, &u) {
				d.events.add(e)
			}
		}
		if !known || s.state != u.State || s.reason != u.Reason {
			d.Log.Info("uplink is "+string(u.State), append(d.events.about(u.Name, d.announced), "reason", u.Reason, "interface", u.Interface,
				"gateway", u.V4.Nexthop.Gateway, "gateway6", u.V6.Nexthop.Gateway)...)
		}
		s.state, s.reason, s.usable = u.State, u.Reason, usable(&u)
		_, s.byHand = d.disabled[u.Name]
		states[u.Name] = s
	}
	d.states, d.plan, d.ruleset = states, p, rules
	d.events.keep(states)
	d.gateways.set(p.Gateways)
}

// changes says in sentences what differs between two plans, and whether their
// rules do.
func changes(a, b plan.Plan, rewritten bool) []string {
	var s []string
	for _, u := range b.Uplinks {
		i := slices.IndexFunc(a.Uplinks, func(o plan.Uplink) bool { return o.Name == u.Name })
		switch {
		case i < 0:
			s = append(s, fmt.Sprintf("uplink %s: new, %s", u.Name, u.State))
		case a.Uplinks[i].State != u.State:
			s = append(s, fmt.Sprintf("uplink %s: %s, was %s", u.Name, u.State, a.Uplinks[i].State))
		}
	}
	for _, u := range a.Uplinks {
		if !slices.ContainsFunc(b.Uplinks, func(n plan.Uplink) bool { return n.Name == u.Name }) {
			s = append(s, fmt.Sprintf("uplink %s: removed", u.Name))
		}
	}
	for _, p := range b.Policies {
		i := slices.IndexFunc(a.Policies, func(o plan.Policy) bool { return o.Name == p.Name })
		if i >= 0 && !slices.Equal(a.Policies[i].Either().Members, p.Either().Members) {
			s = append(s, fmt.Sprintf("policy %s: %s", p.Name, memberList(p.Either().Members)))
		}
	}
	if n := len(routes.Diff(a.Routes, b.Routes)); n > 0 {
		s = append(s, fmt.Sprintf("%d routing operations", n))
	}
	if rewritten {
		s = append(s, "nftables rules rewritten in one transaction")
	}
	return s
}

func memberList(members []plan.Member) string {
	if len(members) == 0 {
		return "nobody"
	}
	text := ""
	for i, m := range members {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s weight %d", m.Uplink, m.Weight)
	}
	return text
}
