//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// childEnv marks the second start of the program, inside its own namespaces. It is removed from the environment at once.
const childEnv = "MULTIROUTE_LAB_CHILD"

// ErrUnavailable is wrapped by every error that says that no lab can be built here.
var ErrUnavailable = errors.New("lab: not available")

// errUnavailable is why not; it is set once, by Main, before anything else runs.
var errUnavailable = fmt.Errorf("%w: lab.Main did not run", ErrUnavailable)

// Available says whether a lab can be built in this process; the error is the reason why not, and wraps ErrUnavailable.
func Available() error { return errUnavailable }

// Main runs the program in namespaces of its own and returns its exit status. Programs call it first of all, and tests from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }
//
// The first call starts the same program again in a new network and mount namespace, with a fresh /run (without the rights for that: in
// a user namespace, too) and waits for it; in the second process Main calls run. Where namespaces are forbidden, Main prints "lab: skipped: REASON"
// and calls run all the same: Available, NewNS and the topologies then return the reason, so that tests which need no lab still run.
func Main(run func() int) int {
	if os.Getenv(childEnv) != "" {
		os.Unsetenv(childEnv)
		if errUnavailable = isolate(); errUnavailable != nil {
			fmt.Fprintln(os.Stderr, "lab: skipped:", errUnavailable)
		}
		return run()
	}
	status, err := respawn()
	if err != nil {
		errUnavailable = fmt.Errorf("%w: %w", ErrUnavailable, err)
		fmt.Fprintln(os.Stderr, "lab: skipped:", err)
		return run()
	}
	return status
}

// respawn starts this program in new namespaces and waits for its end.
func respawn() (int, error) {
	// The kernel sends Pdeathsig when the thread that started the child ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var child *exec.Cmd
	var errs error
	for _, attr := range spawnAttributes() {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), childEnv+"=1")
		cmd.SysProcAttr = attr
		err := cmd.Start()
		if err == nil {
			child = cmd
			break
		}
		errs = errors.Join(errs, fmt.Errorf("starting in new namespaces: %w", err))
	}
	if child == nil {
		return 0, errs
	}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			if s == unix.SIGINT && isTerminal(os.Stdin) {
				continue // the terminal sent it to the child as well
			}
			_ = child.Process.Signal(s)
		}
	}()

	err := child.Wait()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return child.ProcessState.ExitCode(), nil
}

// spawnAttributes lists the ways to get new namespaces, the preferred one first.
func spawnAttributes() []*syscall.SysProcAttr {
	const flags = unix.CLONE_NEWNS | unix.CLONE_NEWNET
	user := &syscall.SysProcAttr{
		Cloneflags:  flags | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	if !privileged() {
		return []*syscall.SysProcAttr{user}
	}
	return []*syscall.SysProcAttr{{Cloneflags: flags, Pdeathsig: unix.SIGKILL}, user}
}

// privileged says whether this process may make and enter namespaces without a user namespace.
func privileged() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN
	return data[0].Effective&need == need
}

// isolate prepares the mount namespace of the second process and proves that it can do what a lab needs.
func isolate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("%w: making mounts private: %w", ErrUnavailable, err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("%w: mounting a fresh /run: %w", ErrUnavailable, err)
	}
	// /sys shows the interfaces of the namespace it was mounted from. Where it may not be mounted, the old one stays; nothing here reads it.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")

	errUnavailable = nil // for NewNS
	ns, err := NewNS("probe")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer ns.Close()
	if err := ns.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// isTerminal says whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
