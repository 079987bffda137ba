package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// DefaultTimeout is how long the kernel may keep silent before a call fails.
	DefaultTimeout = 5 * time.Second

	// socketBuffer is the size asked for both buffers of the socket, in bytes.
	socketBuffer = 4 << 20

	// messageBuffer is the largest datagram received, in bytes. The kernel fills up to
	// 32 KiB per datagram of a dump when the reader offers that much (netlink_dump).
	messageBuffer = 64 << 10

	// batchSize is how many messages go to the kernel at once. Should every one of them
	// fail, the answers (at most 1,280 bytes of buffer each) still fit the read buffer of
	// a process that may not enlarge it.
	batchSize = 256

	// maxDumps is how often an interrupted dump is begun before that is an error.
	maxDumps = 5
)

// A Conn is a connection to the kernel's table of connections, in the network namespace of
// the thread that called Dial. It is safe for concurrent use; calls wait for each other.
//
// A Conn survives errors: after one that leaves the socket in doubt (a timeout, an overrun)
// the next call opens a new socket, in the namespace of the thread it is called on.
type Conn struct {
	mu      sync.Mutex
	nl      *netlink.Conn // nil: to be dialled anew
	timeout time.Duration
	closed  bool
}

// Dial opens a connection and makes sure that it can be used: without CAP_NET_ADMIN over
// the network namespace the error says so and is an unix.EPERM, and with a kernel that has
// no ctnetlink it is an *UnsupportedError. The caller must Close the Conn.
func Dial() (*Conn, error) {
	c := &Conn{timeout: DefaultTimeout}
	if err := c.do("opening ctnetlink", c.probe); err != nil {
		return nil, err
	}
	return c, nil
}

// Close waits for a running call, which takes no longer than its timeout, and closes the
// socket. Later calls return ErrClosed; a second Close does nothing.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.drop()
}

// SetTimeout sets how long the kernel may keep silent before a call fails with an error
// that is an os.ErrDeadlineExceeded; 0 or less means DefaultTimeout. A long list may take
// longer than that altogether.
func (c *Conn) SetTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 {
		d = DefaultTimeout
	}
	c.timeout = d
}

// DeleteByMark deletes all connections of a family (FamilyAny: both), of all zones, whose
// mark & mask is mark: one message, carried out in the kernel. A mask of 0 is refused, as it
// would delete every connection there is. Mark 0 deletes those that carry none of mask's
// bits. Connections in a flowtable stay (nf_conntrack_netlink.c, ctnetlink_flush_iterate).
//
// A kernel before Linux 5.2 takes no notice of the family and deletes those of both.
func (c *Conn) DeleteByMark(mark, mask uint32, family uint8) error {
	if err := errors.Join(checkMark(mark, mask), checkFamily(family)); err != nil {
		return fmt.Errorf("deleting connections by mark: %w", err)
	}
	op := fmt.Sprintf("deleting connections with mark %#x/%#x", mark, mask)
	if family != FamilyAny {
		op += fmt.Sprintf(" of family %d", family)
	}
	return c.do(op, func() error {
		return needsMark(c.one(message(msgDelete, netlink.Acknowledge, appendDeleteByMark(nil, mark, mask, family))))
	})
}

// DeleteOutgoing is DeleteByMark for those connections whose source the router changed:
// they began behind it, and can begin anew by another way. What came in, or has an address
// of its own choice, stays. An old kernel that does not know the filter deletes all of the
// mark.
func (c *Conn) DeleteOutgoing(mark, mask uint32, family uint8) error {
	if err := errors.Join(checkMark(mark, mask), checkFamily(family)); err != nil {
		return fmt.Errorf("deleting outgoing connections by mark: %w", err)
	}
	return c.do(fmt.Sprintf("deleting outgoing connections with mark %#x/%#x", mark, mask), func() error {
		return needsMark(c.one(message(msgDelete, netlink.Acknowledge, appendDeleteOutgoing(nil, mark, mask, family))))
	})
}

// CountByMark counts the connections of both families and all zones by mark & mask. Marks
// that no connection carries are not in the map. Mask 0 counts all under 0. It takes memory
// for the map only.
func (c *Conn) CountByMark(mask uint32) (map[uint32]int, error) {
	var counts map[uint32]int
	err := c.do("counting connections by mark", func() error {
		return c.dump(appendDump(nil, Filter{}), func() { counts = make(map[uint32]int) }, func(data []byte) error {
			mark, err := decodeMark(data)
			if err != nil {
				return err
			}
			counts[mark&mask]++
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return counts, nil
}

// Stats reads the table's own figures: two messages, however many connections
// there are.
func (c *Conn) Stats() (Stats, error) {
	var s Stats
	err := c.do("reading the figures of the table of connections", func() (err error) {
		s, err = c.stats()
		return err
	})
	return s, err
}

// stats asks for the table and for each CPU together: the first answer says that
// more follows (ctnetlink_stat_ct_fill_info), and only the second has an end.
func (c *Conn) stats() (Stats, error) {
	var s Stats
	if _, err := c.nl.Send(message(msgStats, 0, appendDump(nil, Filter{}))); err != nil {
		return s, err
	}
	req, err := c.nl.Send(message(msgCPU, netlink.Dump, appendDump(nil, Filter{})))
	if err != nil {
		return s, err
	}
	for complete := false; !complete; {
		messages, err := c.nl.Receive()
		if err != nil {
			return s, &abortedError{err}
		}
		for _, m := range messages {
			switch m.Header.Type {
			case msgStats:
				err = s.decodeFill(m.Data)
			case msgCPU:
				complete = m.Header.Sequence == req.Header.Sequence
				err = s.addCPU(m.Data)
			default:
				err = fmt.Errorf("%w: unexpected answer of type %v", errMalformed, m.Header.Type)
			}
			if err != nil {
				return s, &abortedError{err}
			}
		}
	}
	return s, nil
}

// Each calls fn for every connection that the filter chooses, while the list arrives; fn
// must not call methods of the same Conn. An error of fn ends the list and is returned.
// Where the kernel says that a list was interrupted it is begun anew, so that fn may see
// connections twice.
func (c *Conn) Each(filter Filter, fn func(Entry) error) error {
	if err := filter.check(); err != nil {
		return fmt.Errorf("listing connections: %w", err)
	}
	return c.do("listing connections", func() error {
		err := c.dump(appendDump(nil, filter), func() {}, func(data []byte) error {
			e, err := decodeEntry(data)
			if err != nil {
				return err
			}
			return fn(e)
		})
		if filter.Mask != 0 {
			err = needsMark(err)
		}
		return err
	})
}

// SetMark sets the bits in mask of one connection's mark; the other bits keep the value
// they have in the kernel at that moment. A connection that has ended meanwhile is not an
// error. Only e's Family, Proto, Orig and Zone are looked at.
//
// A kernel without CONFIG_NF_CONNTRACK_MARK ignores the mark without an error.
func (c *Conn) SetMark(e Entry, mark, mask uint32) error {
	_, err := c.SetMarks([]MarkUpdate{{Entry: e, Mark: mark, Mask: mask}})
	return err
}

// SetMarks is SetMark for many connections at once. It returns how many were found and
// updated. Nothing is sent if one of the updates is invalid; an error of the kernel about
// one update does not keep the others from being made. It may be repeated at will.
func (c *Conn) SetMarks(updates []MarkUpdate) (updated int, err error) {
	for i := range updates {
		u := &updates[i]
		if err := errors.Join(u.Entry.check(), checkMark(u.Mark, u.Mask)); err != nil {
			return 0, fmt.Errorf("setting marks: update %d: %w", i, err)
		}
	}
	err = c.do("setting marks", func() (err error) {
		updated, err = c.batch(msgNew, len(updates),
			func(b []byte, i int) []byte { return appendSetMark(b, updates[i]) },
			func(i int) Entry { return updates[i].Entry })
		return err
	})
	return updated, err
}

// Delete deletes one connection. One that has ended meanwhile, or whose tuple belongs to
// a younger connection now (if e.ID is set), is not an error. Only e's Family, Proto, Orig,
// Zone and ID are looked at.
func (c *Conn) Delete(e Entry) error {
	_, err := c.DeleteAll([]Entry{e})
	return err
}

// DeleteAll is Delete for many connections at once. It returns how many were found and
// deleted. Nothing is sent if one of the entries is invalid; an error of the kernel about
// one entry (EBUSY: it is in a flowtable) does not keep the others from being deleted.
func (c *Conn) DeleteAll(entries []Entry) (deleted int, err error) {
	for i := range entries {
		if err := entries[i].check(); err != nil {
			return 0, fmt.Errorf("deleting connections: entry %d: %w", i, err)
		}
	}
	err = c.do("deleting connections", func() (err error) {
		deleted, err = c.batch(msgDelete, len(entries),
			func(b []byte, i int) []byte { return appendDelete(b, entries[i]) },
			func(i int) Entry { return entries[i] })
		return err
	})
	return deleted, err
}

// do runs one operation with the socket open and the deadline set, and names it in errors.
func (c *Conn) do(op string, fn func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
	err := c.open()
	if err == nil {
		err = fn()
	}
	if err == nil {
		return nil
	}
	if !isReply(err) {
		_ = c.drop() // what the socket holds is unknown; the first error is the one that counts
	}
	if errors.Is(err, unix.EPERM) && isReply(err) {
		return fmt.Errorf("%s: needs CAP_NET_ADMIN (root) in this network namespace: %w", op, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// open dials unless there is a socket, and sets its deadline.
func (c *Conn) open() error {
	if c.nl != nil {
		return c.extend()
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Strict: true, MessageBufferSize: messageBuffer})
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return &UnsupportedError{Option: "CONFIG_NETFILTER_NETLINK", Err: err}
	case err != nil:
		return err
	}
	c.nl = nl
	return errors.Join(nl.SetReadBuffer(socketBuffer), nl.SetWriteBuffer(socketBuffer), c.extend())
}

func (c *Conn) extend() error { return c.nl.SetDeadline(time.Now().Add(c.timeout)) }

func (c *Conn) drop() error {
	if c.nl == nil {
		return nil
	}
	err := c.nl.Close()
	c.nl = nil
	return err
}

// probe asks for a connection that cannot exist. nfnetlink answers EPERM without the
// privilege, and EINVAL where nobody has registered for ctnetlink.
func (c *Conn) probe() error {
	e := Entry{Family: FamilyIPv4, Proto: protoUDP, Orig: Tuple{Src: netip.IPv4Unspecified(), Dst: netip.IPv4Unspecified()}}
	err := c.one(message(msgGet, 0, appendKey(nil, e)))
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EINVAL) && isReply(err):
		return &UnsupportedError{Option: "CONFIG_NF_CT_NETLINK", Err: err}
	}
	return err
}

// dump sends a dump request and hands over the body of each message. begin is called
// before each attempt.
func (c *Conn) dump(body []byte, begin func(), fn func(data []byte) error) error {
	for range maxDumps {
		begin()
		interrupted, err := c.dumpOnce(body, fn)
		if err != nil || !interrupted {
			return err
		}
	}
	return fmt.Errorf("the list was interrupted %d times in a row", maxDumps)
}

func (c *Conn) dumpOnce(body []byte, fn func(data []byte) error) (interrupted bool, err error) {
	req, err := c.nl.Send(message(msgGet, netlink.Dump, body))
	if err != nil {
		return false, err
	}
	extended := time.Now()
	for m, err := range c.nl.ReceiveIter() {
		if err != nil {
			return false, err
		}
		interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		if m.Header.Sequence != req.Header.Sequence || m.Header.Type != msgNew {
			err = fmt.Errorf("%w: unexpected answer of type %v", errMalformed, m.Header.Type)
		} else {
			err = fn(m.Data)
		}
		if err != nil {
			// Leaving the loop reads the list to its end, unless reading fails at once.
			err = &abortedError{err}
			return false, errors.Join(err, c.nl.SetReadDeadline(time.Unix(0, 1)))
		}
		if now := time.Now(); now.Sub(extended) > c.timeout/8 {
			extended = now
			if err := c.extend(); err != nil {
				return false, &abortedError{err}
			}
		}
	}
	return interrupted, nil
}

// batch sends n messages, many at a time, and returns how many the kernel carried out.
// Only the last one of each datagram is acknowledged; of the others the kernel reports
// the failures (netlink_rcv_skb). It carries out a datagram to its end in any case.
// appendBody appends the body of message i; entry names its connection in errors.
func (c *Conn) batch(typ netlink.HeaderType, n int, appendBody func(b []byte, i int) []byte, entry func(i int) Entry) (done int, err error) {
	var errs batchErrors
	var body []byte
	msgs := make([]netlink.Message, 0, min(n, batchSize))
	for start := 0; start < n; start += batchSize {
		msgs, body = msgs[:0], body[:0]
		for i := start; i < min(start+batchSize, n); i++ {
			at := len(body)
			body = appendBody(body, i)
			msgs = append(msgs, message(typ, 0, body[at:]))
		}
		msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge
		failed, err := c.exchange(msgs, func(i int, err error) {
			if !errors.Is(err, unix.ENOENT) {
				errs.add(fmt.Errorf("%v: %w", entry(start+i), err))
			}
		})
		if err != nil {
			return done, err
		}
		done += len(msgs) - failed
	}
	return done, errs.err()
}

// one sends one message that has one answer.
func (c *Conn) one(m netlink.Message) error {
	var refusal error
	_, err := c.exchange([]netlink.Message{m}, func(_ int, err error) { refusal = err })
	return errors.Join(err, refusal)
}

// exchange sends one datagram and reads its answers. For each message that the kernel
// refused it calls fail with the message's index.
func (c *Conn) exchange(msgs []netlink.Message, fail func(i int, err error)) (failed int, err error) {
	sent, err := c.nl.SendMessages(msgs)
	if err != nil {
		return 0, err
	}
	// The kernel did all the work while it was sent to; the answers are there already.
	if err := c.extend(); err != nil {
		return 0, err
	}
	first, last := sent[0].Header.Sequence, uint32(len(sent)-1)
	for {
		var seq uint32
		reply, err := c.nl.Receive()
		var refusal *netlink.OpError
		switch {
		case err == nil && len(reply) == 1:
			seq = reply[0].Header.Sequence
		case isReply(err) && errors.As(err, &refusal):
			seq = refusal.Sequence
			failed++
		case err == nil:
			return failed, &abortedError{fmt.Errorf("%w: %d messages where one was due", errMalformed, len(reply))}
		default:
			return failed, err
		}
		i := seq - first
		if i > last {
			return failed, &abortedError{fmt.Errorf("%w: answer to something else", errMalformed)}
		}
		if refusal != nil {
			fail(int(i), err)
		}
		if i == last {
			return failed, nil
		}
	}
}

func message(typ netlink.HeaderType, flags netlink.HeaderFlags, body []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: body}
}

// An abortedError wraps an error after which answers may still be on their way.
type abortedError struct{ err error }

func (e *abortedError) Error() string { return e.err.Error() }
func (e *abortedError) Unwrap() error { return e.err }

// isReply reports whether err consists of answers of the kernel to messages, so that the
// socket can be used on. The library hands those over as bare numbers, and wraps the errors
// of system calls in an *os.SyscallError.
func isReply(err error) bool {
	var aborted *abortedError
	if errors.As(err, &aborted) {
		return false
	}
	var op *netlink.OpError
	if !errors.As(err, &op) {
		return false
	}
	_, bare := op.Err.(unix.Errno)
	return bare
}

// needsMark turns the answer of a kernel that was built without connection marks into an
// *UnsupportedError (nf_conntrack_netlink.c, ctnetlink_alloc_filter).
func needsMark(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) && isReply(err) {
		return &UnsupportedError{Option: "CONFIG_NF_CONNTRACK_MARK", Err: err}
	}
	return err
}
