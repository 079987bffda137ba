//go:build linux

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The ports of a Server, on every address of its namespace.
const (
	PortTCP     = 80   // says the client's address in a line, then echoes lines
	PortEcho    = 7    // UDP: answers with the client's address in a line, and what it received
	PortSink    = 9    // UDP: records the packets of OneWay
	PortDiscard = 5001 // TCP: reads and forgets, for throughput
	PortDNS     = 53   // UDP: see Resolve; TCP: as PortTCP
	PortHTTP    = 8080 // HTTP: 204 and no body for /generate_204; for every other path the client's address in a line; see Answer
)

// Server is the other end of all traffic: it tells its clients which address it sees, and keeps account of what it receives.
type Server struct {
	NS *NS

	closers []io.Closer
	wait    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	done  bool
	flows map[uint64]*flow

	names   map[string]name
	queries map[string]int
	web     http.HandlerFunc
}

// NewServer starts a server on the standard ports, in any namespace; more: further TCP ports like PortTCP.
func NewServer(ns *NS, more ...uint16) (*Server, error) {
	s := &Server{NS: ns, conns: map[net.Conn]struct{}{}, flows: map[uint64]*flow{}, names: map[string]name{}, queries: map[string]int{}, web: visitor}
	err := s.listen(append([]uint16{PortTCP, PortDNS}, more...))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("starting a server in %s: %w", ns.Name, err)
	}
	return s, nil
}

// listen opens all sockets.
func (s *Server) listen(ports []uint16) error {
	for _, port := range ports {
		if err := s.listenTCP(port, greetAndEcho); err != nil {
			return err
		}
	}
	if err := s.listenTCP(PortDiscard, discard); err != nil {
		return err
	}
	for _, wildcard := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if err := s.listenUDP(netip.AddrPortFrom(wildcard, PortEcho), echo); err != nil {
			return err
		}
		if err := s.listenUDP(netip.AddrPortFrom(wildcard, PortSink), s.record); err != nil {
			return err
		}
		if err := s.listenUDP(netip.AddrPortFrom(wildcard, PortDNS), s.dns); err != nil {
			return err
		}
	}
	return s.listenHTTP()
}

// listenHTTP serves HTTP.
func (s *Server) listenHTTP() error {
	l, err := s.NS.ListenTCP(Socket{Local: netip.AddrPortFrom(netip.IPv6Unspecified(), PortHTTP)})
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		answer := s.web
		s.mu.Unlock()
		answer(w, r)
	})}
	s.closers = append(s.closers, server)
	s.wait.Go(func() { _ = server.Serve(l) })
	return nil
}

// visitor answers with who asks.
func visitor(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/generate_204" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	fmt.Fprintln(w, unmap(from))
}

// Answer makes the server answer HTTP so from now on; nil: as in the beginning.
func (s *Server) Answer(f http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web = f; f == nil {
		s.web = visitor
	}
}

// Close ends the server and its connections.
func (s *Server) Close() {
	for _, c := range s.closers {
		c.Close()
	}
	s.mu.Lock()
	s.done = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

// listenTCP serves one port, for both families.
func (s *Server) listenTCP(port uint16, serve func(net.Conn)) error {
	l, err := s.NS.ListenTCP(Socket{Local: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	s.wait.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // the peer went away before
				continue
			}
			if !s.add(c) {
				c.Close()
				continue
			}
			s.wait.Go(func() {
				defer s.remove(c)
				serve(c)
			})
		}
	})
	return nil
}

// add remembers a connection, for Close.
func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done {
		s.conns[c] = struct{}{}
	}
	return !s.done
}

// remove closes a connection.
func (s *Server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// greetAndEcho says the client's address and then echoes lines.
func greetAndEcho(c net.Conn) {
	if _, err := fmt.Fprintln(c, unmap(c.RemoteAddr().(*net.TCPAddr).AddrPort())); err != nil {
		return
	}
	r := bufio.NewReaderSize(c, 512)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := c.Write(line); err != nil {
			return
		}
	}
}

// discard reads to the end.
func discard(c net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}

// datagram is what a UDP socket received.
type datagram struct {
	data []byte
	from netip.AddrPort
	oob  []byte
	conn *net.UDPConn
}

// listenUDP serves one port and family.
func (s *Server) listenUDP(local netip.AddrPort, serve func(datagram)) error {
	c, err := s.NS.ListenUDP(Socket{Local: local})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
		if local.Addr().Is6() {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		}
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), level, option, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			largeBuffer(int(fd)),
		)
	})
	if err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	s.wait.Go(func() {
		data, oob := make([]byte, 1<<16), make([]byte, 256)
		for {
			n, oobn, _, from, err := c.ReadMsgUDPAddrPort(data, oob)
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err == nil { // otherwise: an ICMP error of an earlier answer
				serve(datagram{data: data[:n], from: unmap(from), oob: oob[:oobn], conn: c})
			}
		}
	})
	return nil
}

// largeBuffer gives a socket the largest receive buffer allowed: for an ordinary user that is net.core.rmem_max.
func largeBuffer(fd int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
}

// echo answers from the address the packet was sent to.
func echo(d datagram) {
	answer := append([]byte(d.from.String()+"\n"), d.data...)
	_, _, _ = d.conn.WriteMsgUDPAddrPort(answer, sourceOf(d.oob), d.from)
}

// sourceOf turns the control data of a received packet into that of an answer which comes from the same address.
func sourceOf(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}

// unmap makes an IPv4 address of one in IPv6's clothes.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
