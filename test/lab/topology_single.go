//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// NewSingleNIC builds a router whose uplinks share one NIC, on one segment (Topology.Switch):
//
//	eth0  one    192.168.1.100/24  gateway 192.168.1.1   DNS server 198.19.1.53
//	      two    10.0.0.100/24     gateway 10.0.0.1      DNS server 198.19.2.53
//	      three  172.16.5.100/24   gateway 172.16.5.1    DNS server 198.19.3.53
//	                               (with Apart: the last of them on a NIC of its own, eth2)
//	eth1  LAN    192.168.0.1/24    (with LANOnNIC: on eth0, and the clients on the segment)
//
// IPv6 is as in NewRouter, and the gateways differ by their link-local address. A provider judges what is sent to its own gateway's MAC address.
func NewSingleNIC(o Options) (*Topology, error) {
	if o.Uplinks == 0 {
		o.Uplinks = 3
	}
	if o.Uplinks < 0 || o.Uplinks > 3 || len(o.Wires) > 0 {
		return nil, fmt.Errorf("building a single NIC: %d uplinks, %d wires", o.Uplinks, len(o.Wires))
	}
	t := &Topology{options: o, LAN: "eth1"}
	if o.LANOnNIC {
		t.LAN = "eth0"
	}
	for id := 1; id <= o.Uplinks; id++ {
		u := newUplink(t, id, singleUplink(id))
		u.Interface = "eth0"
		if o.Apart && id == o.Uplinks {
			u.Interface = "eth2"
		}
		t.Uplinks = append(t.Uplinks, u)
	}
	if err := t.buildSingle(); err != nil {
		t.Close()
		return nil, fmt.Errorf("building a single NIC: %w", err)
	}
	return t, nil
}

// buildSingle makes the kernel's part.
func (t *Topology) buildSingle() (err error) {
	if err := t.build(); err != nil {
		return err
	}
	if t.Switch, err = newSwitch("switch"); err != nil {
		return err
	}
	if err := Veth(t.Router, "eth0", t.Switch, "router"); err != nil {
		return err
	}
	if err := plugIn(t.Switch, "router"); err != nil {
		return err
	}
	if err := t.Router.Up("eth0"); err != nil {
		return err
	}
	for _, u := range t.Uplinks {
		if u.Interface == "eth0" {
			u.hub = t.Switch
		}
		if err := u.Plug(); err != nil {
			return fmt.Errorf("plugging in %s: %w", u.Name, err)
		}
	}
	if err := t.buildLAN(); err != nil {
		return err
	}
	return t.finish()
}

// singleUplink has the IPv4 side of an uplink of NewSingleNIC.
func singleUplink(id int) Uplink {
	nets := [...]string{"192.168.1", "10.0.0", "172.16.5"}
	return Uplink{
		Name:    [...]string{"one", "two", "three"}[id-1],
		Address: netip.MustParsePrefix(nets[id-1] + ".100/24"),
		Gateway: netip.MustParseAddr(nets[id-1] + ".1"),
		DNS:     netip.AddrFrom4([4]byte{198, 19, byte(id), 53}),
	}
}
