package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func ownGroup() string { return strconv.Itoa(os.Getegid()) }

func mustListen(tb testing.TB, path, group string) *Listener {
	tb.Helper()
	l, err := Listen(path, group)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func mode(tb testing.TB, path string) fs.FileMode {
	tb.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Mode()
}

// TestListenModes is not parallel: the umask is the whole process's.
func TestListenModes(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		func() {
			dir := shortDir(t)
			defer unix.Umask(unix.Umask(umask))
			path := filepath.Join(dir, "a", "b", "agent.sock")
			l := mustListen(t, path, ownGroup())
			if got := mode(t, filepath.Dir(path)); got != fs.ModeDir|0o751 {
				t.Errorf("umask %#o: folder %v", umask, got)
			}
			if got := mode(t, path); got != fs.ModeSocket|0o660 {
				t.Errorf("umask %#o: socket %v", umask, got)
			}
			if got := mode(t, path+LockSuffix); got.Perm()&0o077 != 0 {
				t.Errorf("umask %#o: lock %v", umask, got)
			}
			if l.GID != os.Getegid() || len(l.Warnings) != 0 {
				t.Errorf("umask %#o: group %d, warnings %q", umask, l.GID, l.Warnings)
			}
			if err := errors.Join(l.Close(), l.Close()); err != nil {
				t.Errorf("umask %#o: Close = %v", umask, err)
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("umask %#o: after Close: %v", umask, err)
			}
		}()
	}
}

func TestListenFolders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		have, want fs.FileMode // of the folder
		err        string
	}{
		{"private", 0o700, 0o751, ""},
		{"as it was once", 0o750, 0o751, ""},
		{"as it should be", 0o751, 0o751, ""},
		{"open to all: not ours to change", 0o755, 0o755, ""},
		{"like /tmp", 0o777 | fs.ModeSticky, 0o777 | fs.ModeSticky, ""},
		{"writable by the group", 0o770, 0o770, "others may write in folder"},
		{"writable by all", 0o777, 0o777, "others may write in folder"},
	} {
		dir := filepath.Join(shortDir(t), "d")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, tt.have)); err != nil {
			t.Fatal(err)
		}
		l, err := Listen(filepath.Join(dir, "agent.sock"), ownGroup())
		switch {
		case (err == nil) != (tt.err == ""):
			t.Errorf("%s: %v", tt.name, err)
		case err != nil && !strings.Contains(err.Error(), tt.err):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
		if got := mode(t, dir); got != tt.want|fs.ModeDir {
			t.Errorf("%s: the folder is %v now, want %v", tt.name, got, tt.want)
		}
		if l != nil {
			l.Close()
		}
	}
}

func TestListenRefusesPaths(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	join := func(name string) string { return filepath.Join(dir, name) }
	victim := join("victim")
	for _, err := range []error{
		os.WriteFile(victim, []byte("precious"), 0o600),
		os.Symlink(victim, join("link.sock")),
		os.Symlink(join("nowhere"), join("dangling.sock")),
		os.Mkdir(join("real"), 0o750),
		os.Symlink(join("real"), join("folder-link")),
		os.Mkdir(join("folder.sock"), 0o750),
		os.Symlink(victim, join("locked.sock"+LockSuffix)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"":                             "not an absolute, clean path",
		"/":                            "not an absolute, clean path",
		"agent.sock":                   "not an absolute, clean path",
		dir + "/../agent.sock":         "not an absolute, clean path",
		join(strings.Repeat("x", 108)): "longer than 107 bytes",
		victim:                         "something else in its place",
		join("link.sock"):              "something else in its place",
		join("dangling.sock"):          "something else in its place",
		join("folder.sock"):            "something else in its place",
		join("folder-link/a.sock"):     "symbolic links are not followed",
		join("victim/agent.sock"):      "not a directory",
		join("locked.sock"):            "too many levels of symbolic links",
	} {
		l, err := Listen(path, "")
		if err == nil {
			l.Close()
			t.Errorf("Listen(%q): no error", path)
		} else if !strings.Contains(err.Error(), want) {
			// A file in the folder's place is named in one way or the other.
			if want != "not a directory" || !strings.Contains(err.Error(), "is not a folder") {
				t.Errorf("Listen(%q) = %v, want %q", path, err, want)
			}
		}
	}
	if got, err := os.ReadFile(victim); string(got) != "precious" || err != nil {
		t.Errorf("the victim: %q, %v", got, err)
	}
	if _, err := os.Lstat(join("nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a symbolic link was followed: %v", err)
	}
}

func TestListenGroups(t *testing.T) {
	t.Parallel()
	for group, warning := range map[string]string{
		"":                       "",
		"multiroute-no-such-one": "groupadd --system multiroute-no-such-one",
		"4294967295":             "there is no group", // (gid_t)-1: chown would leave the group as it is
	} {
		path := filepath.Join(shortDir(t), "d", "agent.sock")
		l := mustListen(t, path, group)
		if l.GID != -1 || strings.Join(l.Warnings, "") == "" != (warning == "") || !strings.Contains(strings.Join(l.Warnings, ""), warning) {
			t.Errorf("group %q: %d, %q", group, l.GID, l.Warnings)
		}
		if got := mode(t, path); got != fs.ModeSocket|0o600 {
			t.Errorf("group %q: socket %v", group, got)
		}
	}
}

func TestListenGivesToGroup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "d", "agent.sock")
	const gid = 54321
	l := mustListen(t, path, strconv.Itoa(gid))
	if l.GID < 0 {
		// Not root. The agent works all the same, and says what it could not do.
		if len(l.Warnings) == 0 || mode(t, path) != fs.ModeSocket|0o600 {
			t.Errorf("warnings %q, socket %v", l.Warnings, mode(t, path))
		}
		return
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		info, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Gid != gid || int(st.Uid) != os.Geteuid() {
			t.Errorf("%s belongs to %d:%d", p, st.Uid, st.Gid)
		}
	}
	if got := groupAdvice(path); !strings.Contains(got, fmt.Sprintf("usermod -aG %d USER", gid)) {
		t.Errorf("advice: %s", got)
	}
}

func TestTwoAgents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	first := mustListen(t, path, "")
	if _, err := Listen(path, ""); !errors.Is(err, ErrAlreadyRunning) {
		t.Fatalf("the second one: %v, want %v", err, ErrAlreadyRunning)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first one was harmed: %v", err)
	}
	c.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustListen(t, path, "")
}

// TestForeignServer: somebody without our lock answers on the socket.
func TestForeignServer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	foreign, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if _, err := Listen(path, ""); !errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("Listen = %v, want %v", err, ErrAlreadyRunning)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the foreign socket: %v", err)
	}
}

// staleSocket leaves a socket behind as a killed process does.
func staleSocket(tb testing.TB, path string) {
	tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

func TestStaleSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	staleSocket(t, path)
	if _, err := Dial(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "nobody answers at "+path) {
		t.Errorf("Status = %v", err)
	}
	mustListen(t, path, "")
}

// TestCloseSparesAnother: the file may be another agent's by now.
func TestCloseSparesAnother(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	l := mustListen(t, path, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	staleSocket(t, path)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another agent's socket was removed: %v", err)
	}
}

// TestRealCredentials: what the kernel says about a connection of this very process.
func TestRealCredentials(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	l := mustListen(t, path, ownGroup())
	peers := make(chan Peer, 1)
	h := &fakeHandler{status: func(ctx context.Context) (Status, error) {
		p, _ := PeerFrom(ctx)
		peers <- p
		return Status{}, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewServer(h, l.GID, nil).Serve(ctx, l) }()
	c := Dial(path)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reload(t.Context(), 0); err != nil { // the own user may
		t.Error(err)
	}
	peer := <-peers
	if peer.PID != os.Getpid() || int(peer.UID) != os.Geteuid() || int(peer.GID) != os.Getegid() {
		t.Errorf("peer %+v", peer)
	}
	want, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]int, len(peer.Groups))
	for i, g := range peer.Groups {
		got[i] = int(g)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

// TestManyGroups: more supplementary groups than the first buffer holds.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	l := mustListen(t, path, "")
	const n = 1000
	result := make(chan error)
	go func() {
		// The credentials are those of the thread that connects; it is not used again.
		lockThread()
		groups := make([]uint32, n)
		for i := range groups {
			groups[i] = uint32(70_000 + i)
		}
		if err := setThreadGroups(groups); err != nil {
			result <- err
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		result <- err
	}()
	if err := <-result; errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		t.Skipf("changing groups needs root: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := credentials(c)
	if err != nil || len(peer.Groups) != n || !peer.in(70_000+n-1) || peer.in(70_000+n) {
		t.Errorf("%d groups, %v", len(peer.Groups), err)
	}
}

func TestCredentialsOfNoSocket(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if p, err := credentials(a); err == nil {
		t.Errorf("peer %+v of a pipe", p)
	}
}
