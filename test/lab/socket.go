//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket says how a socket is bound. The zero value is an ordinary socket.
type Socket struct {
	Local  netip.AddrPort // own address; port 0: any
	Device string         // SO_BINDTODEVICE
	Mark   uint32         // SO_MARK
}

// control sets the options of s on a socket before it is bound.
func (s Socket) control(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		if s.Device != "" {
			failed = unix.BindToDevice(int(fd), s.Device)
		}
		if s.Mark != 0 && failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.Mark))
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// DialTCP connects from inside the namespace.
func (ns *NS) DialTCP(ctx context.Context, s Socket, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Control: s.control, KeepAlive: -1}
	if s.Local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(s.Local)
	}
	return inNS[*net.TCPConn](ns, func() (any, error) { return d.DialContext(ctx, "tcp", to.String()) })
}

// DialUDP makes a connected UDP socket inside the namespace.
func (ns *NS) DialUDP(s Socket, to netip.AddrPort) (*net.UDPConn, error) {
	d := net.Dialer{Control: s.control}
	if s.Local.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(s.Local)
	}
	return inNS[*net.UDPConn](ns, func() (any, error) { return d.Dial("udp", to.String()) })
}

// ListenTCP listens inside the namespace. The unspecified IPv6 address is for both families.
func (ns *NS) ListenTCP(s Socket) (*net.TCPListener, error) {
	l := net.ListenConfig{Control: s.control, KeepAlive: -1}
	return inNS[*net.TCPListener](ns, func() (any, error) { return l.Listen(context.Background(), "tcp", s.Local.String()) })
}

// ListenUDP makes an unconnected UDP socket inside the namespace.
func (ns *NS) ListenUDP(s Socket) (*net.UDPConn, error) {
	l := net.ListenConfig{Control: s.control}
	network := "udp6"
	if s.Local.Addr().Is4() {
		network = "udp4"
	}
	return inNS[*net.UDPConn](ns, func() (any, error) { return l.ListenPacket(context.Background(), network, s.Local.String()) })
}

// inNS makes a socket inside the namespace.
func inNS[T any](ns *NS, f func() (any, error)) (T, error) {
	var socket T
	err := ns.Do(func() error {
		s, err := f()
		if err != nil {
			return fmt.Errorf("in %s: %w", ns.Name, err)
		}
		socket = s.(T)
		return nil
	})
	return socket, err
}
