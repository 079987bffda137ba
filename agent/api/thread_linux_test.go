package api

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lockThread gives the calling goroutine a thread that ends with it.
func lockThread() { runtime.LockOSThread() }

// setThreadGroups sets the supplementary groups of the calling thread alone; the function
// of package syscall sets those of all threads.
func setThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
