package agent

import (
	"multiroute/agent/web"
	"multiroute/nat"
	"multiroute/routes"
)

// carried is what an uplink received and sent so far.
type carried struct {
	index int // of the interface that counts; 0: our rules do
	web.Traffic
}

// carried says it of every uplink of which it is known: by its own interface, or
// by our rules where it shares one.
func (d *daemon) carried(links []routes.Link) map[string]carried {
	all := map[string]carried{}
	for name, l := range d.ownLinks(links) {
		all[name] = carried{l.Index, web.Traffic{InPackets: l.RxPackets, OutPackets: l.TxPackets, InBytes: l.RxBytes, OutBytes: l.TxBytes}}
	}
	if !counting(d.plan.NAT.Uplinks) {
		return all
	}
	counters, err := d.table.Counters()
	if err != nil {
		d.Log.Debug("what uplinks carry cannot be read", "err", err)
	}
	for name, t := range byRules(d.plan.NAT.Uplinks, counters) {
		all[name] = carried{Traffic: t}
	}
	return all
}

// ownLinks are the interfaces that are one uplink's alone, by uplink.
func (d *daemon) ownLinks(links []routes.Link) map[string]*routes.Link {
	all := map[string]*routes.Link{}
	for _, u := range d.plan.Uplinks {
		for i := range links {
			if links[i].Name == u.Interface && ownInterface(d.cfg, u.Interface) {
				all[u.Name] = &links[i]
			}
		}
	}
	return all
}

// counting reports whether our rules count for any uplink.
func counting(uplinks []nat.Uplink) bool {
	for i := range uplinks {
		if uplinks[i].Counted {
			return true
		}
	}
	return false
}

// byRules is what our rules have counted, by uplink.
func byRules(uplinks []nat.Uplink, counters map[string]nat.Count) map[string]web.Traffic {
	all := map[string]web.Traffic{}
	for i := range uplinks {
		u := &uplinks[i]
		if !u.Counted {
			continue
		}
		downName, upName := u.Counters()
		down, isDown := counters[downName]
		up, isUp := counters[upName]
		if isDown && isUp {
			all[u.Name] = web.Traffic{InPackets: down.Packets, OutPackets: up.Packets, InBytes: down.Bytes, OutBytes: up.Bytes}
		}
	}
	return all
}
