package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials asks the kernel who is at the other end.
func credentials(c net.Conn) (Peer, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return Peer{}, fmt.Errorf("reading peer credentials: %T is no socket", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("reading peer credentials: %w", err)
	}
	var peer Peer
	var opErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, opErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); opErr != nil {
			return
		}
		peer = Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}
		peer.Groups, opErr = peerGroups(fd)
	})
	if err := errors.Join(err, opErr); err != nil {
		return Peer{}, fmt.Errorf("reading peer credentials: %w", err)
	}
	return peer, nil
}

// peerGroups reads the supplementary groups with SO_PEERGROUPS (Linux 4.13). Unlike
// /proc/PID/status this cannot be fooled by a process number that is used anew.
func peerGroups(fd uintptr) ([]uint32, error) {
	const gidLen = 4
	buf := make([]byte, 64*gidLen)
	for {
		n := uint32(len(buf))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
		switch {
		case errno == unix.ERANGE && int(n) > len(buf): // n is what it takes
			buf = make([]byte, n)
			continue
		case errno == unix.ENODATA:
			return nil, nil // the peer's groups are not known
		case errno != 0:
			return nil, errno
		}
		groups := make([]uint32, 0, n/gidLen)
		for b := buf[:n]; len(b) >= gidLen; b = b[gidLen:] {
			groups = append(groups, binary.NativeEndian.Uint32(b))
		}
		return groups, nil
	}
}
