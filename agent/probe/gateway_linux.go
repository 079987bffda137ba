package probe

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/datagram"
	"multiroute/routes"
)

// networkARP is unix.ETH_P_ARP as packet sockets want it: in network order.
const networkARP = unix.ETH_P_ARP>>8 | unix.ETH_P_ARP&0xff<<8

// openGateways opens the socket that asks for the gateway: at its neighbours, so
// that it is asked even if the kernel remembers it, or has given it up.
func (p *prober) openGateways() (err error) {
	protocol := uint16(networkARP)
	if p.leg.Family == routes.IPv6 {
		protocol = 0 // hears nothing
		// Not bound to the leg's address: gateways answer neighbours, and only
		// the link-local address makes us one for certain.
		p.gateways, err = p.newSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, filterND(p.path.Gateway), setupND)
		if err != nil {
			return fmt.Errorf("opening a socket for neighbour discovery: %w", err)
		}
	}
	if p.link, err = p.openLink(protocol); err != nil {
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	if p.leg.Family == routes.IPv4 {
		p.gateways = p.link
	}
	return nil
}

// setupND sets the options of neighbour discovery.
func setupND(fd int) error {
	for _, o := range [][2]int{{unix.IPV6_MULTICAST_HOPS, hopsND}, {unix.IPV6_RECVHOPLIMIT, 1}, {unix.IPV6_RECVPKTINFO, 1}} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o[0], o[1]); err != nil {
			return fmt.Errorf("setting IPv6 option %d: %w", o[0], err)
		}
	}
	return nil
}

// sendGateway asks for the gateway.
func (p *prober) sendGateway(t *target, token uint64, timeout time.Duration) {
	gateway := p.path.Gateway
	if !gateway.IsValid() {
		p.fail(t, token, errPointToPoint)
		return
	}
	var packet []byte
	var to datagram.Address
	mac, err := p.mac()
	switch {
	case p.leg.Family == routes.IPv6:
		err = nil // it is asked without
		packet, to = appendSolicitation(nil, mac, gateway), p.to(solicitedNode(gateway))
	case err == nil:
		packet = appendARP(nil, mac, p.path.Source, gateway)
		to = datagram.Link(p.path.Index, networkARP, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	}
	if err != nil {
		p.fail(t, token, err)
		return
	}
	number := p.outstanding.add(sent{target: t, token: token, to: gateway, at: time.Now(), timeout: timeout})
	if err := p.gateways.send(packet, 0, to); err != nil {
		if _, ok := p.outstanding.take(number, anyProbe); ok {
			p.fail(t, token, fmt.Errorf("asking for gateway %s: %w", gateway, err))
		}
	}
}

// openLink opens a packet socket on the interface. It hears what the protocol
// names; 0: nothing.
func (p *prober) openLink(protocol uint16) (*socket, error) {
	return p.newSocket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, filterARP(p.path.Gateway), func(fd int) error {
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: p.path.Index})
	})
}

// mac returns the interface's present Ethernet address: a packet socket's own
// address.
func (p *prober) mac() ([]byte, error) {
	var own unix.Sockaddr
	var failed error
	err := p.link.raw.Control(func(fd uintptr) { own, failed = unix.Getsockname(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("finding the hardware address of %s: %w", p.path.Interface, err)
	}
	link, ok := own.(*unix.SockaddrLinklayer)
	if !ok || link.Halen != 6 {
		return nil, fmt.Errorf("interface %s has no Ethernet address: its gateway cannot be asked for; probe another target", p.path.Interface)
	}
	return link.Addr[:6], nil
}

// heardGateway reads what the gateway's socket received.
func (p *prober) heardGateway(m message) {
	if !p.fromGateway(m) {
		p.ignored.Add(1)
		return
	}
	// The answer does not say to which question. One that was on its way before
	// the question is none.
	s, ok := p.outstanding.takeNewest(func(s *sent) bool {
		after := m.at.Sub(s.at)
		return s.target.Scheme == config.GatewayTarget && after >= 0 && after <= s.timeout
	})
	if !ok {
		p.ignored.Add(1)
		return
	}
	p.report(s, max(m.at.Sub(s.at), 1), nil)
}

// fromGateway says whether a message is the gateway's own, and was sent to us alone.
func (p *prober) fromGateway(m message) bool {
	if p.leg.Family == routes.IPv6 {
		from, ok := parseAdvertisement(m.data)
		return ok && from == p.path.Gateway && m.hops == hopsND && m.index == p.path.Index && !m.to.IsMulticast()
	}
	link, ok := m.from.Link()
	if !ok || int(link.Ifindex) != p.path.Index || link.Pkttype != unix.PACKET_HOST {
		return false
	}
	from, to, mac, ok := parseARP(m.data)
	if !ok || from != p.path.Gateway || to != p.path.Source {
		return false
	}
	own, err := p.mac()
	return err == nil && bytes.Equal(mac[:], own)
}
