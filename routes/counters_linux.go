package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Counter is how many packets an interface has received and sent since it was
// made.
type Counter struct{ In, Out uint64 }

// Counters reads the interfaces' packet counters, and nothing else, so that
// they can be read many times a second. It has a socket of its own in the
// network namespace it was opened in: it may be used beside a Kernel, by one
// goroutine at a time.
type Counters struct {
	c       *mdnetlink.Conn
	timeout time.Duration
}

// Messages of linux/rtnetlink.h and linux/if_link.h: a dump of struct
// rtnl_link_stats64 alone (RTM_GETSTATS, since Linux 4.7). Listing the links
// would make the kernel write twenty times as much.
const (
	sizeofIfStatsMsg  = 12
	iflaStatsLink64   = 1
	statsFilterLink64 = 1 << (iflaStatsLink64 - 1) // IFLA_STATS_FILTER_BIT
)

// OpenCounters opens a socket for counters. It needs no privileges. The caller
// must Close it.
func OpenCounters() (*Counters, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("opening a routing socket for packet counters: %w", err)
	}
	return &Counters{c: c, timeout: timeout}, nil
}

// Close frees the socket. A Read that runs fails.
func (c *Counters) Close() { _ = c.c.Close() }

// Read returns the counters of all interfaces by index. After an error it may
// be called again.
func (c *Counters) Read() (map[int]Counter, error) {
	counters, err := retry(c.dump)
	if err != nil {
		return nil, fmt.Errorf("reading the packet counters of the interfaces: %w", err)
	}
	return counters, nil
}

func (c *Counters) dump() (map[int]Counter, error) {
	if err := c.c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	body := make([]byte, sizeofIfStatsMsg)
	binary.NativeEndian.PutUint32(body[8:], statsFilterLink64)
	req, err := c.c.Send(mdnetlink.Message{Header: mdnetlink.Header{Type: unix.RTM_GETSTATS, Flags: mdnetlink.Request | mdnetlink.Dump}, Data: body})
	if err != nil {
		return nil, err
	}
	for {
		messages, err := c.c.Receive()
		if err != nil {
			return nil, err
		}
		if len(messages) > 0 && messages[0].Header.Sequence != req.Header.Sequence {
			continue // the late answer to a request that was given up
		}
		counters := make(map[int]Counter, len(messages))
		for _, m := range messages {
			if m.Header.Flags&mdnetlink.DumpInterrupted != 0 {
				return nil, netlink.ErrDumpInterrupted
			}
			index, counter, err := decodeCounter(m.Data)
			if err != nil {
				return nil, err
			}
			counters[index] = counter
		}
		return counters, nil
	}
}

// errCounter is returned for a message that is not as linux/if_link.h says.
var errCounter = errors.New("malformed answer of the kernel")

// decodeCounter reads a RTM_NEWSTATS: struct if_stats_msg, then attributes.
func decodeCounter(b []byte) (index int, c Counter, err error) {
	if len(b) < sizeofIfStatsMsg {
		return 0, Counter{}, fmt.Errorf("%w: %d bytes", errCounter, len(b))
	}
	ad, err := mdnetlink.NewAttributeDecoder(b[sizeofIfStatsMsg:])
	if err != nil {
		return 0, Counter{}, fmt.Errorf("%w: %w", errCounter, err)
	}
	for ad.Next() {
		if stats := ad.Bytes(); ad.Type() == iflaStatsLink64 && len(stats) >= 16 { // rx_packets, tx_packets come first
			index = int(int32(binary.NativeEndian.Uint32(b[4:])))
			return index, Counter{In: binary.NativeEndian.Uint64(stats), Out: binary.NativeEndian.Uint64(stats[8:])}, nil
		}
	}
	if err := ad.Err(); err != nil {
		return 0, Counter{}, fmt.Errorf("%w: %w", errCounter, err)
	}
	return 0, Counter{}, fmt.Errorf("%w: no counters in it", errCounter)
}
