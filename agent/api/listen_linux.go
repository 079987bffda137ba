package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	folderMode = 0o751 // others find the files that are for them, and no others
	socketMode = 0o660

	// LockSuffix makes the name of the file that is locked while somebody serves
	// the socket beside it.
	LockSuffix = ".lock"

	// maxPath is the longest path of a unix socket: sun_path of struct sockaddr_un,
	// without its final NUL.
	maxPath = 107

	// probeTimeout is how long Listen waits for somebody to answer on an old socket.
	probeTimeout = time.Second
)

// A Listener is the agent's control socket. While it is open it holds a lock on a file
// next to the socket, so that two agents never serve the same one.
type Listener struct {
	*net.UnixListener

	// GID is the group whose members may read, or -1 if there is none.
	GID int

	// Warnings says what does not work without being an error: a group that does not exist.
	Warnings []string

	path  string
	ino   socketID
	lock  *os.File
	close sync.Once
	err   error
}

var _ net.Listener = &Listener{}

// socketID tells a socket's file from another one in its place.
type socketID struct {
	dev, ino uint64
}

// Listen opens the control socket at an absolute path. The socket belongs to the process's
// user and to the group (a name or number; "" is none), with mode 0660.
//
// The folder is made if it is missing, with mode 0751 and the same group. One that exists
// must belong to root or to this user, and nobody else may be able to write there; if
// others cannot even look into it, it is given the group and mode, too. Neither the folder
// nor the socket may be a symbolic link.
//
// An old socket is removed only if nobody answers on it; if somebody does, the error wraps
// ErrAlreadyRunning. A group that does not exist, or that this user may not give files to,
// is no error but a warning of the Listener, and the socket is then for this user and root.
//
// The caller must Close the Listener, which removes the socket.
func Listen(path, group string) (*Listener, error) {
	l, err := listen(path, group)
	if err != nil {
		return nil, fmt.Errorf("opening the control socket %s: %w", path, err)
	}
	return l, nil
}

func listen(path, group string) (_ *Listener, err error) {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return nil, errors.New("not an absolute, clean path")
	case len(path) > maxPath:
		return nil, fmt.Errorf("the path is longer than %d bytes", maxPath)
	}
	l := &Listener{path: path}
	var warning string
	if l.GID, warning, err = lookupGroup(group); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	if warning != "" {
		l.Warnings = append(l.Warnings, warning)
	}
	if err := l.prepareFolder(); err != nil {
		return nil, err
	}
	if l.lock, err = takeLock(path + LockSuffix); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	if err := l.bind(); err != nil {
		return nil, err
	}
	return l, nil
}

// Close closes the socket, removes its file (unless that is another one by now) and lets go
// of the lock. The lock's file stays: removing it could not be done without a race.
func (l *Listener) Close() error {
	l.close.Do(func() {
		var errs []error
		if l.UnixListener != nil {
			if id, err := statSocket(unix.AT_FDCWD, l.path); err == nil && id == l.ino {
				errs = append(errs, os.Remove(l.path))
			}
			errs = append(errs, l.UnixListener.Close())
		}
		if l.lock != nil {
			errs = append(errs, l.lock.Close())
		}
		l.err = errors.Join(errs...)
	})
	return l.err
}

// lookupGroup finds the number of a group. The kernel's own names know nothing of it; this
// reads /etc/group.
func lookupGroup(group string) (gid int, warning string, err error) {
	if group == "" {
		return -1, "", nil
	}
	g, err := user.LookupGroup(group)
	var unknown user.UnknownGroupError
	switch {
	case err == nil:
		group = g.Gid
	case errors.As(err, &unknown) && !isNumber(group), errors.Is(err, fs.ErrNotExist):
		return -1, fmt.Sprintf("there is no group %q: only root can use the control socket; add it with: groupadd --system %s", group, group), nil
	case !errors.As(err, &unknown):
		return -1, "", fmt.Errorf("looking up group %q: %w", group, err)
	}
	n, err := strconv.ParseUint(group, 10, 31)
	if err != nil {
		return -1, "", fmt.Errorf("number of group %q: %w", group, err)
	}
	return int(n), "", nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// prepareFolder makes the socket's folder, or checks the one that is there.
func (l *Listener) prepareFolder() error {
	dir := filepath.Dir(l.path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	created := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := os.Lstat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder (%v); symbolic links are not followed", dir, info.Mode().Type())
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	euid := uint32(os.Geteuid())
	if st.Uid != 0 && st.Uid != euid {
		return fmt.Errorf("folder %s belongs to user %d, not to user %d or root: run the agent as that user, as its service does, or give the folder and what is in it to this one", dir, st.Uid, euid)
	}
	if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("others may write in folder %s (mode %#o): they could replace the socket", dir, st.Mode&0o7777)
	}
	// A folder that everybody may enter is somebody else's business: /run, /tmp.
	if !created && (st.Uid != euid || st.Mode&0o007 != 0 && st.Mode&0o777 != folderMode) {
		return nil
	}
	if err := l.giveToGroup(st.Gid, func(gid int) error { return unix.Fchown(fd, -1, gid) }); err != nil {
		return &os.PathError{Op: "chown", Path: dir, Err: err}
	}
	if err := unix.Fchmod(fd, folderMode); err != nil {
		return &os.PathError{Op: "chmod", Path: dir, Err: err}
	}
	return nil
}

// giveToGroup calls chown with the group unless that is what the file has, and does without
// the group where that is forbidden.
func (l *Listener) giveToGroup(have uint32, chown func(gid int) error) error {
	if l.GID < 0 || int(have) == l.GID {
		return nil // a hardened service may not even call chown
	}
	err := chown(l.GID)
	if errors.Is(err, unix.EPERM) {
		l.Warnings = append(l.Warnings, fmt.Sprintf("user %d may not give the control socket to group %d: only this user and root can use it", os.Geteuid(), l.GID))
		l.GID = -1
		return nil
	}
	return err
}

// takeLock locks a file until it is closed or the process ends. Only the own user can open
// it, so that nobody else can hold the lock.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (it holds %s)", ErrAlreadyRunning, path)
		}
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// Served reports whether somebody holds the lock of the socket at path: an agent of this
// network namespace, or of another one.
func Served(path string) bool {
	f, err := os.OpenFile(path+LockSuffix, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close() // and lets go of the lock
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// removeStale removes a socket on which nobody answers.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is something else in its place (%v); remove it", info.Mode())
	}
	c, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		_ = c.Close()
		return fmt.Errorf("%w (it answers)", ErrAlreadyRunning)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%w (it has more clients than it can answer)", ErrAlreadyRunning)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("trying the old socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the old socket: %w", err)
	}
	return nil
}

// bind makes the socket, at first for the own user alone whatever the umask is: the kernel
// takes the mode of the new file from the socket's own (unix_bind in net/unix/af_unix.c).
func (l *Listener) bind() error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	listener, err := lc.Listen(context.Background(), "unix", l.path)
	if err != nil {
		return err
	}
	l.UnixListener = listener.(*net.UnixListener)
	l.SetUnlinkOnClose(false) // Close looks first whose socket it is

	fd, err := unix.Open(l.path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: l.path, Err: err}
	}
	defer unix.Close(fd)
	if l.ino, err = statSocket(fd, ""); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: l.path, Err: err}
	}
	if err := l.giveToGroup(st.Gid, func(gid int) error { return unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH) }); err != nil {
		return &os.PathError{Op: "chown", Path: l.path, Err: err}
	}
	if l.GID < 0 {
		return nil // mode 0600 is all that is needed
	}
	// fchmod refuses a descriptor of O_PATH.
	if err := os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), socketMode); err != nil {
		return fmt.Errorf("changing the socket's mode: %w", err)
	}
	return nil
}

// statSocket identifies the socket at path, or that of descriptor fd if path is empty.
func statSocket(fd int, path string) (socketID, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, path, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return socketID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return socketID{}, errors.New("there is something else in the socket's place")
	}
	return socketID{dev: uint64(st.Dev), ino: st.Ino}, nil
}
