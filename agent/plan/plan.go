package plan

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/domains"
	"multiroute/agent/health"
	"multiroute/agent/sysctl"
	"multiroute/nat"
	"multiroute/routes"
)

// Input is everything that a plan depends on.
type Input struct {
	Config *config.Config
	Facts  routes.Facts
	IDs    IDs
	// Health is what the probes say; a leg without an entry is well.
	Health map[health.Leg]health.Verdict
	// Disabled are the uplinks that somebody took out by hand, and in which
	// words.
	Disabled map[string]string
	// Balance are weights by policy and uplink: those that follow what is
	// measured. What has none has the configured one.
	Balance map[string]map[string]int
	// Ports are those of the router's own programs. With PortsUnread it is not
	// known whether they are still the same.
	Ports       sysctl.Ports
	PortsUnread error
	// Notes are left in the kernel's table.
	Notes []string
	// Now, in the local time zone, decides which rules are in force.
	Now time.Time
}

// Plan is everything that the kernel should do, and why. It is a value: nobody
// writes to it after Make returned it. The first policy is the default one.
type Plan struct {
	NAT      nat.Spec
	Routes   routes.Spec
	Sysctls  []sysctl.Setting
	Uplinks  []Uplink // as configured
	Policies []Policy
	Warnings []string     // what a person should look at, in a stable order
	Gateways []netip.Addr // whose neighbour entries matter
	// Domains are those of all rules, whether in force now or not.
	Domains []domains.List
	// DNS are the servers of the uplinks that are usable, those of uplinks that
	// carry the default policy before others'.
	DNS []netip.Addr
}

// State is an uplink's state in the words of "agent status".
type State string

// The states of an uplink.
const (
	Up       State = "up"
	Degraded State = "degraded" // no new connections while others are better
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
	Metered   bool   // its connections leave it when a better tier is back
	Reason    string // why it is not up; where it is up, why one family is not; else empty
	V4, V6    Leg
	// Translations are what clients' IPv6 sources become on it, by prefix.
	Translations []nat.Translation
	Delegated    netip.Prefix // its own IPv6 prefix, of which they are; not valid: none
}

// Leg is an uplink in one family.
type Leg struct {
	// Linked: link, address and gateway are there, so packets can leave by it.
	// Probes do, and answers to what came in, whatever its health.
	Linked bool
	// Usable: linked, well, and not taken out: connections may be put on it.
	Usable bool
	// Degraded: usable, but only while no better one is.
	Degraded  bool
	Reason    string // why it is not usable or degraded
	Wanted    bool   // false: this family is switched off here
	Unmet     string // why its gateway cannot be reached although the leg is linked; else empty
	Nexthop   routes.Nexthop
	Addresses []netip.Addr // the uplink's own
	Source    netip.Addr   // fixed source for NAT; invalid: masquerade
}

// Usable reports whether the uplink can carry anything.
func (u Uplink) Usable() bool { return u.V4.Usable || u.V6.Usable }

// Usable reports whether the uplink with that mark can carry anything in family
// f; 0: in any.
func (p *Plan) Usable(mark uint32, f routes.Family) bool {
	return slices.ContainsFunc(p.Uplinks, func(u Uplink) bool {
		return u.Mark == mark && (f == 0 && u.Usable() || f != 0 && u.Leg(f).Usable)
	})
}

// Own reports whether the router's own connections come from that address.
func (p *Plan) Own(a netip.Addr) bool {
	return slices.Contains(p.NAT.Own, a) || slices.ContainsFunc(p.Uplinks, func(u Uplink) bool {
		return slices.Contains(u.V4.Addresses, a) || slices.Contains(u.V6.Addresses, a)
	})
}

// Leg returns the uplink in family f.
func (u *Uplink) Leg(f routes.Family) *Leg {
	if f == routes.IPv4 {
		return &u.V4
	}
	return &u.V6
}

// Policy is what carries a policy's traffic now.
type Policy struct {
	Name   string
	ID     int
	Mark   uint32
	Table  int
	V4, V6 Choice
	// Uplinks are those that may carry it, in any tier.
	Uplinks []string
	// MoveBack: when a better tier is back, the connections move to it, too.
	MoveBack bool
	Bypass   bool // the main table carries it
	Implied  bool // a rule needs it; nobody has written it
}

// Choice is who carries a policy's traffic in one family.
type Choice struct {
	Tier    int // index of the tier in use; NoTier: nobody is usable, and members are those of the default policy
	Members []Member
}

// NoTier is the tier of a policy that nobody carries.
const NoTier = -1

// Choice returns who carries the policy in family f.
func (p *Policy) Choice(f routes.Family) *Choice {
	if f == routes.IPv4 {
		return &p.V4
	}
	return &p.V6
}

// Either sums both families up: IPv4's tier if there is one, and all members.
func (p *Policy) Either() Choice {
	c := p.V4
	if c.Tier == NoTier {
		c.Tier = p.V6.Tier
	}
	c.Members = slices.Clone(c.Members)
	for _, m := range p.V6.Members {
		if !slices.Contains(c.Members, m) {
			c.Members = append(c.Members, m)
		}
	}
	return c
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
		m.judge(&m.Uplinks[i])
	}
	for _, p := range policies(in.Config) {
		m.Policies = append(m.Policies, m.makePolicy(p))
	}
	m.prefixes()
	m.routing()
	m.nat()
	m.rules()
	m.domains()
	m.servers()
	m.sticky()
	m.destinations()
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
