//go:build !linux

package conntrack

import (
	"errors"
	"time"
)

// DefaultTimeout is how long the kernel may keep silent before a call fails.
const DefaultTimeout = 5 * time.Second

// A Conn exists on Linux only; elsewhere Dial always fails.
type Conn struct{}

// Dial returns an error that is an errors.ErrUnsupported.
func Dial() (*Conn, error) {
	return nil, &UnsupportedError{Option: "CONFIG_NF_CT_NETLINK", Err: errors.New("this is not Linux")}
}

// Close does nothing.
func (*Conn) Close() error { return nil }

// SetTimeout does nothing.
func (*Conn) SetTimeout(time.Duration) {}

// DeleteByMark returns ErrClosed.
func (*Conn) DeleteByMark(mark, mask uint32, family uint8) error { return ErrClosed }

// DeleteOutgoing returns ErrClosed.
func (*Conn) DeleteOutgoing(mark, mask uint32, family uint8) error { return ErrClosed }

// CountByMark returns ErrClosed.
func (*Conn) CountByMark(mask uint32) (map[uint32]int, error) { return nil, ErrClosed }

// Stats returns ErrClosed.
func (*Conn) Stats() (Stats, error) { return Stats{}, ErrClosed }

// Each returns ErrClosed.
func (*Conn) Each(Filter, func(Entry) error) error { return ErrClosed }

// SetMark returns ErrClosed.
func (*Conn) SetMark(e Entry, mark, mask uint32) error { return ErrClosed }

// SetMarks returns ErrClosed.
func (*Conn) SetMarks([]MarkUpdate) (int, error) { return 0, ErrClosed }

// Delete returns ErrClosed.
func (*Conn) Delete(Entry) error { return ErrClosed }

// DeleteAll returns ErrClosed.
func (*Conn) DeleteAll([]Entry) (int, error) { return 0, ErrClosed }
