//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is an anonymous network namespace. All methods may be called by several goroutines at once.
type NS struct {
	// Name is for messages only.
	Name string

	fd     int
	handle *netlink.Handle
	close  sync.Once
}

// NewNS makes an empty network namespace with its loopback interface up, and with defaults under which addresses are usable at once: no
// duplicate address detection, no router solicitations, no reverse path filter.
func NewNS(name string) (*NS, error) {
	if errUnavailable != nil {
		return nil, errUnavailable
	}
	ns := &NS{Name: name, fd: -1}
	created := make(chan error, 1)
	go func() { created <- ns.create() }()
	if err := <-created; err != nil {
		ns.Close()
		return nil, fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return ns, nil
}

// create runs on a goroutine of its own, and ends with its thread: the thread has left the process's namespace.
func (ns *NS) create() (err error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unsharing: %w", err)
	}
	if ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	for _, s := range nsDefaults {
		if err := writeSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	if ns.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("opening netlink: %w", err)
	}
	if err := ns.handle.SetSocketTimeout(10 * time.Second); err != nil {
		return fmt.Errorf("setting the netlink timeout: %w", err)
	}
	return ns.Up("lo")
}

// FD returns the descriptor of the namespace; it belongs to the NS.
func (ns *NS) FD() int { return ns.fd }

// Handle returns a netlink handle (routes, links, addresses, rules, neighbours) of the namespace; it belongs to the NS.
func (ns *NS) Handle() *netlink.Handle { return ns.handle }

// Close lets go of the namespace. The kernel removes it, and everything in it, when the last socket and process in it is gone.
func (ns *NS) Close() {
	ns.close.Do(func() {
		if ns.handle != nil {
			ns.handle.Close()
		}
		if ns.fd >= 0 {
			unix.Close(ns.fd)
		}
	})
}

// Do calls f on a thread that is inside the namespace. Sockets opened by f stay in the namespace; goroutines started by f are outside it.
func (ns *NS) Do(f func() error) error {
	runtime.LockOSThread()
	old, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening the current namespace: %w", err)
	}
	defer unix.Close(old)
	if err := netns.Set(netns.NsHandle(ns.fd)); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering namespace %s: %w", ns.Name, err)
	}
	defer func() {
		// Also when f panics or calls runtime.Goexit. A thread that could not return stays locked, and so ends with its goroutine.
		if netns.Set(netns.NsHandle(old)) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Start starts a program inside the namespace: with a mount namespace of its own, whose /sys shows the interfaces of this network namespace. The
// kernel kills it with this process. The caller calls cmd.Wait.
func (ns *NS) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	started := make(chan error, 1)
	go func() {
		// This thread changes its namespaces for good and is never unlocked. It must live as long as the child, because Pdeathsig
		// is sent when the thread ends, not the process.
		runtime.LockOSThread()
		if err := ns.start(cmd); err != nil {
			started <- err
			return
		}
		pid := cmd.Process.Pid
		started <- nil
		for {
			// Only watches; reaping is left to cmd.Wait. ECHILD: reaped already.
			err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return <-started
}

// start changes the namespaces of the calling thread and starts cmd there.
func (ns *NS) start(cmd *exec.Cmd) error {
	if err := netns.Set(netns.NsHandle(ns.fd)); err != nil {
		return fmt.Errorf("entering namespace %s: %w", ns.Name, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unsharing mounts: %w", err)
	}
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return cmd.Start()
}
