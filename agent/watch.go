package agent

import (
	"crypto/rand"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/domains"
	"multiroute/agent/health"
	"multiroute/agent/plan"
	"multiroute/agent/probe"
	"multiroute/agent/sysctl"
	"multiroute/routes"
)

// watcher probes the uplinks.
type watcher interface {
	Watch([]health.Watched)
	Hold(bool)
	Verdicts() map[health.Leg]health.Verdict
	Memories() map[health.Leg]health.Memory
}

// makePlan plans with what the probes say now. They are told first what has
// become of links, addresses and gateways: what is gone has to be well for a
// while when it comes back.
func (d *daemon) makePlan(now time.Time, facts routes.Facts) plan.Plan {
	in := plan.Input{Config: d.cfg, Facts: facts, IDs: d.ids, Health: d.monitor.Verdicts(), Disabled: d.disabled.reasons(), Balance: d.balancer.Weights(), Notes: d.notes, Now: now}
	in.Ports, in.PortsUnread = d.readPorts()
	p := plan.Make(in)
	d.monitor.Watch(watchedLegs(d.cfg, p, &facts))
	d.rulesChange = d.cfg.NextChange(now)
	verdicts := d.monitor.Verdicts()
	if !sameVerdicts(in.Health, verdicts) {
		in.Health = verdicts
		p = plan.Make(in)
	}
	if d.balancer.Join(now, groups(d.cfg, p, verdicts)) {
		in.Balance = d.balancer.Weights()
		p = plan.Make(in)
	}
	return p
}

// readPorts returns the ports of the router's own programs. Where they cannot be
// read, those that were known last stay in force: a failover does not wait for
// them.
func (d *daemon) readPorts() (sysctl.Ports, error) {
	ports, err := d.sysctl.Ports()
	if err == nil {
		d.ports = ports
	}
	return d.ports, err
}

// sameVerdicts reports whether a plan would be the same for both.
func sameVerdicts(a, b map[health.Leg]health.Verdict) bool {
	for leg, v := range b {
		if old := a[leg]; old.State != v.State || old.Reason != v.Reason {
			return false
		}
	}
	return true
}

// watchedLegs lists what is to be probed: every uplink that is not taken out,
// in each of its families.
func watchedLegs(cfg *config.Config, p plan.Plan, facts *routes.Facts) []health.Watched {
	var all []health.Watched
	for i := range p.Uplinks {
		u, c := &p.Uplinks[i], &cfg.Uplinks[i]
		if u.State == plan.Disabled {
			continue
		}
		for _, f := range families {
			leg := u.Leg(f)
			if !leg.Wanted {
				continue
			}
			w := health.Watched{Leg: health.Leg{Uplink: u.Name, Family: f}, Settings: c.Health}
			if leg.Linked {
				w.Path = pathOf(c, u, f)
				if probed(c.Health, f) { // else nobody would send what makes the kernel look for the gateway again
					w.Gone = leg.Unmet
				}
				if l := facts.Link(u.Interface); l != nil && ownInterface(cfg, u.Interface) {
					w.Traffic = l.Index
				}
			} else {
				w.Gone = leg.Reason
			}
			all = append(all, w)
		}
	}
	return all
}

// probed reports whether a family has targets.
func probed(h config.Health, f routes.Family) bool {
	if f == routes.IPv6 {
		return len(h.Targets6) > 0
	}
	return len(h.Targets) > 0
}

// pathOf is how an uplink's probes leave.
func pathOf(c *config.Uplink, u *plan.Uplink, f routes.Family) *health.Path {
	leg := u.Leg(f)
	path := &health.Path{Interface: u.Interface, Index: leg.Nexthop.Index, Mark: u.Mark, Source: leg.Addresses[0], Gateway: leg.Nexthop.Gateway}
	if leg.Source.IsValid() {
		path.Source = leg.Source
	}
	path.DNS = slices.DeleteFunc(slices.Clone(c.DNS), func(a netip.Addr) bool { return routes.FamilyOf(a) != f })
	return path
}

// ownInterface reports whether an interface is one uplink's alone, so that its
// counters are the uplink's.
func ownInterface(cfg *config.Config, name string) bool {
	n := 0
	for _, u := range cfg.Uplinks {
		if u.Interface == name {
			n++
		}
	}
	return n == 1 && !slices.Contains(cfg.Router.LAN, name)
}

// nobody watches nothing: every uplink is as well as its link. Nor does it
// resolve names.
type nobody struct{}

func (nobody) Watch([]health.Watched)                  {}
func (nobody) Hold(bool)                               {}
func (nobody) Verdicts() map[health.Leg]health.Verdict { return nil }
func (nobody) Update(domains.Wanted, bool)             {}
func (nobody) Warnings() []string                      { return nil }
func (nobody) Memories() map[health.Leg]health.Memory  { return nil }

// watch prepares the probes, with what a predecessor left at path.
func (d *daemon) watch(path string, alarm health.Alarm, counters *routes.Counters) (*health.Monitor, error) {
	kept, err := recall(path)
	if err != nil {
		return nil, err
	}
	monitor := health.NewMonitor(health.Options{
		Open:     probe.Opener(probe.Options{Log: d.Log, Random: rand.Reader}),
		Alarm:    alarm,
		Counters: counters.Read,
		Changed:  d.changed,
		Log:      d.Log,
		Rand:     mathrand.Float64,
		Memory:   kept.Legs,
	})
	d.monitor, d.memoryFile, d.remembered, d.inherited = monitor, path, kept, kept.Uplinks
	maps.Copy(d.disabled, kept.Disabled)
	return monitor, nil
}
