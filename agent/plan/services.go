package plan

import (
	"cmp"
	"slices"

	"multiroute/nat"
)

// Services of Linux machines have ports below those that the kernel gives away
// by itself, because any program could have such a port already. WireGuard's is
// the exception; others are told to the kernel (ip_local_reserved_ports).
const (
	firstGiven = 32768 // where ip_local_port_range begins unless somebody moved it
	// firstDynamic is the first of the ports that no service is assigned to (RFC
	// 6335, section 6), and that many clients choose theirs from.
	firstDynamic = 49152
	wireGuard    = 51820
	// fewPorts is how many ports clients should have: so many of their
	// connections to one port of one server are possible at once.
	fewPorts = 4096
)

// services keeps clients away from the ports of the router's own services.
//
// Where the kernel begins to give ports away later than usual, services may have
// more. It does not count when it begins earlier, which people do who need many
// ports, not those whose services have moved: 1194 or 5060 still are services
// then. What somebody reserves is a service in any case.
func (m *maker) services() {
	if len(m.router.LAN) == 0 {
		return
	}
	if m.PortsUnread != nil {
		m.warn("the ports of the router's own services are not all known: %v", m.PortsUnread)
	}
	given := min(max(m.Ports.First, firstGiven), firstDynamic)
	own := []nat.PortRange{{Lo: 0, Hi: given - 1}, {Lo: wireGuard, Hi: wireGuard}}
	all := slices.Clone(own)
	for _, r := range m.Ports.Reserved {
		all = append(all, nat.PortRange(r))
	}
	clients, n := widest(all)
	switch {
	case n == 0:
		m.warn("net.ipv4.ip_local_reserved_ports reserves all ports from %d up, which clients get all the same: reserve fewer, so that %d in a row are left", given, fewPorts)
		all = own
		clients, _ = widest(all)
	case n < fewPorts:
		m.warn("net.ipv4.ip_local_reserved_ports leaves clients that send from a service's port only ports %d-%d: "+
			"reserve fewer, or close together, so that %d in a row are left", clients.Lo, clients.Hi, fewPorts)
	}
	m.NAT.Services, m.NAT.ClientPorts = all, clients
}

// widest returns the longest stretch of ports that are no service's, the lowest
// of equals, and how many they are. It sorts services.
func widest(services []nat.PortRange) (best nat.PortRange, most int) {
	slices.SortFunc(services, func(a, b nat.PortRange) int { return cmp.Compare(a.Lo, b.Lo) })
	next := 0 // behind the services so far
	stretch := func(end int) {
		if n := end - next; n > most {
			best, most = nat.PortRange{Lo: uint16(next), Hi: uint16(end - 1)}, n
		}
	}
	for _, s := range services {
		stretch(int(s.Lo))
		next = max(next, int(s.Hi)+1)
	}
	stretch(1 << 16)
	return best, most
}
