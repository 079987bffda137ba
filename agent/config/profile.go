package config

import (
	"fmt"
	"slices"
	"time"
)

// profileNumbers returns the numbers that a profile sets together. Those of
// "normal" stand in the contract, too, as defaults.
func profileNumbers(name string) Health {
	const ms = time.Millisecond
	switch name {
	case "fast":
		return Health{Interval: 100 * ms, Timeout: 500 * ms, Floor: 100 * ms, SuspectInterval: 40 * ms,
			DownAfter: 4, UpAfter: 5, HoldDown: 5 * time.Second}
	case "metered":
		return Health{Interval: 5 * time.Second, Timeout: 2 * time.Second, Floor: 200 * ms, SuspectInterval: 500 * ms,
			DownAfter: 5, UpAfter: 3, HoldDown: 10 * time.Second}
	}
	return Health{Interval: 500 * ms, Timeout: time.Second, Floor: 200 * ms, SuspectInterval: 100 * ms,
		DownAfter: 5, UpAfter: 5, HoldDown: 10 * time.Second}
}

// probing is how one uplink is probed, or all that say nothing themselves, and
// by which tables. From weak to strong: the profile of [health], the keys of
// [health], the profile of the uplink (or "metered" where the uplink is), the
// keys of the uplink.
type probing struct {
	Health
	profile string
	layers  []*node // the tables whose numbers count, the weakest first; nil where there is none
}

// newProbing puts together what all, which is [health], and own, which is
// [uplink.NAME.health], say. Either may be nil.
func newProbing(s *spec, all, own *node, metered bool) probing {
	p := probing{profile: value[string](s, all, "profile"), layers: []*node{all, own}}
	h := Health{
		Targets:         value[[]Target](s, all, "targets"),
		Targets6:        value[[]Target](s, all, "targets6"),
		DegradedLoss:    value[int](s, all, "degraded_loss"),
		DegradedLatency: value[time.Duration](s, all, "degraded_latency"),
	}
	take(&h.Targets, own.get("targets"))
	take(&h.Targets6, own.get("targets6"))
	take(&h.DegradedLoss, own.get("degraded_loss"))
	take(&h.DegradedLatency, own.get("degraded_latency"))
	if metered {
		p.profile, p.layers = "metered", []*node{own}
	}
	if n := own.get("profile"); n != nil && n.val != nil {
		p.profile, p.layers = n.val.(string), []*node{own}
	}

	n := profileNumbers(p.profile)
	for _, layer := range p.layers {
		take(&n.Interval, layer.get("interval"))
		take(&n.Timeout, layer.get("timeout"))
		take(&n.SuspectInterval, layer.get("suspect_interval"))
		take(&n.DownAfter, layer.get("down_after"))
		take(&n.UpAfter, layer.get("up_after"))
		take(&n.HoldDown, layer.get("hold_down"))
	}
	n.Targets, n.Targets6 = orNil(h.Targets), orNil(h.Targets6)
	n.DegradedLoss, n.DegradedLatency = h.DegradedLoss, h.DegradedLatency
	p.Health = n
	return p
}

// written returns the strongest table that has key, and what it has; nil if none does.
func (p *probing) written(key string) (layer, n *node) {
	for _, l := range slices.Backward(p.layers) {
		if n := l.get(key); n != nil {
			return l, n
		}
	}
	return nil, nil
}

// buildHealth puts together how an uplink is probed. That [health] names the
// gateway as a target means nothing to an uplink that has none.
func buildHealth(u *Uplink, s *spec, all, own *node) Health {
	h := newProbing(s, all, own, u.Metered).Health
	isGateway := func(t Target) bool { return t.Scheme == GatewayTarget }
	if u.Gateway.Mode == GatewayNone {
		h.Targets = orNil(slices.DeleteFunc(h.Targets, isGateway))
	}
	if u.Gateway6.Mode == GatewayNone {
		h.Targets6 = orNil(slices.DeleteFunc(h.Targets6, isGateway))
	}
	return h
}

// checkHealth reports numbers that do not fit together, and gateways to probe
// where there is none. What is wrong in [health] is reported once.
func (r *reader) checkHealth(s *spec, root *node, uplinks []uplinkNode) {
	all := root.get("health")
	r.checkNumbers(newProbing(s, all, nil, false), all, keyPath{"health"})
	for _, u := range uplinks {
		own := u.n.get("health")
		if u.good("metered") {
			r.checkNumbers(newProbing(s, all, own, u.Metered), own, u.path("health"))
		}
		r.checkGatewayTargets(u, "targets", "gateway")
		r.checkGatewayTargets(u, "targets6", "gateway6")
	}
}

// checkGatewayTargets reports that u has no gateway to probe.
func (r *reader) checkGatewayTargets(u uplinkNode, key, gateway string) {
	list := u.n.get("health").get(key)
	if list == nil || list.bad || list.val == nil || !u.good(gateway) || u.gateway(gateway).Mode != GatewayNone {
		return
	}
	for i, t := range list.val.([]Target) {
		if t.Scheme == GatewayTarget {
			r.fail(list.entries()[i], u.path("health").add(key), fmt.Sprintf(`%s = "none" leaves no gateway to probe: remove "gateway" from the list`, gateway))
		}
	}
}

// checkNumbers reports numbers that do not fit together if the stronger one is
// written in table, which is at path.
func (r *reader) checkNumbers(p probing, table *node, path keyPath) {
	for _, l := range p.layers {
		for _, k := range l.names() {
			if n := l.get(k); n.bad || n.val == nil {
				return
			}
		}
	}
	if layer, n := p.written("timeout"); n != nil && layer == table && p.Timeout < p.Floor {
		r.failAt(n.file, n.line, path.add("timeout").String(), fmt.Sprintf("%q is shorter than the %q that profile %q waits at least: write %[2]q or more%[4]s",
			short(p.Timeout), short(p.Floor), p.profile, lowerFloor(p)))
	}
	if p.SuspectInterval <= p.Interval {
		return
	}
	usual, n := p.written("interval")
	suspect, m := p.written("suspect_interval")
	if m != nil && suspect == table {
		r.failAt(m.file, m.line, path.add("suspect_interval").String(), fmt.Sprintf("%q is longer than interval, which is %q: after a miss probes come more often, not less: write %[2]q or less",
			short(p.SuspectInterval), short(p.Interval)))
	} else if n != nil && usual == table {
		r.failAt(n.file, n.line, path.add("interval").String(), fmt.Sprintf("%q is shorter than suspect_interval, which is %q: write suspect_interval = %[1]q or less, too",
			short(p.Interval), short(p.SuspectInterval)))
	}
}

// lowerFloor says which profile would allow the timeout.
func lowerFloor(p probing) string {
	if p.Timeout >= profileNumbers("fast").Floor {
		return `, or profile = "fast"`
	}
	return ""
}
