package hooks

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// path is where programs find others.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxOutput bounds what is kept of a program's output, in bytes; the rest is
// read and dropped.
const maxOutput = 4 << 10

// grace is how long a program has to end after SIGTERM.
const grace = time.Second

// run runs a program in a process group of its own, with nothing on its
// standard input, and returns what it printed. When ctx ends, or the program
// itself, its whole group is killed: nothing of it outlives the call.
func run(ctx context.Context, program string, env []string) (string, error) {
	var out bounded
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append([]string{path}, env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return group(cmd, unix.SIGTERM) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err := cmd.Wait()
	_ = group(cmd, unix.SIGKILL) // most often there is none left
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, but a child of its kept the output open
	}
	return out.text(), err
}

func group(cmd *exec.Cmd, s unix.Signal) error { return unix.Kill(-cmd.Process.Pid, s) }

// bounded keeps the beginning of what is written to it. exec writes to it from
// one goroutine.
type bounded struct {
	b   bytes.Buffer
	cut bool
}

func (w *bounded) Write(p []byte) (int, error) {
	room := maxOutput - w.b.Len()
	w.b.Write(p[:min(len(p), room)])
	w.cut = w.cut || len(p) > room
	return len(p), nil
}

func (w *bounded) text() string {
	text := strings.TrimSpace(strings.ToValidUTF8(w.b.String(), "?"))
	if w.cut {
		text += " ..."
	}
	return text
}
