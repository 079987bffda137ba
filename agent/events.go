package agent

import (
	"maps"
	"slices"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/health"
	"multiroute/agent/plan"
	"multiroute/agent/web"
	"multiroute/routes"
)

// keptEvents is how many events are remembered.
const keptEvents = 200

// events are the changes of the uplinks' states: the newest ones, and figures
// about all of them.
type events struct {
	count     uint64
	newest    []api.Event // oldest first
	settled   uint64      // up to this one the routes are as they should be
	total     map[web.Transition]uint64
	durations web.Histogram
}

// add takes an event in and numbers it.
func (l *events) add(e api.Event) {
	l.count++
	e.ID = l.count
	if len(l.newest) == keptEvents {
		l.newest = slices.Delete(l.newest, 0, 1)
	}
	l.newest = append(l.newest, e)
	if e.From == "" || e.Family != "" {
		return
	}
	if l.total == nil {
		l.total = map[web.Transition]uint64{}
	}
	l.total[web.Transition{Uplink: e.Uplink, To: e.To, Cause: e.Cause}]++
}

// routed says that the routes of all events are changed.
func (l *events) routed(now time.Time) {
	for i := len(l.newest) - 1; i >= 0 && l.newest[i].ID > l.settled; i-- {
		e := &l.newest[i]
		e.Routed = now
		if e.Lost() {
			l.durations.Observe(now.Sub(e.Noticed))
		}
	}
	l.settled = l.count
}

// since returns what is newer than the event with that number, oldest first.
func (l *events) since(id uint64) []api.Event {
	i := slices.IndexFunc(l.newest, func(e api.Event) bool { return e.ID > id })
	if i < 0 {
		return nil
	}
	return slices.Clone(l.newest[i:])
}

// about is what a line in the log says of an uplink: with the number of its
// newest event, if that is newer than the one with that number.
func (l *events) about(uplink string, id uint64) []any {
	for _, e := range slices.Backward(l.since(id)) {
		if e.Uplink == uplink {
			return []any{"id", e.ID, "uplink", uplink}
		}
	}
	return []any{"uplink", uplink}
}

// keep forgets the figures of uplinks that are not there any more.
func (l *events) keep(uplinks map[string]uplinkState) {
	maps.DeleteFunc(l.total, func(t web.Transition, _ uint64) bool { _, ok := uplinks[t.Uplink]; return !ok })
}

// transition describes how an uplink became what the plan says.
func (d *daemon) transition(now time.Time, old uplinkState, known bool, u *plan.Uplink) api.Event {
	e := api.Event{Time: now, Uplink: u.Name, From: api.State(old.state), To: api.State(u.State), Reason: u.Reason, Noticed: d.noticed}
	verdicts := d.monitor.Verdicts()
	e.Cause = d.cause(old, known, u, verdicts)
	if e.Cause == api.CauseProbes {
		e.Noticed = doubted(e.Noticed, verdicts, u.Name, routes.IPv4, routes.IPv6)
	}
	return e
}

// transitions describes how an uplink whose state stays what it was lost one of
// its families, or has it back: connections move then, too.
func (d *daemon) transitions(now time.Time, old uplinkState, u *plan.Uplink) []api.Event {
	var all []api.Event
	verdicts := d.monitor.Verdicts()
	for i, f := range families {
		leg := u.Leg(f)
		if !leg.Wanted || leg.Usable == old.usable[i] {
			continue
		}
		e := api.Event{Time: now, Uplink: u.Name, Family: familyName(f), From: api.State(u.State), To: api.State(u.State), Reason: leg.Reason, Noticed: d.noticed}
		if e.Cause = api.CauseRecovered; !leg.Usable {
			e.Cause = lost(leg, verdicts[health.Leg{Uplink: u.Name, Family: f}])
		}
		if e.Cause == api.CauseProbes {
			e.Noticed = doubted(e.Noticed, verdicts, u.Name, f)
		}
		all = append(all, e)
	}
	return all
}

// doubted returns when the first answer was missing, if that was earlier.
func doubted(noticed time.Time, verdicts map[health.Leg]health.Verdict, uplink string, families ...routes.Family) time.Time {
	for _, f := range families {
		if v := verdicts[health.Leg{Uplink: uplink, Family: f}]; !v.Missed.IsZero() && v.Missed.Before(noticed) {
			noticed = v.Missed
		}
	}
	return noticed
}

// families are both, in the order in which they are shown.
var families = [...]routes.Family{routes.IPv4, routes.IPv6}

// familyName is a family as metrics and events have it.
func familyName(f routes.Family) string {
	if f == routes.IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// usable is what an uplink can carry, in the order of families.
func usable(u *plan.Uplink) [len(families)]bool { return [...]bool{u.V4.Usable, u.V6.Usable} }

// cause puts into one word why an uplink has another state.
func (d *daemon) cause(old uplinkState, known bool, u *plan.Uplink, verdicts map[health.Leg]health.Verdict) api.Cause {
	_, byHand := d.disabled[u.Name]
	slow := d.cfg.Uplink(u.Name).Health.DegradedLatency
	switch {
	case !known:
		return api.CauseStart
	case u.State == plan.Disabled && byHand, old.state == plan.Disabled && old.byHand && u.Usable():
		return api.CauseMaintenance
	case u.State == plan.Disabled, old.state == plan.Disabled && u.Usable():
		return api.CauseConfiguration
	case u.State == plan.Up, u.State == plan.Degraded && old.state == plan.Down:
		return api.CauseRecovered
	}
	// The leg whose reason the uplink's is.
	f := routes.IPv4
	if u.V6.Wanted && (!u.V4.Wanted || !u.V4.Linked && u.V6.Linked || u.State == plan.Degraded && !u.V4.Degraded) {
		f = routes.IPv6
	}
	leg, v := u.Leg(f), verdicts[health.Leg{Uplink: u.Name, Family: f}]
	switch {
	case u.State == plan.Degraded && slow > 0 && v.RTT > slow:
		return api.CauseLatency
	case u.State == plan.Degraded:
		return api.CauseLoss
	}
	return lost(leg, v)
}

// lost puts into one word why a leg carries nothing.
func lost(leg *plan.Leg, v health.Verdict) api.Cause {
	switch {
	case !leg.Linked:
		return api.CauseLink
	case leg.Unmet != "" && v.Missed.IsZero():
		return api.CauseGateway
	}
	return api.CauseProbes
}
