package sysctl

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Files keeps parameters open from one look at them to the next: to find one by its path
// costs several times as much as to read it, and the agent looks at ten an uplink every
// few seconds. The zero value is ready for use, by one goroutine at a time. The caller must Close
// it.
//
// What belongs to an interface ends with it, for who has it open, too: reading it fails
// (grab_header in fs/proc/proc_sysctl.c). Then it is found by its path again.
type Files struct{ open map[string]int }

// mostFiles bounds what is kept open.
const mostFiles = 512

// read reads a whole parameter into b. With nil nothing is kept.
func (f *Files) read(path string, b []byte) (int, error) {
	if f != nil {
		if fd, ok := f.open[path]; ok {
			if n, err := pread(fd, b); err == nil {
				return n, nil
			}
			_ = unix.Close(fd) // nothing was written
			delete(f.open, path)
		}
	}
	// With an os.File each would be given to the runtime's poller, and cost three times as
	// much.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	n, err := pread(fd, b)
	if err != nil {
		_ = unix.Close(fd)
		return 0, &os.PathError{Op: "read", Path: path, Err: err}
	}
	if f == nil {
		_ = unix.Close(fd)
		return n, nil
	}
	if len(f.open) >= mostFiles {
		f.Close()
	}
	if f.open == nil {
		f.open = map[string]int{}
	}
	f.open[path] = fd
	return n, nil
}

// pread reads from the beginning. It never waits, so Go's scheduler need not be
// told of it (see package datagram).
func pread(fd int, b []byte) (int, error) {
	n, _, failed := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0) // in whatever way a position is passed
	if failed != 0 {
		return 0, failed
	}
	return int(n), nil
}

// Close closes everything; what is read after that is opened anew.
func (f *Files) Close() {
	for _, fd := range f.open {
		_ = unix.Close(fd)
	}
	f.open = nil
}
