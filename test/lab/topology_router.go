//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// NewRouter builds a router with one NIC per uplink:
//
//	eth0  LAN     192.168.0.1/24, fd00:1::1/64
//	eth1  dsl     142.154.64.7/24  gateway 142.154.64.1   DNS server 142.154.61.100
//	eth2  cable   24.19.12.45/24   gateway 24.19.12.1     DNS server 24.19.100.1, and 10.1.2.3
//	ethN  upN     198.18.N.2/24    gateway 198.18.N.1     DNS server 198.19.N.53
//
// The DNS servers, and 10.1.2.3, answer only behind that provider. In IPv6 every uplink N (in hexadecimal) has 2001:db8:N::2/64, the gateway
// fe80::N:1 (also 2001:db8:N::1), the delegated prefix 2001:db8:N:ff00::/56, and the DNS server 2001:db8:ffaa:N::53.
func NewRouter(o Options) (*Topology, error) {
	if o.Uplinks == 0 {
		o.Uplinks = 2
	}
	if o.Uplinks < 0 || o.Uplinks > MaxUplinks {
		return nil, fmt.Errorf("building a router: %d uplinks", o.Uplinks)
	}
	t := &Topology{options: o, LAN: "eth0"}
	for id := 1; id <= o.Uplinks; id++ {
		u := newUplink(t, id, routerUplink(id))
		u.Interface = fmt.Sprintf("eth%d", id)
		t.Uplinks = append(t.Uplinks, u)
	}
	if err := t.buildRouter(); err != nil {
		t.Close()
		return nil, fmt.Errorf("building a router: %w", err)
	}
	return t, nil
}

// buildRouter makes the kernel's part.
func (t *Topology) buildRouter() error {
	if err := t.build(); err != nil {
		return err
	}
	if err := t.buildLAN(); err != nil {
		return err
	}
	for _, u := range t.Uplinks {
		if err := u.Plug(); err != nil {
			return fmt.Errorf("plugging in %s: %w", u.Name, err)
		}
	}
	return t.finish()
}

// routerUplink has the IPv4 side of an uplink of NewRouter.
func routerUplink(id int) Uplink {
	addr := netip.MustParseAddr
	switch id {
	case 1:
		return Uplink{Name: "dsl", Address: netip.MustParsePrefix("142.154.64.7/24"), Gateway: addr("142.154.64.1"), DNS: addr("142.154.61.100")}
	case 2:
		return Uplink{Name: "cable", Address: netip.MustParsePrefix("24.19.12.45/24"), Gateway: addr("24.19.12.1"), DNS: addr("24.19.100.1"),
			Private: addr("10.1.2.3")}
	}
	n := byte(id)
	return Uplink{
		Name:    fmt.Sprintf("up%d", id),
		Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, n, 2}), 24),
		Gateway: netip.AddrFrom4([4]byte{198, 18, n, 1}),
		DNS:     netip.AddrFrom4([4]byte{198, 19, n, 53}),
	}
}
