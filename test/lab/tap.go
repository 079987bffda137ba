//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sampleQueue = 1 << 18 // bytes of leaked packets waiting to be read as samples
	maxSamples  = 256
	snapLength  = 64
)

// Leak is a packet that should not have been sent.
type Leak struct {
	Time                time.Time      // when the provider received it
	Source, Destination netip.AddrPort // port 0 where the protocol has none
	Protocol            uint8
}

// String writes the leak in a line.
func (l Leak) String() string {
	return fmt.Sprintf("%s protocol %d %s > %s", l.Time.Format("15:04:05.000000"), l.Protocol, l.Source, l.Destination)
}

// tap counts, in the kernel, the packets that enter by an interface and pass a filter: every packet counts, also when nobody reads and the queue
// is full.
type tap struct {
	fd      int // 0: none
	ifindex int
	count   uint64
	samples []Leak
}

// watch begins to count, or goes on with another filter or interface.
func (t *tap) watch(ns *NS, name string, filter []unix.SockFilter, queue int) error {
	link, err := ns.Link(name)
	if err != nil {
		return err
	}
	if t.fd != 0 && t.ifindex == link.Attrs().Index {
		return attach(t.fd, filter)
	}
	t.close()
	err = ns.Do(func() error {
		// Protocol 0: nothing is received before the filter is there and bind names the protocol.
		t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		t.fd = 0
		return fmt.Errorf("opening a packet socket: %w", err)
	}
	t.ifindex = link.Attrs().Index
	all := uint16(unix.ETH_P_ALL)
	return errors.Join(
		attach(t.fd, filter),
		unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queue),
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: t.ifindex}),
	)
}

// attach sets a socket's filter; the kernel replaces the old one at once.
func attach(fd int, filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attaching a filter of %d instructions: %w", len(filter), err)
	}
	return nil
}

// read returns the packets counted so far, and the samples.
func (t *tap) read() (uint64, []Leak, error) {
	if t == nil {
		return 0, nil, nil
	}
	err := t.collect()
	return t.count, append([]Leak(nil), t.samples...), err
}

// collect takes the counters and samples from the socket.
func (t *tap) collect() error {
	if t.fd == 0 {
		return nil
	}
	stats, err := packetStats(t.fd) // the kernel resets them with every reading
	if err != nil {
		return fmt.Errorf("reading packet counters: %w", err)
	}
	t.count += uint64(stats.Packets)
	var packet [snapLength]byte
	var oob [64]byte
	for len(t.samples) < maxSamples {
		n, oobn, _, _, err := unix.Recvmsg(t.fd, packet[:], oob[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENETDOWN) { // said once, after the interface went down
			continue
		}
		if err != nil {
			break
		}
		if leak, ok := parseLeak(packet[:n]); ok {
			leak.Time = timestamp(oob[:oobn])
			t.samples = append(t.samples, leak)
		}
	}
	return nil
}

// close ends the counting, and keeps what was counted.
func (t *tap) close() {
	if t.fd == 0 {
		return
	}
	_ = t.collect()
	unix.Close(t.fd)
	t.fd = 0
}

// packetStats reads PACKET_STATISTICS. Packets includes the dropped ones.
func packetStats(fd int) (unix.TpacketStats, error) {
	var stats unix.TpacketStats
	size := uint32(unsafe.Sizeof(stats))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS,
		uintptr(unsafe.Pointer(&stats)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return stats, errno
	}
	return stats, nil
}

// parseLeak reads the beginning of an IP packet.
func parseLeak(b []byte) (Leak, bool) {
	if len(b) < 20 {
		return Leak{}, false
	}
	var leak Leak
	var source, destination netip.Addr
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		source, destination = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		leak.Protocol = b[9]
		rest = b[min(len(b), int(b[0]&15)*4):]
	case 6:
		if len(b) < 40 {
			return Leak{}, false
		}
		source, destination = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		leak.Protocol = b[6]
		rest = b[40:]
	default:
		return Leak{}, false
	}
	var from, to uint16
	switch leak.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		if len(rest) >= 4 {
			from, to = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		}
	}
	leak.Source, leak.Destination = netip.AddrPortFrom(source, from), netip.AddrPortFrom(destination, to)
	return leak, true
}

// timestamp finds the time of arrival in a message's control data.
func timestamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return time.Unix((*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Unix())
		}
	}
	return time.Time{}
}
