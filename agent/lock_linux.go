package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// lockName is an address in the abstract namespace of unix(7) sockets. Those
// names belong to a network namespace, exactly the thing that only one agent
// may manage, and end with their process, however it ends.
const lockName = "@multiroute/agent"

// purgeName is taken, like lockName, while a purge is at work.
const purgeName = "@multiroute/purge"

// purging reports whether a purge is at work.
func purging() bool {
	c, err := net.Dial("unix", purgeName)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// ErrRunning is wrapped by the error of a second agent in one network
// namespace.
var ErrRunning = errors.New("another agent manages this network namespace")

// runningError is an ErrRunning that knows the other process.
type runningError struct{ pid int }

func (e runningError) Error() string {
	return fmt.Sprintf("%v: process %d: stop it first", ErrRunning, e.pid)
}

func (e runningError) Is(target error) bool { return target == ErrRunning }

// lock makes this process the namespace's only agent until the lock is closed.
// Anybody may bind an abstract name, so the holder counts only if it could be
// an agent: root, this process's own user, or the user of the service, to whom
// the folder of a control socket belongs. A name squatted by somebody else is
// reported and not respected.
func lock(sockets ...string) (l net.Listener, squatted error, err error) {
	l, err = net.Listen("unix", lockName)
	if !errors.Is(err, unix.EADDRINUSE) {
		if err != nil {
			return nil, nil, fmt.Errorf("locking this network namespace: %w", err)
		}
		return l, nil, nil
	}
	c, err := net.Dial("unix", lockName)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (it does not answer: %w)", ErrRunning, err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("locking this network namespace: %w", err)
	}
	var peer *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) { peer, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || sockErr != nil {
		return nil, nil, fmt.Errorf("locking this network namespace: %w", errors.Join(err, sockErr))
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() && !slices.ContainsFunc(sockets, func(s string) bool { return ownsFolder(peer.Uid, s) }) {
		return nil, fmt.Errorf("process %d of user %d holds the name %s and is no agent: end it; until then nothing keeps a second agent away", peer.Pid, peer.Uid, lockName), nil
	}
	return nil, nil, runningError{int(peer.Pid)}
}

// ownsFolder reports whether the folder of a socket belongs to a user.
func ownsFolder(uid uint32, socket string) bool {
	var st unix.Stat_t
	return unix.Lstat(filepath.Dir(socket), &st) == nil && st.Uid == uid
}
