package datagram

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernel asks the kernel by netlink: what is sent arrives, the answer comes
// whole or is known to have been cut off, and nobody waits for what is not there.
func TestKernel(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var from Address
	answer := make([]byte, 32<<10)
	if n, _, err := Receive(fd, answer, nil, 0, &from); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("nothing was asked: %d bytes, %v", n, err)
	}
	ask := func() {
		t.Helper()
		request := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(request, uint32(len(request)))
		binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETLINK)
		binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
		binary.NativeEndian.PutUint32(request[unix.SizeofNlMsghdr+4:], 1) // lo
		to := Kernel()
		if err := Send(fd, request, 0, &to); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	n, _, err := Receive(fd, answer, nil, 0, &from)
	if err != nil || n < unix.SizeofNlMsghdr || binary.NativeEndian.Uint16(answer[4:]) != unix.RTM_NEWLINK || int(binary.NativeEndian.Uint32(answer)) != n {
		t.Errorf("%d bytes, type %d: %v", n, binary.NativeEndian.Uint16(answer[4:]), err)
	}
	ask()
	if whole, _, err := Receive(fd, answer[:20], nil, unix.MSG_TRUNC, &from); err != nil || whole != n {
		t.Errorf("cut off: %d bytes, want %d: %v", whole, n, err)
	}
	if a, ok := from.Addr(); ok {
		t.Errorf("the kernel has the IP address %s", a)
	}
	to := Kernel()
	if err := Send(-1, answer[:16], 0, &to); !errors.Is(err, unix.EBADF) {
		t.Errorf("no socket: %v", err)
	}
	if _, _, err := Receive(-1, answer, nil, 0, &from); !errors.Is(err, unix.EBADF) {
		t.Errorf("no socket: %v", err)
	}
}

// TestAddresses: the kernel reads addresses as they were meant.
func TestAddresses(t *testing.T) {
	t.Parallel()
	six := IP(netip.MustParseAddr("fe80::7"), 3)
	if a, ok := six.Addr(); !ok || a != netip.MustParseAddr("fe80::7") {
		t.Errorf("%s, %t", a, ok)
	}
	if _, ok := six.Link(); ok {
		t.Error("an IPv6 address is a hardware address")
	}
	four := IP(netip.MustParseAddr("192.0.2.1"), 0)
	if _, ok := four.Addr(); ok {
		t.Error("an IPv4 address is an IPv6 address")
	}
	l := Link(7, 0x0608, [6]byte{1, 2, 3, 4, 5, 6})
	if link, ok := l.Link(); !ok || link.Ifindex != 7 || link.Protocol != 0x0608 || link.Halen != 6 || link.Addr != [8]byte{1, 2, 3, 4, 5, 6} {
		t.Errorf("%+v, %t", link, ok)
	}
}
