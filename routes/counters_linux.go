package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/datagram"
)

// Counter is how many packets and bytes an interface has received and sent
// since it was made.
type Counter struct{ In, Out, InBytes, OutBytes uint64 }

// Counters reads the interfaces' counters, and nothing else, so that
// they can be read many times a second. It has a socket of its own in the
// network namespace it was opened in: it may be used beside a Kernel, by one
// goroutine at a time.
type Counters struct {
	file   *os.File // blocks, and so is not given to the runtime's poller
	raw    syscall.RawConn
	buffer []byte
	from   datagram.Address
	all    map[int]Counter
}

// Messages of linux/rtnetlink.h and linux/if_link.h: a dump of struct
// rtnl_link_stats64 alone (RTM_GETSTATS, since Linux 4.7). Listing the links
// would make the kernel write twenty times as much.
const (
	sizeofIfStatsMsg  = 12
	iflaStatsLink64   = 1
	statsFilterLink64 = 1 << (iflaStatsLink64 - 1) // IFLA_STATS_FILTER_BIT
	maxDump           = 32 << 10                   // netlink_dump never sends more at once
)

// OpenCounters opens a socket for counters. It needs no privileges. The caller
// must Close it.
func OpenCounters() (*Counters, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a routing socket for packet counters: %w", err)
	}
	c := &Counters{file: os.NewFile(uintptr(fd), "packet counters"), buffer: make([]byte, maxDump), all: map[int]Counter{}}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.Close()
		return nil, fmt.Errorf("opening a routing socket for packet counters: %w", err)
	}
	return c, nil
}

// Close frees the socket. A Read after it fails.
func (c *Counters) Close() { _ = c.file.Close() }

// Read returns the counters of all interfaces by index. The map is good until the
// next Read. After an error it may be called again.
func (c *Counters) Read() (map[int]Counter, error) {
	counters, err := retry(c.dump)
	if err != nil {
		return nil, fmt.Errorf("reading the packet counters of the interfaces: %w", err)
	}
	return counters, nil
}

func (c *Counters) dump() (counters map[int]Counter, err error) {
	closed := c.raw.Control(func(fd uintptr) {
		for left := error(nil); left == nil; { // of an answer that was not read to its end
			_, _, left = datagram.Receive(int(fd), c.buffer, nil, 0, &c.from)
		}
		if err = askCounters(int(fd)); err == nil {
			counters, err = c.answer(int(fd))
		}
	})
	return counters, errors.Join(err, closed)
}

// askCounters asks for all interfaces' counters.
func askCounters(fd int) error {
	request := make([]byte, unix.SizeofNlMsghdr+sizeofIfStatsMsg)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETSTATS)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(request[unix.SizeofNlMsghdr+8:], statsFilterLink64)
	to := datagram.Kernel()
	return datagram.Send(fd, request, 0, &to)
}

// answer reads a dump. Nobody waits: the kernel writes it while it is asked and
// while it is read, so that what is not there will not come.
func (c *Counters) answer(fd int) (map[int]Counter, error) {
	clear(c.all)
	for {
		n, _, err := datagram.Receive(fd, c.buffer, nil, unix.MSG_TRUNC, &c.from)
		if err != nil {
			return nil, err
		}
		if n > len(c.buffer) {
			return nil, fmt.Errorf("%w: %d bytes at once", errCounter, n)
		}
		done, err := c.messages(c.buffer[:n])
		if err != nil {
			return nil, err
		}
		if done {
			return c.all, nil
		}
	}
}

// messages reads some of a dump's messages, and reports whether the last one was
// among them.
func (c *Counters) messages(b []byte) (done bool, err error) {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return false, fmt.Errorf("%w: %d bytes are left", errCounter, len(b))
		}
		size, kind, flags := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, fmt.Errorf("%w: a message of %d bytes in %d", errCounter, size, len(b))
		}
		data := b[unix.SizeofNlMsghdr:size]
		b = b[min(aligned(size), len(b)):]
		switch {
		case flags&unix.NLM_F_DUMP_INTR != 0:
			return false, netlink.ErrDumpInterrupted
		case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
			if len(data) >= 4 && binary.NativeEndian.Uint32(data) != 0 {
				return false, unix.Errno(-int32(binary.NativeEndian.Uint32(data)))
			}
			return true, nil
		}
		index, counter, err := decodeCounter(data)
		if err != nil {
			return false, err
		}
		c.all[index] = counter
	}
	return false, nil
}

// aligned is where what follows n bytes begins, in netlink (NLMSG_ALIGN,
// NLA_ALIGN).
func aligned(n int) int { return (n + 3) &^ 3 }

// errCounter is returned for a message that is not as linux/if_link.h says.
var errCounter = errors.New("malformed answer of the kernel")

// decodeCounter reads a RTM_NEWSTATS: struct if_stats_msg, then attributes.
func decodeCounter(b []byte) (index int, c Counter, err error) {
	if len(b) < sizeofIfStatsMsg {
		return 0, Counter{}, fmt.Errorf("%w: %d bytes", errCounter, len(b))
	}
	index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	for b = b[sizeofIfStatsMsg:]; len(b) >= unix.SizeofNlAttr; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofNlAttr || size > len(b) {
			return 0, Counter{}, fmt.Errorf("%w: an attribute of %d bytes in %d", errCounter, size, len(b))
		}
		if stats := b[unix.SizeofNlAttr:size]; kind == iflaStatsLink64 && len(stats) >= 32 { // rx_packets, tx_packets, rx_bytes, tx_bytes come first
			n := func(i int) uint64 { return binary.NativeEndian.Uint64(stats[8*i:]) }
			return index, Counter{In: n(0), Out: n(1), InBytes: n(2), OutBytes: n(3)}, nil
		}
		b = b[min(aligned(size), len(b)):]
	}
	return 0, Counter{}, fmt.Errorf("%w: no counters in it", errCounter)
}
