//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// frameSize is the smallest Ethernet frame, without its checksum.
const frameSize = 60

// frame is a UDP packet of 18 bytes: with Ethernet, IPv4 and UDP headers. The UDP checksum is 0 (none), so that nobody spends time on checking it.
type frame [frameSize]byte

// newFrame makes a frame that goes by w.
func newFrame(w wire, from, to netip.AddrPort) frame {
	var f frame
	copy(f[0:], w.to)
	copy(f[6:], w.from)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], frameSize-14)
	binary.BigEndian.PutUint16(f[38:], frameSize-34)
	f.address(from, to)
	return f
}

// address gives the frame other ends.
func (f *frame) address(from, to netip.AddrPort) {
	ip := f[14:34]
	source, destination := from.Addr().As4(), to.Addr().As4()
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(f[34:], from.Port())
	binary.BigEndian.PutUint16(f[36:], to.Port())
	ip[10], ip[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
}

// sender writes frames to interfaces of one namespace. On veth cables the whole way of a packet, to where it is dropped, runs inside the system
// call that sends it.
type sender struct {
	fd       int
	frames   []frame
	messages []message
	parts    []unix.Iovec
	names    []unix.RawSockaddrLinklayer
}

// message is struct mmsghdr (sendmmsg(2)).
type message struct {
	header unix.Msghdr
	length uint32
}

// newSender opens a socket and makes room for n frames.
func newSender(ns *lab.NS, n int) (*sender, error) {
	s := &sender{fd: -1, frames: make([]frame, n), messages: make([]message, n), parts: make([]unix.Iovec, n), names: make([]unix.RawSockaddrLinklayer, n)}
	err := ns.Do(func() (err error) {
		// Protocol 0: it receives nothing.
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket in %s: %w", ns.Name, err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		unix.Close(s.fd)
		return nil, fmt.Errorf("preparing a packet socket in %s: %w", ns.Name, err)
	}
	for i := range n {
		s.parts[i].Base = &s.frames[i][0]
		s.parts[i].SetLen(frameSize)
		s.names[i].Family = unix.AF_PACKET
		s.names[i].Halen = 6
		h := &s.messages[i].header
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.names[i])), unix.SizeofSockaddrLinklayer
		h.Iov = &s.parts[i]
		h.SetIovlen(1)
	}
	return s, nil
}

// set makes f the i-th frame, to be sent by w.
func (s *sender) set(i int, w wire, f frame) {
	s.frames[i] = f
	s.names[i].Ifindex = int32(w.index)
}

// send sends the frames from i to j.
func (s *sender) send(i, j int) error {
	for i < j {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages[i])), uintptr(j-i), 0, 0, 0)
		switch {
		case errno == 0:
			i += int(n)
		case !errors.Is(errno, unix.EINTR) && !errors.Is(errno, unix.ENOBUFS) && !errors.Is(errno, unix.EAGAIN):
			return fmt.Errorf("sending packets: %w", errno)
		}
	}
	return nil
}

func (s *sender) close() { unix.Close(s.fd) }
