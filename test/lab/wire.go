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
	Line                  // Ethernet through this process: delay and loss can be set
	TUN                   // point to point without Ethernet, as PPP: no gateway, no neighbours; delay and loss can be set
)

// Wire connects two interfaces through this process. A TUN needs write access to /dev/net/tun, which an ordinary user often lacks (the error
// wraps os.ErrPermission then).
type Wire struct {
	ends   [2]*os.File
	line   *NS           // of a Line: holds its own ends of the two cables, "a" and "b"
	delay  atomic.Int64  // nanoseconds
	jitter atomic.Int64  // nanoseconds
	loss   atomic.Uint32 // of 1<<16
	repeat atomic.Uint32 // of 1<<16
	rate   atomic.Int64  // bytes a second; 0: no limit
	buffer atomic.Int64  // nanoseconds
	wait   sync.WaitGroup
}

// NewWire makes interface aName in a and bName in b, both down, and carries packets between them.
func NewWire(kind WireKind, a *NS, aName string, b *NS, bName string) (*Wire, error) {
	w := &Wire{}
	var err error
	if kind == TUN {
		err = w.openTuns(a, aName, b, bName)
	} else {
		err = w.openLine(a, aName, b, bName)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("wiring %s/%s to %s/%s: %w", a.Name, aName, b.Name, bName, err)
	}
	w.wait.Go(func() { w.carry(w.ends[0], w.ends[1]) })
	w.wait.Go(func() { w.carry(w.ends[1], w.ends[0]) })
	return w, nil
}

// openTuns makes two TUN devices.
func (w *Wire) openTuns(a *NS, aName string, b *NS, bName string) error {
	err := a.Do(func() (err error) { w.ends[0], err = openTun(aName); return err })
	if err != nil {
		return err
	}
	return b.Do(func() (err error) { w.ends[1], err = openTun(bName); return err })
}

// openLine makes a cable from each side to a namespace in the middle, and opens packet sockets on the ends there.
func (w *Wire) openLine(a *NS, aName string, b *NS, bName string) (err error) {
	if w.line, err = NewNS("line"); err != nil {
		return err
	}
	if err := w.line.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return err
	}
	for i, side := range []struct {
		ns        *NS
		name, end string
	}{{a, aName, "a"}, {b, bName, "b"}} {
		if err := Veth(side.ns, side.name, w.line, side.end); err != nil {
			return err
		}
		if err := w.line.Up(side.end); err != nil {
			return err
		}
		link, err := w.line.Link(side.end)
		if err != nil {
			return err
		}
		err = w.line.Do(func() (err error) {
			w.ends[i], err = openPacket(link.Attrs().Index, side.name)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// openPacket opens a socket that reads and writes the frames of an interface in the namespace of the calling thread. Each frame has a virtio header,
// which keeps what the kernel still has to do to it: checksums, segmentation.
func openPacket(ifindex int, name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	all := uint16(unix.ETH_P_ALL)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		largeBuffer(fd),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: ifindex}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("setting up a packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openTun makes an interface in the namespace of the calling thread.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
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

// Jitter adds up to that much to every packet's time, at random and for each alone: they overtake each other.
func (w *Wire) Jitter(d time.Duration) { w.jitter.Store(int64(d)) }

// Repeat delivers that share of the packets twice, from 0 to 1, in each direction.
func (w *Wire) Repeat(share float64) { w.repeat.Store(uint32(share * (1 << 16))) }

// Rate limits what the wire carries in each direction, in bytes a second (0: no limit). What comes faster waits, at most as long as buffer, and
// is lost beyond that.
func (w *Wire) Rate(bytes int, buffer time.Duration) {
	w.buffer.Store(int64(buffer))
	w.rate.Store(int64(bytes))
}

// Loss loses that share of the packets, from 0 to 1, in each direction.
func (w *Wire) Loss(share float64) { w.loss.Store(uint32(share * (1 << 16))) }

// Carrier takes the carrier from both ends, or gives it back. With a TUN the kernel lets up to a second pass before it looks at the change.
func (w *Wire) Carrier(on bool) error {
	if w.line != nil {
		if on {
			return errors.Join(w.line.Up("a"), w.line.Up("b"))
		}
		return errors.Join(w.line.Down("a"), w.line.Down("b"))
	}
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
	if w.line != nil {
		_ = errors.Join(w.line.Delete("a"), w.line.Delete("b")) // fails if they are gone with their other ends
		w.line.Close()
	}
}

// late is a packet on its way.
type late struct {
	due    time.Time
	packet []byte
}

// direction is one of a wire's two.
type direction struct {
	to    *os.File
	queue chan late
	free  time.Time // when everything before has been sent, with a limited rate
}

// carry takes packets from one end to the other until an end is closed.
func (w *Wire) carry(from, to *os.File) {
	d := &direction{to: to, queue: make(chan late, 4096)}
	w.wait.Go(func() {
		for l := range d.queue {
			time.Sleep(time.Until(l.due))
			_, _ = to.Write(l.packet) // fails while the interface is down
		}
	})
	defer close(d.queue)
	buffer := make([]byte, 1<<17)
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
		w.send(d, buffer[:n])
		if rand.Uint32N(1<<16) < w.repeat.Load() {
			w.send(d, buffer[:n])
		}
	}
}

// send sends a packet to an end, now or when it is due.
func (w *Wire) send(d *direction, packet []byte) {
	delay, jitter, rate := time.Duration(w.delay.Load()), w.jitter.Load(), w.rate.Load()
	if delay == 0 && jitter == 0 && rate == 0 && len(d.queue) == 0 {
		_, _ = d.to.Write(packet)
		return
	}
	packet = append([]byte(nil), packet...)
	now := time.Now()
	if rate > 0 {
		if d.free.Before(now) {
			d.free = now
		}
		if d.free.Sub(now) > time.Duration(w.buffer.Load()) {
			return
		}
		d.free = d.free.Add(time.Duration(int64(len(packet)) * int64(time.Second) / rate))
		delay += d.free.Sub(now)
	}
	if jitter > 0 {
		time.AfterFunc(delay+time.Duration(rand.Int64N(jitter)), func() { _, _ = d.to.Write(packet) })
		return
	}
	select {
	case d.queue <- late{now.Add(delay), packet}:
	default: // a full queue drops, as any
	}
}
