package probe

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/datagram"
	"multiroute/routes"
)

// openEchoes opens the raw socket for echo requests.
func (p *prober) openEchoes() (*socket, error) {
	domain, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if p.leg.Family == routes.IPv6 {
		domain, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	s, err := p.newSocket(domain, unix.SOCK_RAW, protocol, echoFilter(p.leg.Family, p.id), func(fd int) error {
		level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
		if p.leg.Family == routes.IPv6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("asking for the interface of answers: %w", err)
		}
		if err := unix.Bind(fd, p.sockaddr(p.path.Source)); err != nil {
			return fmt.Errorf("binding to %s: %w", p.path.Source, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening a raw socket: %w", err)
	}
	return s, nil
}

// sockaddr is the address for the kernel.
func (p *prober) sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), ZoneId: uint32(p.zone(a))}
}

// to is the same for what is sent.
func (p *prober) to(a netip.Addr) datagram.Address { return datagram.IP(a, p.zone(a)) }

// zone is the index of the interface, for an address that needs one.
func (p *prober) zone(a netip.Addr) int {
	if a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() {
		return p.path.Index
	}
	return 0
}

// sendEcho sends an echo request.
func (p *prober) sendEcho(t *target, token uint64, timeout time.Duration) {
	if addr, ok := p.known(t); ok {
		p.echo(t, addr, token, timeout)
		return
	}
	// Its name has to be resolved first.
	start := time.Now()
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	number := p.outstanding.add(sent{target: t, token: token, cancel: cancel})
	go func() {
		defer cancel()
		addr, err := p.address(ctx, t)
		_, ok := p.outstanding.take(number, func(s *sent) bool { return s.token == token })
		switch left := timeout - time.Since(start); {
		case !ok || ctx.Err() != nil || err != nil && timedOut(err):
		case err != nil:
			p.fail(t, token, err)
		case left > 0:
			p.echo(t, addr, token, left)
		}
	}()
}

// echo sends an echo request to addr.
func (p *prober) echo(t *target, addr netip.Addr, token uint64, timeout time.Duration) {
	s := sent{target: t, token: token, to: addr, timeout: timeout, at: time.Now()}
	if _, err := io.ReadFull(p.Random, s.nonce[:]); err != nil {
		p.fail(t, token, fmt.Errorf("reading random bytes: %w", err))
		return
	}
	number := p.outstanding.add(s)
	packet := appendEcho(make([]byte, 0, echoLength), p.leg.Family, p.id, number, s.nonce)
	// An answer shows that the gateway is there. The kernel cannot see that, and
	// would ask the gateway alone, which not every one answers, and give it up.
	flags := 0
	if p.heard.Swap(false) {
		flags = unix.MSG_CONFIRM
	}
	if err := p.echoes.send(packet, flags, p.to(addr)); err != nil {
		if _, ok := p.outstanding.take(number, anyProbe); ok {
			p.fail(t, token, fmt.Errorf("sending to %s: %w", addr, err))
		}
	}
}

// heardEcho reads what the raw socket received.
func (p *prober) heardEcho(m message) {
	var h heard
	var ok bool
	if p.leg.Family == routes.IPv4 {
		h, ok = parseICMP4(m.data)
	} else if from, is6 := m.from.Addr(); is6 {
		h, ok = parseICMP6(m.data, from, m.to)
	}
	if !ok {
		return // not about echo requests at all
	}
	s, ok := p.believe(h, m)
	if !ok {
		p.ignored.Add(1)
		return
	}
	if h.failed {
		p.report(s, 0, fmt.Errorf("%s says %s", h.from, h.words()))
		return
	}
	p.heard.Store(true)
	p.report(s, max(m.at.Sub(s.at), 1), nil)
}

// believe returns the probe that an ICMP message is about, if it can be trusted.
func (p *prober) believe(h heard, m message) (sent, bool) {
	if h.id != p.id || h.to != p.path.Source || m.index != p.path.Index {
		return sent{}, false
	}
	return p.outstanding.take(h.sequence, func(s *sent) bool {
		if s.target.Scheme != config.ICMP || h.target != s.to || m.at.Sub(s.at) > s.timeout {
			return false
		}
		if !h.failed {
			return subtle.ConstantTimeCompare(h.nonce, s.nonce[:]) == 1
		}
		// Routers need not quote more than 8 bytes after the IP header (RFC 792).
		quoted := h.nonce[:min(len(h.nonce), len(s.nonce))]
		return h.source == p.path.Source && subtle.ConstantTimeCompare(quoted, s.nonce[:len(quoted)]) == 1
	})
}

// errPointToPoint is what a probe of a gateway that is none comes to.
var errPointToPoint = errors.New("the uplink is point to point and has no gateway to probe; probe another target")
