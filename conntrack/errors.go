package conntrack

import (
	"errors"
	"fmt"
)

// ErrClosed is returned by every method of a Conn after Close.
var ErrClosed = errors.New("conntrack: connection closed")

// ErrMask is wrapped by the errors about a mark and mask that do not fit together, or
// about a mask that would mean every connection. Nothing was sent to the kernel.
var ErrMask = errors.New("unusable mark and mask")

// An UnsupportedError says that the running kernel was built without something this
// package needs.
type UnsupportedError struct {
	// Option is the name of the kernel's build option, such as "CONFIG_NF_CT_NETLINK".
	Option string

	// Err is what the kernel answered.
	Err error
}

// Error names the missing option.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the kernel lacks %s: %v", e.Option, e.Err)
}

// Unwrap returns the kernel's answer.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Is reports that an UnsupportedError is an errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// checkMark refuses a mark that has bits outside its mask, and an empty mask.
func checkMark(mark, mask uint32) error {
	if mask == 0 {
		return fmt.Errorf("%w: mask 0 would mean every connection", ErrMask)
	}
	if mark&^mask != 0 {
		return fmt.Errorf("%w: mark %#x has bits outside mask %#x", ErrMask, mark, mask)
	}
	return nil
}

// batchErrors collects the errors of a batch without growing with it.
type batchErrors struct {
	errs []error
	more int
}

// maxBatchErrors bounds how many single errors a batch reports.
const maxBatchErrors = 8

func (b *batchErrors) add(err error) {
	if len(b.errs) < maxBatchErrors {
		b.errs = append(b.errs, err)
		return
	}
	b.more++
}

func (b *batchErrors) err() error {
	if b.more > 0 {
		return errors.Join(append(b.errs[:len(b.errs):len(b.errs)], fmt.Errorf("and %d more errors of that kind", b.more))...)
	}
	return errors.Join(b.errs...)
}
