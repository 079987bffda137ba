//go:build linux

package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth connects two namespaces (or one with itself) by a cable: interface aName in a and bName in b, both down.
func Veth(a *NS, aName string, b *NS, bName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	// The kernel looks at a change of carrier at once if it takes the device for one on top of another: if the indexes of the two ends differ.
	// Otherwise it lets up to a second pass; and ends in two fresh namespaces would often have the same index.
	attrs.Index = 1000 + rand.IntN(1<<30)
	err := a.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.fd)})
	if err != nil {
		return fmt.Errorf("adding veth %s/%s to %s/%s: %w", a.Name, aName, b.Name, bName, err)
	}
	return nil
}

// Bridge adds a switch which forwards from the first packet on: no spanning tree, no delay, no multicast snooping. It is up.
func (ns *NS) Bridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	if err := ns.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("adding bridge %s/%s: %w", ns.Name, name, err)
	}
	err := ns.Do(func() error {
		// The kernel's defaults for stp and delay serve: both 0 for a bridge without STP. A host that loads br_netfilter would send bridged
		// packets through its rules.
		for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables"} {
			if err := writeSysctl(key, "0"); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return ns.Up(name)
}

// Macvlan adds an interface with a MAC address of its own (nil: random) on top of parent. It is down.
func (ns *NS) Macvlan(name, parent string, mac net.HardwareAddr) error {
	link, err := ns.Link(parent)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = name, link.Attrs().Index, mac
	if err := ns.handle.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		return fmt.Errorf("adding macvlan %s/%s: %w", ns.Name, name, err)
	}
	return nil
}

// Link finds an interface.
func (ns *NS) Link(name string) (netlink.Link, error) {
	link, err := ns.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding interface %s/%s: %w", ns.Name, name, err)
	}
	return link, nil
}

// onLink finds an interface and changes it.
func (ns *NS) onLink(name, what string, f func(netlink.Link) error) error {
	link, err := ns.Link(name)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := f(link); err != nil {
		return fmt.Errorf("%s %s/%s: %w", what, ns.Name, name, err)
	}
	return nil
}

// Up sets an interface up.
func (ns *NS) Up(name string) error { return ns.onLink(name, "setting up", ns.handle.LinkSetUp) }

// Down sets an interface down; its other end loses the carrier.
func (ns *NS) Down(name string) error { return ns.onLink(name, "setting down", ns.handle.LinkSetDown) }

// Delete removes an interface, and the other end of a veth.
func (ns *NS) Delete(name string) error { return ns.onLink(name, "deleting", ns.handle.LinkDel) }

// Rename gives an interface another name. Kernels before 6.2 want it down for that.
func (ns *NS) Rename(name, to string) error {
	return ns.onLink(name, "renaming to "+to, func(l netlink.Link) error { return ns.handle.LinkSetName(l, to) })
}

// SetMTU sets an interface's MTU.
func (ns *NS) SetMTU(name string, mtu int) error {
	return ns.onLink(name, "setting the MTU of", func(l netlink.Link) error { return ns.handle.LinkSetMTU(l, mtu) })
}

// SetMAC sets an interface's hardware address.
func (ns *NS) SetMAC(name string, mac net.HardwareAddr) error {
	return ns.onLink(name, "setting the MAC of", func(l netlink.Link) error { return ns.handle.LinkSetHardwareAddr(l, mac) })
}

// Master plugs an interface into a bridge; "" unplugs it.
func (ns *NS) Master(name, bridge string) error {
	return ns.onLink(name, "plugging in", func(l netlink.Link) error {
		if bridge == "" {
			return ns.handle.LinkSetNoMaster(l)
		}
		master, err := ns.Link(bridge)
		if err != nil {
			return err
		}
		return ns.handle.LinkSetMaster(l, master)
	})
}

// Move gives an interface to another namespace, where it arrives down and without addresses.
func (ns *NS) Move(name string, to *NS) error {
	return ns.onLink(name, "moving to "+to.Name, func(l netlink.Link) error { return ns.handle.LinkSetNsFd(l, to.fd) })
}

// AddAddr gives an interface an address, without duplicate address detection.
func (ns *NS) AddAddr(name string, addr netip.Prefix) error {
	return ns.onLink(name, "adding "+addr.String()+" to", func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(addr)}
		if addr.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := ns.handle.AddrAdd(l, a); err != nil {
			return err
		}
		return ns.waitLocal(l, addr.Addr())
	})
}

// AddPeerAddr gives a point to point interface its own and its peer's address.
func (ns *NS) AddPeerAddr(name string, addr, peer netip.Addr) error {
	return ns.onLink(name, "adding "+addr.String()+" to", func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(host(addr)), Peer: ipNet(host(peer))}
		if addr.Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := ns.handle.AddrAdd(l, a); err != nil {
			return err
		}
		return ns.waitLocal(l, addr)
	})
}

// waitLocal waits until the kernel takes packets to an IPv6 address for its own. It makes the route for that in the background; until then
// it sends from the address, and forwards the answers.
func (ns *NS) waitLocal(l netlink.Link, addr netip.Addr) error {
	if addr.Is4() || l.Attrs().RawFlags&unix.IFF_UP == 0 {
		return nil
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		routes, err := ns.handle.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{Oif: l.Attrs().Name})
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for its route: %v, %w", routes, err)
		}
	}
}

// DelAddr takes an address from an interface.
func (ns *NS) DelAddr(name string, addr netip.Prefix) error {
	return ns.onLink(name, "deleting "+addr.String()+" from", func(l netlink.Link) error {
		return ns.handle.AddrDel(l, &netlink.Addr{IPNet: ipNet(addr)})
	})
}

// WaitRunning waits until the kernel has seen the carrier of the named interfaces (none named: of all that are up): it does so in the background,
// usually within a millisecond.
func (ns *NS) WaitRunning(names ...string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		waiting, err := ns.notRunning(names)
		if err != nil || waiting == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for interface %s/%s: no carrier", ns.Name, waiting)
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// notRunning finds one of these interfaces that has no carrier; "": all have it.
func (ns *NS) notRunning(names []string) (string, error) {
	var links []netlink.Link
	for _, name := range names {
		link, err := ns.Link(name)
		if err != nil {
			return "", err
		}
		links = append(links, link)
	}
	if len(names) == 0 {
		all, err := ns.handle.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			return "any", nil // ask again
		}
		if err != nil {
			return "", fmt.Errorf("listing the interfaces of %s: %w", ns.Name, err)
		}
		for _, link := range all {
			if link.Attrs().RawFlags&unix.IFF_UP != 0 && link.Attrs().RawFlags&unix.IFF_LOOPBACK == 0 {
				links = append(links, link)
			}
		}
	}
	for _, link := range links {
		if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
			return link.Attrs().Name, nil
		}
	}
	return "", nil
}

// host is the prefix that holds only addr.
func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// ipNet converts for the netlink library.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
