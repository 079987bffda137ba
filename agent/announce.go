package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/hooks"
	"multiroute/agent/plan"
)

// announce tells of the changes that the kernel has caught up with: routes and
// connections of an uplink that died are elsewhere by now. A line in the log has
// all steps of a change, from the first doubt on; then the hooks run.
func (d *daemon) announce(now time.Time) {
	fresh := d.events.since(d.announced)
	if len(fresh) > 0 {
		select {
		case d.news <- struct{}{}:
		default: // nobody looks, or it is known already
		}
	}
	for _, e := range fresh {
		d.announced = e.ID
		after := func(t time.Time) time.Duration { return max(0, t.Sub(e.Noticed)) }
		done := []any{"id", e.ID, "uplink", e.Uplink}
		if e.Family != "" {
			done = append(done, "family", e.Family)
		}
		done = append(done, "from", e.From, "to", e.To, "cause", e.Cause, "reason", e.Reason,
			"noticed", e.Noticed.Format(time.RFC3339Nano), "decided_after", after(e.Time))
		if !e.Routed.IsZero() {
			done = append(done, "routed_after", after(e.Routed))
		}
		d.Log.Info("uplink change done", append(done, "done_after", after(now))...)
		if j, ok := d.job(e); ok {
			d.hooks.Add(j)
		}
	}
}

// job is what hooks do about an event, if they do anything.
func (d *daemon) job(e api.Event) (hooks.Job, bool) {
	if e.From == "" {
		e.From = api.State(d.inherited[e.Uplink].State)
	}
	i := slices.IndexFunc(d.plan.Uplinks, func(u plan.Uplink) bool { return u.Name == e.Uplink })
	if i < 0 || len(d.cfg.Hooks.OnChange) == 0 || e.From == e.To && e.Family == "" {
		return hooks.Job{}, false
	}
	return hooks.Job{Uplink: e.Uplink, Programs: d.cfg.Hooks.OnChange, Limit: d.cfg.Hooks.Timeout, Env: environment(e, d.plan.Uplinks[i])}, true
}

// untold is what hooks have not heard yet of what has happened.
func (d *daemon) untold() []hooks.Job {
	all := d.hooks.Pending()
	for _, e := range d.events.since(d.announced) {
		if j, ok := d.job(e); ok {
			all = append(all, j)
		}
	}
	return all
}

// retell has hooks hear what a predecessor did not come to tell them.
func (d *daemon) retell(cfg *config.Config) {
	for _, j := range d.remembered.Hooks {
		j.Programs = slices.DeleteFunc(slices.Clone(j.Programs), func(p string) bool { return !slices.Contains(cfg.Hooks.OnChange, p) })
		j.Limit = cfg.Hooks.Timeout
		d.hooks.Add(j)
	}
}

// environment is what hooks are told, as docs/how-it-works.md has it.
func environment(e api.Event, u plan.Uplink) []string {
	text := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	var addresses []string
	for _, a := range slices.Concat(u.V4.Addresses, u.V6.Addresses) {
		addresses = append(addresses, a.String())
	}
	return []string{
		"UPLINK=" + e.Uplink,
		"STATE=" + string(e.To),
		"PREVIOUS=" + string(e.From),
		"FAMILY=" + e.Family,
		"REASON=" + e.Reason,
		"CAUSE=" + string(e.Cause),
		"TIME=" + e.Time.Format(time.RFC3339),
		"EVENT=" + fmt.Sprint(e.ID),
		"INTERFACE=" + u.Interface,
		"ADDRESSES=" + strings.Join(addresses, " "),
		"GATEWAY=" + text(u.V4.Nexthop.Gateway),
		"GATEWAY6=" + text(u.V6.Nexthop.Gateway),
		"MARK=" + fmt.Sprintf("%#x", u.Mark),
		"TABLE=" + fmt.Sprint(u.Table),
	}
}
