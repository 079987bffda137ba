//go:build linux

package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WireKind says what an uplink's cable is made of.
type WireKind int

const (
	Cable WireKind = iota // a veth pair, in the kernel: no delay, no loss
	TAP                   // Ethernet through this process: delay and loss can be set
	TUN                   // point to point without Ethernet, as PPP: no gateway, no neighbours; delay and loss can be set
)

// Wire connects two interfaces through this process. It needs write access to /dev/net/tun, which an ordinary user often lacks (the error wraps
// os.ErrPermission then).
type Wire struct {
	ends  [2]*os.File
	delay atomic.Int64  // nanoseconds
	loss  atomic.Uint32 // of 1<<16
	wait  sync.WaitGroup
}

// NewWire makes interface aName in a and bName in b, both down, and carries packets between them.
func NewWire(kind WireKind, a *NS, aName string, b *NS, bName string) (*Wire, error) {
	w := &Wire{}
	for i, end := range []struct {
		ns   *NS
		name string
	}{{a, aName}, {b, bName}} {
		err := end.ns.Do(func() (err error) {
			w.ends[i], err = openTun(kind, end.name)
			return err
		})
		if err != nil {
			w.Close()
			return nil, fmt.Errorf("making %s/%s: %w", end.ns.Name, end.name, err)
		}
	}
	w.wait.Go(func() { w.carry(w.ends[0], w.ends[1]) })
	w.wait.Go(func() { w.carry(w.ends[1], w.ends[0]) })
	return w, nil
}

// openTun makes an interface in the namespace of the calling thread.
func openTun(kind WireKind, name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if kind == TAP {
			flags = unix.IFF_TAP | unix.IFF_NO_PI
		}
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Delay makes every packet take that long, in each direction.
func (w *Wire) Delay(d time.Duration) { w.delay.Store(int64(d)) }

// Loss loses that share of the packets, from 0 to 1, in each direction.
func (w *Wire) Loss(share float64) { w.loss.Store(uint32(share * (1 << 16))) }

// Carrier takes the carrier from both ends, or gives it back.
func (w *Wire) Carrier(on bool) error {
	value := int32(0)
	if on {
		value = 1
	}
	for _, end := range w.ends {
		raw, err := end.SyscallConn()
		if err != nil {
			return err
		}
		var errno unix.Errno
		err = raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNSETCARRIER, uintptr(unsafe.Pointer(&value)))
		})
		if err != nil {
			return err
		}
		if errno != 0 {
			return fmt.Errorf("setting the carrier of %s: %w", end.Name(), errno)
		}
	}
	return nil
}

// Close deletes both interfaces.
func (w *Wire) Close() {
	for _, end := range w.ends {
		if end != nil {
			end.Close()
		}
	}
	w.wait.Wait()
}

// late is a packet on its way.
type late struct {
	due    time.Time
	packet []byte
}

// carry takes packets from one end to the other until an end is closed.
func (w *Wire) carry(from, to *os.File) {
	queue := make(chan late, 4096)
	w.wait.Go(func() {
		for l := range queue {
			time.Sleep(time.Until(l.due))
			_, _ = to.Write(l.packet) // fails while the interface is down
		}
	})
	defer close(queue)
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if rand.Uint32N(1<<16) < w.loss.Load() {
			continue
		}
		delay := time.Duration(w.delay.Load())
		if delay == 0 && len(queue) == 0 {
			_, _ = to.Write(buffer[:n])
			continue
		}
		select {
		case queue <- late{time.Now().Add(delay), append([]byte(nil), buffer[:n]...)}:
		default: // a full queue drops, as any
		}
	}
}
