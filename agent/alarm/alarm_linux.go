package alarm

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Alarm goes off when it is time.
type Alarm struct {
	file *os.File // a timer (timerfd_create(2)) in the runtime's poller
	raw  syscall.RawConn
}

// Open returns an alarm that is not set.
func Open() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a timer: %w", err)
	}
	a := &Alarm{file: os.NewFile(uintptr(fd), "timer")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return nil, fmt.Errorf("making a timer: %w", err)
	}
	return a, nil
}

// Close ends Wait, for good.
func (a *Alarm) Close() error { return a.file.Close() }

// Wait waits until the alarm goes off, and fails when it is closed. One goroutine
// at a time may call it.
func (a *Alarm) Wait() error {
	var failed syscall.Errno
	err := a.raw.Read(func(fd uintptr) bool {
		var times uint64 // that it went off
		_, _, failed = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&times)), unsafe.Sizeof(times))
		return failed != unix.EAGAIN
	})
	if err == nil && failed != 0 {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("waiting for a timer: %w", err)
	}
	return nil
}

// Set has the alarm go off after d, and not when it was set to before. Any
// goroutine may call it; what is closed stays silent.
func (a *Alarm) Set(d time.Duration) {
	timer := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))} // 0 would mean never
	_ = a.raw.Control(func(fd uintptr) {
		_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&timer)), 0, 0, 0)
	})
}
