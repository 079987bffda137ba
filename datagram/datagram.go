// Package datagram sends and receives on sockets without ever waiting. Its
// system calls are ones of which Go's scheduler is not told: it would wake its
// monitor for the first of them after each rest, which then looks around every
// 20 µs for as long as somebody works (entersyscall and sysmon, runtime/proc.go),
// and takes more of a CPU than an agent that sends a probe now and then. In
// return nothing here may block.
package datagram

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Address is where a packet goes to or comes from.
type Address struct {
	raw  unix.RawSockaddrAny
	size uint32 // of raw, in bytes
}

// IP is an IP address for sockets without ports. zone is the index of the
// interface that a link-local one is on, else 0.
func IP(a netip.Addr, zone int) (to Address) {
	if a.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&to.raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
		to.size = unix.SizeofSockaddrInet4
		return to
	}
	*(*unix.RawSockaddrInet6)(unsafe.Pointer(&to.raw)) = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16(), Scope_id: uint32(zone)}
	to.size = unix.SizeofSockaddrInet6
	return to
}

// Link is a hardware address of an interface's neighbours; protocol is in
// network order.
func Link(index int, protocol uint16, mac [6]byte) (to Address) {
	link := unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Protocol: protocol, Ifindex: int32(index), Halen: uint8(len(mac))}
	copy(link.Addr[:], mac[:])
	*(*unix.RawSockaddrLinklayer)(unsafe.Pointer(&to.raw)) = link
	to.size = unix.SizeofSockaddrLinklayer
	return to
}

// Kernel is the kernel's own address on a netlink socket.
func Kernel() (to Address) {
	*(*unix.RawSockaddrNetlink)(unsafe.Pointer(&to.raw)) = unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}
	to.size = unix.SizeofSockaddrNetlink
	return to
}

// Addr returns the address if it is an IPv6 one, without its zone.
func (a *Address) Addr() (netip.Addr, bool) {
	if a.raw.Addr.Family != unix.AF_INET6 || a.size < unix.SizeofSockaddrInet6 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(&a.raw)).Addr), true
}

// Link returns what a packet socket says of who sent a packet.
func (a *Address) Link() (unix.RawSockaddrLinklayer, bool) {
	if a.raw.Addr.Family != unix.AF_PACKET {
		return unix.RawSockaddrLinklayer{}, false
	}
	return *(*unix.RawSockaddrLinklayer)(unsafe.Pointer(&a.raw)), true
}

// Send sends a packet, or fails at once (sendto(2)). flags may be
// unix.MSG_CONFIRM.
func Send(fd int, packet []byte, flags int, to *Address) error {
	_, _, failed := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(packet))), uintptr(len(packet)),
		uintptr(flags|unix.MSG_DONTWAIT), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.size))
	if failed != 0 {
		return failed
	}
	return nil
}

// Receive receives a packet and the control data that comes with it, either of
// which may be cut off; size is what the packet had if flags has
// unix.MSG_TRUNC. It fails with unix.EAGAIN if none is there (recvmsg(2)).
func Receive(fd int, packet, control []byte, flags int, from *Address) (size, controlled int, err error) {
	to := unix.Iovec{Base: unsafe.SliceData(packet)}
	to.SetLen(len(packet))
	header := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&from.raw)), Namelen: unix.SizeofSockaddrAny, Iov: &to, Control: unsafe.SliceData(control)}
	header.SetIovlen(1)
	header.SetControllen(len(control))
	n, _, failed := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&header)), uintptr(flags|unix.MSG_DONTWAIT))
	if failed != 0 {
		return 0, 0, failed
	}
	from.size = header.Namelen
	return int(n), int(header.Controllen), nil
}
