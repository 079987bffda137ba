package plan

import (
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/domains"
	"multiroute/routes"
)

// domains lists the domains of all rules, each list once. Their sets stay while
// their rules are not in force: what is in them takes time to be found again.
func (m *maker) domains() {
	for _, r := range m.Config.Rules {
		if len(r.Domains) == 0 {
			continue
		}
		l := domains.NewList(r.Domains)
		if i := slices.IndexFunc(m.Domains, func(o domains.List) bool { return o.ID == l.ID }); i >= 0 {
			m.Domains[i].Rules = append(m.Domains[i].Rules, r.Name)
			continue
		}
		l.Rules = []string{r.Name}
		m.Domains = append(m.Domains, l)
		m.NAT.Lists = append(m.NAT.Lists, l.Sets()...)
	}
}

// servers lists the DNS servers that can be reached: first those of uplinks that
// are well, in the order of the default policy's tiers, then of degraded ones,
// then of uplinks that the default policy does not have.
func (m *maker) servers() {
	for _, degraded := range []bool{false, true} {
		for _, names := range m.tiers(policies(m.Config)[0]) {
			for i, c := range m.Config.Uplinks {
				if slices.Contains(names, c.Name) {
					m.serversOf(c, &m.Uplinks[i], degraded)
				}
			}
		}
	}
	for i, c := range m.Config.Uplinks {
		m.serversOf(c, &m.Uplinks[i], true)
	}
}

func (m *maker) serversOf(c config.Uplink, u *Uplink, degraded bool) {
	for _, a := range c.DNS {
		if leg := u.Leg(routes.FamilyOf(a)); leg.Usable && (degraded || !leg.Degraded) && !slices.Contains(m.DNS, a) {
			m.DNS = append(m.DNS, a)
		}
	}
}
