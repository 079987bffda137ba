package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"multiroute/agent/health"
	"multiroute/datagram"
)

// bind ties a socket to the uplink before it has an address. The index is bound,
// not the name, which may have gone to another interface meanwhile.
func bind(fd int, path health.Path) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, path.Index); err != nil {
		return fmt.Errorf("binding to interface %s: %w", path.Interface, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(path.Mark)); err != nil {
		return fmt.Errorf("setting mark %#x: %w", path.Mark, err)
	}
	return nil
}

// hearErrors makes a UDP socket fail by "host unreachable" and the like, too;
// otherwise only "port unreachable" is told.
func hearErrors(fd int, network string) error {
	var err error
	switch network {
	case "udp4":
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	case "udp6":
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	if err != nil {
		return fmt.Errorf("asking for ICMP errors: %w", err)
	}
	return nil
}

// dial connects through the uplink, from its address unless that is of the other
// family: then the kernel chooses one of the interface.
func (p *prober) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: func(network, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			if failed = bind(int(fd), p.path); failed == nil {
				failed = hearErrors(int(fd), network)
			}
		})
		return errors.Join(err, failed)
	}}
	if from := netip.AddrPortFrom(p.zoned(p.path.Source), 0); from.Addr().Is4() == to.Addr().Is4() {
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
	}
	to = netip.AddrPortFrom(p.zoned(to.Addr()), to.Port())
	var c net.Conn
	err := p.enter(func() (err error) {
		c, err = d.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // ends with a reset: nothing is left behind in TIME_WAIT
	}
	return c, nil
}

// zoned gives link-local addresses the interface they need.
func (p *prober) zoned(a netip.Addr) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(p.path.Interface)
	}
	return a
}

// socket is one that the net package does not know how to make.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	data [2048]byte // what is received, and
	oob  [256]byte  // its control data
}

// message is one packet that a socket received.
type message struct {
	data  []byte // valid until the next one
	from  datagram.Address
	to    netip.Addr // IPv6: where it was sent to
	index int        // of the interface it came in by; 0: unknown
	hops  int        // IPv6: the hop limit; 0: unknown
	at    time.Time  // when the kernel received it
}

// newSocket makes a socket with a filter, bound to the uplink; setup does what
// is special about it. The kernel is asked for the time of what is received,
// because that is read later.
func (p *prober) newSocket(domain, kind, protocol int, filter []bpf.Instruction, setup func(fd int) error) (*socket, error) {
	var s *socket
	err := p.enter(func() error {
		// A descriptor that blocks stays out of the runtime's poller: what arrives
		// wakes nobody. We never let it block.
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		err = attach(fd, filter)
		if err == nil && domain != unix.AF_PACKET {
			err = bind(fd, p.path)
		}
		if err == nil {
			err = setup(fd)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		// Kernels without it (before 5.1) leave us our own clock.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
		s = &socket{file: os.NewFile(uintptr(fd), "probe "+p.path.Interface)}
		if s.raw, err = s.file.SyscallConn(); err != nil {
			s.file.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// attach sets a socket's filter.
func attach(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assembling a socket filter: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("attaching a socket filter: %w", err)
	}
	return nil
}

// send sends a packet, or fails at once. flags is unix.MSG_CONFIRM, if its way
// is known to be good, or 0.
func (s *socket) send(b []byte, flags int, to datagram.Address) error {
	var failed error
	err := s.raw.Control(func(fd uintptr) { failed = datagram.Send(int(fd), b, flags, &to) })
	return errors.Join(err, failed)
}

// maxCollected is how many messages are read of a socket at once: a flood of
// forged ones must not keep us from anything else.
const maxCollected = 2 * maxOutstanding

// collect calls f with what has arrived, and waits for nothing. One goroutine at
// a time may call it.
func (s *socket) collect(f func(message)) {
	if s == nil {
		return
	}
	_ = s.raw.Control(func(fd uintptr) { // it fails when it is closed
		for range maxCollected {
			m := message{}
			n, oobn, err := datagram.Receive(int(fd), s.data[:], s.oob[:], 0, &m.from)
			if errors.Is(err, unix.EAGAIN) {
				return
			}
			if err != nil {
				continue // such as ENETDOWN, once, when the interface goes down
			}
			m.data, m.at = s.data[:n], time.Now()
			m.control(s.oob[:oobn])
			f(m)
		}
	})
}

// close frees the socket.
func (s *socket) close() {
	if s != nil {
		s.file.Close()
	}
}

// control reads the control data of a message.
func (m *message) control(oob []byte) {
	for len(oob) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		oob = rest
		switch {
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_TIMESTAMPNS_NEW && len(data) >= 16:
			stamp := time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
			m.at = received(m.at, stamp)
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			m.index = int(int32(binary.NativeEndian.Uint32(data)))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.to = netip.AddrFrom16([16]byte(data))
			m.index = int(int32(binary.NativeEndian.Uint32(data[16:])))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			m.hops = int(int32(binary.NativeEndian.Uint32(data)))
		}
	}
}

// received turns the kernel's wall clock time of a packet that we read now into
// one that can be compared with our own, which are monotonic. A clock that was
// set meanwhile makes it now.
func received(now, stamp time.Time) time.Time {
	age := now.Round(0).Sub(stamp)
	if age < 0 || age > time.Minute {
		return now
	}
	return now.Add(-age)
}
