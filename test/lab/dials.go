//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DialReport says how the openings of connections fared.
type DialReport struct {
	Dials, Failed int
	Gap           time.Duration // the longest time in which openings failed; see Dials
}

// String is the report in a line.
func (r DialReport) String() string {
	return fmt.Sprintf("%d dials, %d failed, gap %v", r.Dials, r.Failed, r.Gap)
}

// Dials opens TCP connections one after the other, without waiting for the last one, and closes them at once. One has failed if it is not open in
// time, or if it took a second attempt of the kernel: what the kernel knows decides, so that a computer that is too busy to look in time makes no
// failures. Where only some of them go to a dead uplink, failures and successes alternate: failures with less than dialPause between them are one
// gap, which lasts from the beginning of the first to that of the last, plus the interval.
type Dials struct {
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	interval time.Duration

	mu     sync.Mutex
	dials  int
	failed []time.Time // when they began
}

// dialPause is how long openings must succeed before a gap is over.
const dialPause = 60 * time.Millisecond

// StartDials opens a connection each interval from ns until Stop is called or ctx ends; each has the time timeout.
func StartDials(ctx context.Context, ns *NS, interval, timeout time.Duration, to Target) *Dials {
	ctx, cancel := context.WithCancel(ctx)
	d := &Dials{cancel: cancel, interval: interval}
	d.wait.Go(func() {
		n := 0
		// One thread opens all sockets. Do fails only where the lab is gone, and with it everybody who could be told.
		_ = ns.Do(func() error {
			pace(ctx, interval, func() {
				begin := time.Now()
				socket, target := to(n)
				n++
				f, err := dial(socket, target)
				if err != nil {
					d.count(begin, false)
					return
				}
				d.wait.Go(func() {
					opened := opened(f, begin.Add(timeout))
					f.Close()
					if opened || ctx.Err() == nil { // otherwise it was stopped, and is not known to have failed
						d.count(begin, opened)
					}
				})
			})
			return nil
		})
	})
	return d
}

// count takes account of an opening.
func (d *Dials) count(begin time.Time, opened bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials++
	if !opened {
		d.failed = append(d.failed, begin)
	}
}

// dial begins to open a connection in the namespace of the calling thread. Closing it sends a reset, and leaves nothing behind.
func dial(s Socket, to netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "connection")
	raw, err := f.SyscallConn()
	if err == nil {
		err = s.control("", "", raw)
	}
	if err == nil && s.Local.IsValid() {
		err = unix.Bind(fd, sockaddr(s.Local))
	}
	if err == nil {
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		f.Close()
		return nil, err
	}
	return f, nil
}

// opened waits until a connection is open, or the deadline, and says whether it was opened by the first attempt.
func opened(f *os.File, deadline time.Time) bool {
	raw, err := f.SyscallConn()
	if err != nil || f.SetWriteDeadline(deadline) != nil {
		return false
	}
	ok := false
	look := func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		ok = err == nil && info.State == tcpEstablished && info.Total_retrans == 0
		return err != nil || info.State != tcpSynSent
	}
	if err := raw.Write(look); err != nil { // the deadline: what is the case now?
		_ = raw.Control(func(fd uintptr) { look(fd) })
	}
	return ok
}

// States of a TCP socket (net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynSent     = 2
)

// sockaddr converts for the system calls.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Report returns the report so far.
func (d *Dials) Report() DialReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := DialReport{Dials: d.dials, Failed: len(d.failed)}
	var first, last time.Time
	failed := slices.SortedFunc(slices.Values(d.failed), time.Time.Compare)
	for _, at := range failed {
		if first.IsZero() || at.Sub(last) > dialPause {
			first = at
		}
		last = at
		r.Gap = max(r.Gap, last.Sub(first)+d.interval)
	}
	return r
}

// Stop ends the openings and returns the report.
func (d *Dials) Stop() DialReport {
	d.cancel()
	d.wait.Wait()
	return d.Report()
}
