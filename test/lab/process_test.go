//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test program play another role.
const helperEnv = "MULTIROUTE_LAB_TEST_ROLE"

// helper plays a role.
func helper(role string) int {
	switch role {
	case "interfaces": // what a program sees that was started in a namespace
		entries, _ := os.ReadDir("/sys/class/net")
		for _, e := range entries {
			fmt.Println("sys", e.Name())
		}
		interfaces, _ := net.Interfaces()
		for _, i := range interfaces {
			fmt.Println("net", i.Name)
		}
		return 7
	case "wait":
		select {}
	case "build": // builds a lab with a program in it, says their numbers, and waits to be killed
		return Main(func() int {
			lab, err := NewRouter(Options{})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{helperEnv + "=wait"}
			if err := lab.Router.Start(cmd); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			fmt.Println(os.Getpid(), cmd.Process.Pid)
			select {}
		})
	case "forbidden": // a place where namespaces are forbidden: no capabilities, and a changed root
		runtime.LockOSThread()
		if err := forbid(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return Main(func() int {
			_, err := NewRouter(Options{})
			fmt.Println(errors.Is(err, ErrUnavailable) && errors.Is(Available(), ErrUnavailable))
			return 9
		})
	case "status":
		return Main(func() int { return 42 })
	}
	return 1
}

// forbid takes the rights from this thread that Main needs.
func forbid(root string) error {
	err := errors.Join(
		unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("/", root, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Chroot(root),
	)
	if err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// self is this program in another role.
func self(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+role)
	return cmd
}

func TestStart(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	cmd := self("interfaces")
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, lab.Router.Start(cmd))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Error(err)
	}
	for _, want := range []string{"net eth0", "net eth1", "net eth2"} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("no %q in %q", want, &out)
		}
	}
	if probe := self("wait"); lab.Router.Start(probe) != nil || probe.Process.Kill() != nil || probe.Wait() == nil {
		t.Error("killing a program")
	}
	if err := lab.Router.Start(exec.Command("/does/not/exist")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestKilled shows that nothing survives the process that started everything, though it cannot do anything about it.
func TestKilled(t *testing.T) {
	t.Parallel()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	cmd := self("build")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	var pids [2]int
	_, err = fmt.Sscan(line, &pids[0], &pids[1])
	must(t, err)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range pids {
		until(t, fmt.Sprintf("the end of process %d", pid), func() bool { return !alive(pid) })
	}
}

// alive says whether a process runs; one that nobody has reaped does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestMainStatus(t *testing.T) {
	t.Parallel()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	var exit *exec.ExitError
	if err := self("status").Run(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Error(err)
	}
	cmd := self("build")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	must(t, cmd.Process.Signal(unix.SIGTERM))
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(unix.SIGTERM) {
		t.Error(err)
	}
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(root, 0o755))
	cmd := self("forbidden", root)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Error(err)
	}
	if out.String() != "true\n" || !strings.HasPrefix(errs.String(), "lab: skipped: ") {
		t.Errorf("%q, %q", &out, &errs)
	}
}

// TestDoReturns shows that a thread is back in its namespace after Do, and that a panic does not change that.
func TestDoReturns(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		must(t, err)
		return link
	}
	outside := here()
	func() {
		defer func() { _ = recover() }()
		_ = lab.Router.Do(func() error {
			if here() == outside {
				t.Error("not inside")
			}
			return lab.Client().Do(func() error { panic("nested") })
		})
	}()
	if now := here(); now != outside {
		t.Errorf("in %s, not in %s", now, outside)
	}
	start := time.Now()
	for range 100 {
		must(t, lab.Router.Do(func() error { return nil }))
	}
	t.Logf("Do takes %v", time.Since(start)/100)
}
