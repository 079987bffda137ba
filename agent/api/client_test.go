package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestNotRunning(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/nonexistent/multiroute/agent.sock", filepath.Join(shortDir(t), "agent.sock")} {
		c := Dial(path)
		_, err := c.Status(t.Context())
		want := "the agent does not run (no socket at " + path + `): start it with "agent run", or start its service`
		if !errors.Is(err, ErrNotRunning) || err.Error() != want {
			t.Errorf("Status = %v\nwant %s", err, want)
		}
		if err := c.Stop(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("Stop = %v", err)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	c := Dial("/run/multiroute/agent.sock")
	dial := func(errno error) error {
		return &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)}
	}
	for _, tt := range []struct {
		err  error
		is   error
		text string
	}{
		{dial(syscall.EACCES), fs.ErrPermission, "no permission for /run/multiroute/agent.sock: "},
		{dial(syscall.EAGAIN), ErrBusy, "try again"},
		{dial(syscall.ECONNRESET), ErrBusy, "try again"},
		{fmt.Errorf("reading: %w", io.EOF), ErrBusy, "try again"},
		{context.Canceled, context.Canceled, "asking the agent: "},
		{errors.New("something else"), nil, "asking the agent: something else"},
	} {
		got := c.explain(tt.err)
		if !strings.Contains(got.Error(), tt.text) || tt.is != nil && !errors.Is(got, tt.is) {
			t.Errorf("explain(%v) = %v; want %q and %v", tt.err, got, tt.text, tt.is)
		}
	}
}

func TestGroupAdvice(t *testing.T) {
	t.Parallel()
	if got := groupAdvice("/nonexistent/agent.sock"); got != "only root may use it: use sudo" {
		t.Errorf("advice for a missing folder: %q", got)
	}
}

// serveBytes answers one connection with fixed bytes, whatever is asked.
func serveBytes(t *testing.T, answer io.Reader) *Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		if _, err := c.Read(buf); err != nil {
			return
		}
		_, _ = io.Copy(c, answer) // the client hangs up when it has had enough
	}()
	return Dial(path)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestResponseIsCapped(t *testing.T) {
	t.Parallel()
	c := serveBytes(t, io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), endless{}))
	c.limit = 1 << 20
	if _, err := c.Plan(t.Context()); err == nil || !strings.Contains(err.Error(), errTooLong.Error()) {
		t.Errorf("err = %v", err)
	}
}

func TestBadResponses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, answer, want string }{
		{"nothing", "", "try again"},
		{"garbage", "SSH-2.0-x\r\n", "asking the agent"},
		{"endless header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), "too long"},
		{"no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "understanding the agent's answer"},
		{"JSON of another shape", "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"uplinks\":1}", "understanding the agent's answer"},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "try again"},
		{"error without a text", "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", "the agent answered 500 Internal Server Error"},
		{"redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", "the agent answered 307"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := serveBytes(t, strings.NewReader(tt.answer))
			c.limit = 1 << 16
			_, err := c.Status(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}
