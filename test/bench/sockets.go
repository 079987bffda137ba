//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// Ordinary sockets: where they send to, and the port of both.
var socketTargets = netip.MustParsePrefix("100.64.0.0/10")

const (
	socketPort  = 9999
	socketFlows = 250
	payloadSize = 18 // as in a frame
)

// socketPair is a client's UDP socket and one on the internet that receives what the first sends. Each datagram costs a system call at either end, and
// all that a host does with a packet that it sends or receives: this is what a program notices of its router, while frames show the router alone.
type socketPair struct {
	client, server int
	to             unix.RawSockaddrInet4
	datagram       [payloadSize]byte
	received       [payloadSize + 1]byte
}

func newSocketPair(client, internet *lab.NS) (*socketPair, error) {
	p := &socketPair{client: -1, server: -1, to: unix.RawSockaddrInet4{Family: unix.AF_INET}}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&p.to.Port))[:], socketPort)
	for _, s := range []struct {
		fd *int
		ns *lab.NS
	}{{&p.client, client}, {&p.server, internet}} {
		err := s.ns.Do(func() (err error) {
			if *s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Bind(*s.fd, &unix.SockaddrInet4{Port: socketPort})
		})
		if err != nil {
			p.close()
			return nil, fmt.Errorf("opening a UDP socket in %s: %w", s.ns.Name, err)
		}
	}
	return p, nil
}

// exchange sends a batch, one datagram to each address from the i-th on, and receives it.
func (p *socketPair) exchange(i, n int) error {
	for k := range n {
		binary.BigEndian.PutUint32(p.to.Addr[:], binary.BigEndian.Uint32(socketTargets.Addr().AsSlice())+uint32(i+k))
		// Raw: nothing here blocks, and what Go's scheduler does is not to be measured.
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.client), uintptr(unsafe.Pointer(&p.datagram)), payloadSize, unix.MSG_DONTWAIT,
			uintptr(unsafe.Pointer(&p.to)), unix.SizeofSockaddrInet4)
		if errno != 0 {
			return fmt.Errorf("sending a datagram: %w", errno)
		}
	}
	for k := range n {
		if err := p.receive(p.server); err != nil {
			return fmt.Errorf("receiving datagram %d of %d: %w", k+1, n, err)
		}
	}
	return nil
}

func (p *socketPair) receive(fd int) error {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p.received)), uintptr(len(p.received)), unix.MSG_DONTWAIT, 0, 0)
	switch {
	case errno != 0:
		return errno
	case n != payloadSize:
		return fmt.Errorf("it has %d bytes, not %d", n, payloadSize)
	}
	return nil
}

// drain receives whatever is there.
func (p *socketPair) drain(fd int) error {
	for {
		if err := p.receive(fd); errors.Is(err, unix.EAGAIN) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (p *socketPair) close() {
	for _, fd := range []int{p.client, p.server} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// socketsConnect opens the sockets' known connections and answers each of them once.
func (t *track) socketsConnect() error {
	for i := 0; i < socketFlows; i += batch {
		if err := t.sockets.exchange(i, batch); err != nil {
			return err
		}
	}
	if _, err := t.answer(t.socketsBack, socketPort); err != nil {
		return err
	}
	return t.sockets.drain(t.sockets.client)
}

// socketsEstablished sends and receives datagrams of known connections for a time.
func (t *track) socketsEstablished(d time.Duration, times *samples) error {
	for i, end := 0, time.Now().Add(d); ; i += batch {
		start := time.Now()
		if err := t.sockets.exchange(i%socketFlows, batch); err != nil {
			return err
		}
		now := time.Now()
		times.add(now.Sub(start))
		if now.After(end) {
			return nil
		}
	}
}

// socketsFirst sends and receives n datagrams, each the first of its connection.
func (t *track) socketsFirst(n int, times *samples) error {
	const addresses = 1 << 22 // of socketTargets
	for range n / batch {
		start := time.Now()
		if err := t.sockets.exchange(socketFlows+t.socketsOpened%(addresses/2), batch); err != nil {
			return err
		}
		times.add(time.Since(start))
		t.socketsOpened += batch
	}
	return nil
}
