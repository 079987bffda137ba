package agent

import (
	"slices"
	"time"

	"multiroute/agent/balance"
	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/agent/plan"
	"multiroute/routes"
)

// interfaces reads the counters of interfaces.
type interfaces interface {
	Read() (map[int]routes.Counter, error)
}

// nothing has no interfaces to count at.
type nothing struct{}

func (nothing) Read() (map[int]routes.Counter, error) { return nil, nil }

// rebalance measures once a second, where some policy wants it, and reports
// whether weights changed, so that routes are to be written.
func (d *daemon) rebalance(now time.Time) bool {
	if measures(d.cfg) {
		counters, err := d.traffic()
		if err == nil {
			d.balancer.Count(now, counters)
		} else if !d.uncounted {
			d.Log.Warn("what uplinks carry cannot be counted: they are balanced as they were last", "err", err)
		}
		d.uncounted = err != nil
	}
	var verdicts map[health.Leg]health.Verdict
	if balances(d.cfg) {
		verdicts = d.monitor.Verdicts()
	}
	changed := d.balancer.Step(now, groups(d.cfg, d.plan, verdicts))
	if changed {
		d.Log.Debug("uplinks share new connections by other weights", "weights", d.balancer.Weights())
	}
	return changed
}

// measures reports whether a policy wants to know what uplinks carry.
func measures(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Policies, func(p config.Policy) bool { return p.Balance == config.BalanceCapacity })
}

// balances reports whether a policy goes by what is measured.
func balances(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Policies, func(p config.Policy) bool { return p.Balance != config.BalanceWeight })
}

// traffic reads what each uplink has carried: from its own interface, or from
// the counters in our rules where it shares one.
func (d *daemon) traffic() (map[string]balance.Bytes, error) {
	links, err := d.links.Read()
	if err != nil {
		return nil, err
	}
	all := map[string]balance.Bytes{}
	for _, u := range d.plan.Uplinks {
		index := max(u.V4.Nexthop.Index, u.V6.Nexthop.Index) // one, or none where a family has none
		if c, ok := links[index]; ok && ownInterface(d.cfg, u.Interface) {
			all[u.Name] = balance.Bytes{Down: c.InBytes, Up: c.OutBytes}
		}
	}
	if !counting(d.plan.NAT.Uplinks) {
		return all, nil
	}
	counters, err := d.table.Counters()
	if err != nil {
		return nil, err
	}
	for name, t := range byRules(d.plan.NAT.Uplinks, counters) {
		all[name] = balance.Bytes{Down: t.InBytes, Up: t.OutBytes}
	}
	return all, nil
}

// groups are those who share new connections by what is measured: of each such
// policy the uplinks that carry it, in each tier that does in some family.
func groups(cfg *config.Config, p plan.Plan, verdicts map[health.Leg]health.Verdict) []balance.Group {
	var all []balance.Group
	for i := range p.Policies {
		policy := cfg.Policy(p.Policies[i].Name)
		if policy == nil || policy.Balance == config.BalanceWeight {
			continue
		}
		first := len(all)
		for _, f := range families {
			choice := p.Policies[i].Choice(f)
			if choice.Tier == plan.NoTier {
				continue
			}
			at := slices.IndexFunc(all[first:], func(g balance.Group) bool { return g.Tier == choice.Tier })
			if at < 0 {
				at = len(all) - first
				all = append(all, balance.Group{Policy: policy.Name, Tier: choice.Tier, Method: method(policy.Balance)})
			}
			g := &all[first+at]
			for _, m := range choice.Members {
				if !slices.ContainsFunc(g.Members, func(o balance.Member) bool { return o.Uplink == m.Uplink }) {
					g.Members = append(g.Members, member(*policy, cfg.Uplink(m.Uplink), verdicts))
				}
			}
		}
	}
	return all
}

func method(b config.Balance) balance.Method {
	if b == config.BalanceLatency {
		return balance.Latency
	}
	return balance.Capacity
}

// member is what is known of an uplink. Its round trip is the usual one of the
// first family in which probes are answered: a single late answer says nothing.
func member(p config.Policy, u *config.Uplink, verdicts map[health.Leg]health.Verdict) balance.Member {
	m := balance.Member{Uplink: u.Name, Weight: p.Weight(u), Down: u.Bandwidth.Down, Up: u.Bandwidth.Up}
	for _, f := range families {
		if v := verdicts[health.Leg{Uplink: u.Name, Family: f}]; v.State != health.Down && v.Usual.RTT > 0 {
			m.RTT, m.Jitter = v.Usual.RTT, v.Usual.Jitter
			break
		}
	}
	return m
}

// foresee returns the weights that a plan would be given: those in force, and
// where there are none, those to begin with.
func foresee(in plan.Input, p plan.Plan) balance.Weights {
	var begin balance.Balancer
	begin.Join(in.Now, groups(in.Config, p, in.Health))
	weights := balance.Weights{}
	for policy, w := range begin.Weights() {
		if known := in.Balance[policy]; len(known) > 0 {
			w = known
		}
		weights[policy] = w
	}
	return weights
}
