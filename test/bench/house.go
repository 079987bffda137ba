//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// The addresses of a house. What is measured goes from client to targets; uplink N has 10.64.N.2, its gateway is 10.64.N.1.
var (
	clientAddress = netip.MustParsePrefix("192.168.0.10/24")
	routerAddress = netip.MustParsePrefix("192.168.0.1/24")
	targets       = netip.MustParsePrefix("198.18.0.0/15") // for benchmarks: RFC 2544
)

// house is a router between a client and the other ends of its uplinks. Both sides drop what is measured as the first thing they do with it, in
// silence; everything else (neighbours, probes) is answered as usual.
//
//	client eth0 --- eth0 router eth1 --- isp1 internet
//	                       eth2 --- isp2
type house struct {
	*lab.Topology
	internet *lab.NS

	lan  wire   // from the client to the router
	wans []wire // from the internet to the router
}

// wire is the far end of one of the router's cables: what it takes to send a frame to the router by it.
type wire struct {
	name     string
	index    int
	from, to net.HardwareAddr
}

// newHouse builds a house. Nothing in the router is configured but addresses, and a default route per uplink in table main, as DHCP clients leave
// them.
func newHouse(uplinks int) (*house, error) {
	h := &house{Topology: &lab.Topology{LAN: "eth0"}}
	if err := h.build(uplinks); err != nil {
		h.Close()
		return nil, fmt.Errorf("building a house with %d uplinks: %w", uplinks, err)
	}
	return h, nil
}

func (h *house) build(uplinks int) (err error) {
	client, err := lab.NewNS("client")
	if err != nil {
		return err
	}
	h.Clients = append(h.Clients, client)
	if h.Router, err = lab.NewNS("router"); err != nil {
		return err
	}
	if h.internet, err = lab.NewNS("internet"); err != nil {
		return err
	}
	for _, end := range []*lab.NS{client, h.internet} {
		if err := end.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	if h.lan, err = plug(client, "eth0", clientAddress, h.Router, "eth0", routerAddress); err != nil {
		return err
	}
	if err := client.AddRoute(lab.Route{Gateway: routerAddress.Addr()}); err != nil {
		return err
	}
	ends := []string{}
	for id := 1; id <= uplinks; id++ {
		u := &lab.Uplink{
			ID:        id,
			Name:      fmt.Sprintf("up%d", id),
			Interface: fmt.Sprintf("eth%d", id),
			Address:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(id), 2}), 24),
			Gateway:   netip.AddrFrom4([4]byte{10, 64, byte(id), 1}),
		}
		w, err := plug(h.internet, fmt.Sprintf("isp%d", id), netip.PrefixFrom(u.Gateway, 24), h.Router, u.Interface, u.Address)
		if err != nil {
			return err
		}
		err = h.Router.AddRoute(lab.Route{Gateway: u.Gateway, Interface: u.Interface, Metric: 100 + id, Protocol: unix.RTPROT_DHCP})
		if err != nil {
			return err
		}
		h.Uplinks, h.wans, ends = append(h.Uplinks, u), append(h.wans, w), append(ends, w.name)
	}
	// The internet has every address.
	anyone := lab.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Interface: "lo", Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_MAIN}
	if err := h.internet.AddRoute(anyone); err != nil {
		return err
	}
	const source, destination = 12, 16 // offsets of addresses in the IPv4 header
	return errors.Join(sink(client, source, "eth0"), sink(h.internet, destination, ends...))
}

// plug connects a far end with the router and gives both an address.
func plug(far *lab.NS, farName string, farAddress netip.Prefix, router *lab.NS, name string, address netip.Prefix) (wire, error) {
	if err := lab.Veth(router, name, far, farName); err != nil {
		return wire{}, err
	}
	err := errors.Join(far.AddAddr(farName, farAddress), router.AddAddr(name, address), far.Up(farName), router.Up(name))
	if err != nil {
		return wire{}, err
	}
	if err := errors.Join(far.WaitRunning(farName), router.WaitRunning(name)); err != nil {
		return wire{}, err
	}
	here, err := far.Link(farName)
	if err != nil {
		return wire{}, err
	}
	there, err := router.Link(name)
	if err != nil {
		return wire{}, err
	}
	return wire{farName, here.Attrs().Index, here.Attrs().HardwareAddr, there.Attrs().HardwareAddr}, nil
}

// sink makes a namespace drop what comes in with an address of targets at that offset of the IPv4 header.
func sink(ns *lab.NS, offset uint32, interfaces ...string) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("opening nftables in %s: %w", ns.Name, err)
	}
	table := c.AddTable(&nftables.Table{Name: "sink", Family: nftables.TableFamilyNetdev})
	address := targets.Masked().Addr().As4()
	mask := net.CIDRMask(targets.Bits(), 32)
	for _, name := range interfaces {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: name})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{ // ip saddr 198.18.0.0/15 drop (ARP has other bytes there)
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address[:]},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("dropping packets in %s: %w", ns.Name, err)
	}
	return nil
}

// received adds up the packets that came in at the far ends of the uplinks, and at the client.
func (h *house) received() (internet, client uint64, err error) {
	count := func(ns *lab.NS, name string) uint64 {
		link, e := ns.Link(name)
		if e != nil {
			err = e
			return 0
		}
		return link.Attrs().Statistics.RxPackets
	}
	for _, w := range h.wans {
		internet += count(h.internet, w.name)
	}
	return internet, count(h.Client(), "eth0"), err
}

// Close removes the house.
func (h *house) Close() {
	for _, ns := range append([]*lab.NS{h.Router, h.internet}, h.Clients...) {
		if ns != nil {
			ns.Close()
		}
	}
}
