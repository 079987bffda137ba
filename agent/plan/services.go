package plan

import "multiroute/nat"

// Services of Linux machines have ports below those that the kernel gives away
// by itself (ip_local_port_range begins at 32768), because any program could
// have such a port already. WireGuard's is the exception.
const (
	firstGiven = 32768
	wireGuard  = 51820
)

// services keeps clients away from the ports of the router's own services.
func (m *maker) services() {
	if len(m.router.LAN) == 0 {
		return
	}
	m.NAT.Services = []nat.PortRange{{Lo: 0, Hi: firstGiven - 1}, {Lo: wireGuard, Hi: wireGuard}}
	m.NAT.ClientPorts = nat.PortRange{Lo: firstGiven, Hi: wireGuard - 1}
}
