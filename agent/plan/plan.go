package plan

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/sysctl"
	"multiroute/nat"
	"multiroute/routes"
)

// Input is everything that a plan depends on.
type Input struct {
	Config *config.Config
	Facts  routes.Facts
	IDs    IDs
}

// Plan is everything that the kernel should do, and why. It is a value: nobody
// writes to it after Make returned it.
type Plan struct {
	NAT      nat.Spec
	Routes   routes.Spec
	Sysctls  []sysctl.Setting
	Uplinks  []Uplink // as configured
	Policies []Policy
	Warnings []string     // what a person should look at, in a stable order
	Gateways []netip.Addr // whose neighbour entries matter
}

// State is an uplink's state in the words of "agent status".
type State string

// The states that exist so far.
const (
	Up       State = "up"
	Down     State = "down"
	Disabled State = "disabled"
)

// Uplink is what became of one configured uplink.
type Uplink struct {
	Name      string
	ID        int
	Mark      uint32
	Table     int
	Interface string
	State     State
	Reason    string // why it is not up; where it is up, why one family is not; else empty
	V4, V6    Leg
}

// Leg is an uplink in one family.
type Leg struct {
	Usable    bool
	Reason    string // why not
	Wanted    bool   // false: this family is switched off here
	Nexthop   routes.Nexthop
	Addresses []netip.Addr // the uplink's own
	Source    netip.Addr   // fixed source for NAT; invalid: masquerade
}

// Usable reports whether the uplink can carry anything.
func (u Uplink) Usable() bool { return u.V4.Usable || u.V6.Usable }

// leg returns the uplink in family f.
func (u *Uplink) leg(f routes.Family) *Leg {
	if f == routes.IPv4 {
		return &u.V4
	}
	return &u.V6
}

// Policy is what carries a policy's traffic now.
type Policy struct {
	Name    string
	ID      int
	Mark    uint32
	Table   int
	Members []Member
}

// Member is a usable uplink of a policy.
type Member struct {
	Uplink string
	Weight int
}

// Make plans. It never fails: what cannot be done now is a state with a reason
// or a warning, and the rest is done.
func Make(in Input) Plan {
	m := maker{Input: in, router: in.Config.Router}
	for i := range in.Config.Uplinks {
		m.Uplinks = append(m.Uplinks, m.resolve(&in.Config.Uplinks[i]))
	}
	m.twins()
	for i := range m.Uplinks {
		m.judge(&in.Config.Uplinks[i], &m.Uplinks[i])
	}
	for _, p := range in.Config.Policies {
		id := in.IDs.Policies[p.Name]
		m.Policies = append(m.Policies, Policy{Name: p.Name, ID: id, Mark: m.mark(id), Table: m.table(id), Members: m.members(p)})
	}
	m.routing()
	m.nat()
	m.sysctls()
	m.warnings()
	return m.Plan
}

type maker struct {
	Input
	Plan
	router config.Router
}

func (m *maker) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

// shift is the number of bits below the mask.
func shift(mask uint32) int { return bits.TrailingZeros32(mask) }

func (m *maker) mark(id int) uint32 { return uint32(id) << shift(m.router.MarkMask) }
func (m *maker) table(id int) int   { return m.router.TableBase + id }

// pins is the table of destinations that belong to one uplink; id 0 is
// nobody's.
func (m *maker) pins() int { return m.router.TableBase }

// families are those that we route: IPv6 is left alone where every uplink has
// it switched off.
func (m *maker) families() []routes.Family {
	if slices.ContainsFunc(m.Uplinks, func(u Uplink) bool { return u.V6.Wanted }) {
		return []routes.Family{routes.IPv4, routes.IPv6}
	}
	return []routes.Family{routes.IPv4}
}

func (m *maker) members(p config.Policy) []Member {
	var members []Member
	for i, u := range m.Uplinks {
		if !u.Usable() {
			continue
		}
		weight := m.Config.Uplinks[i].Weight
		if w, ok := p.Weights[u.Name]; ok {
			weight = w
		}
		members = append(members, Member{u.Name, weight})
	}
	return members
}

// shared reports whether several uplinks use this interface.
func (m *maker) shared(name string) bool {
	n := 0
	for _, u := range m.Config.Uplinks {
		if u.Interface == name {
			n++
		}
	}
	return n > 1
}
