package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"golang.org/x/time/rate"
)

const (
	testGID = 4242
	never   = time.Minute // longer than any test takes
)

// fakeHandler answers what it was told to; calls counts the changes asked for.
type fakeHandler struct {
	status func(context.Context) (Status, error)
	reload func(context.Context) (ReloadResult, error)
	stop   func(context.Context) error
	uplink func(ctx context.Context, name string, enabled bool, d time.Duration) error
	text   string

	changes atomic.Int64
}

func (h *fakeHandler) Status(ctx context.Context) (Status, error) {
	if h.status != nil {
		return h.status(ctx)
	}
	return fullStatus(), nil
}

func (h *fakeHandler) Reload(ctx context.Context, onTrial time.Duration) (ReloadResult, error) {
	h.changes.Add(1)
	if h.reload != nil {
		return h.reload(ctx)
	}
	r := ReloadResult{Generation: 4, Changed: true, Changes: []string{"uplink lte added"}}
	if onTrial != 0 {
		until := time.Unix(0, 0).UTC().Add(onTrial)
		r.ConfirmBy = &until
	}
	return r, nil
}

func (h *fakeHandler) Confirm(context.Context) (ReloadResult, error) {
	h.changes.Add(1)
	return ReloadResult{}, fmt.Errorf("%w: no trial", ErrNothing)
}

func (h *fakeHandler) SetUplink(ctx context.Context, name string, enabled bool, d time.Duration) error {
	h.changes.Add(1)
	if h.uplink != nil {
		return h.uplink(ctx, name, enabled, d)
	}
	return nil
}

func (h *fakeHandler) Plan(context.Context) (string, error) { return h.text, nil }

func (h *fakeHandler) Show(_ context.Context, what string) (string, error) {
	return "# " + what + "\n", nil
}

func (h *fakeHandler) Stop(ctx context.Context) error {
	h.changes.Add(1)
	if h.stop != nil {
		return h.stop(ctx)
	}
	return nil
}

// byName lets a test's client say who it is by the name its end of the socket is bound to:
// the first word of the name, such as "@root-17".
func byName(c net.Conn) (Peer, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(c.RemoteAddr().String(), "@"), "-")
	switch name {
	case "root":
		return Peer{PID: 1}, nil
	case "self":
		return Peer{UID: 1000}, nil
	case "primary":
		return Peer{UID: 1001, GID: testGID}, nil
	case "member":
		return Peer{UID: 1002, GID: 1002, Groups: []uint32{5, testGID}}, nil
	case "nogroup":
		return Peer{UID: 1003, GID: 1003, Groups: []uint32{5, 6}}, nil
	}
	return Peer{}, fmt.Errorf("nobody is called %q", name)
}

// testServer is a server on a socket of its own.
type testServer struct {
	*Server
	path string
	stop context.CancelFunc
	done chan error // what Serve returned
}

// shortDir returns a folder whose path, unlike that of testing's TempDir, leaves room for
// a socket's name.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startServer(tb testing.TB, h Handler, adjust func(*Server)) *testServer {
	tb.Helper()
	path := filepath.Join(shortDir(tb), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	s := NewServer(h, testGID, nil)
	s.credentials, s.euid = byName, 1000
	s.limits.read, s.limits.idle = never, never
	if adjust != nil {
		adjust(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ts := &testServer{Server: s, path: path, stop: cancel, done: make(chan error, 1)}
	go func() { ts.done <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ts.done; err != nil {
			tb.Errorf("Serve = %v", err)
		}
	})
	return ts
}

// dial connects as the named peer.
func (ts *testServer) dial(tb testing.TB, name string) *net.UnixConn {
	tb.Helper()
	c, err := net.DialUnix("unix", &net.UnixAddr{Name: clientName(name), Net: "unix"}, &net.UnixAddr{Name: ts.path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// clientName returns an abstract address that nobody else has.
func clientName(name string) string {
	return fmt.Sprintf("@%s-%d-%d", name, os.Getpid(), clientCount.Add(1))
}

var clientCount atomic.Int64

// client returns a Client that connects as the named peer.
func (ts *testServer) client(name string) *Client {
	c := Dial(ts.path)
	c.dial = func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.UnixAddr{Name: clientName(name), Net: "unix"}}
		return d.DialContext(ctx, "unix", ts.path)
	}
	return c
}

func TestClientAndServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ts := startServer(t, &fakeHandler{text: "+ ip rule add\n"}, nil)
	c := ts.client("root")

	status, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullStatus(), status, compareAddr, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("unexpected status (-want +got):\n%s", diff)
	}
	reload, err := c.Reload(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := ReloadResult{Generation: 4, Changed: true, Changes: []string{"uplink lte added"}, Warnings: []string{}}
	if diff := cmp.Diff(want, reload); diff != "" {
		t.Errorf("unexpected result of a reload (-want +got):\n%s", diff)
	}
	if trial, err := c.Reload(ctx, 90*time.Second); err != nil || trial.ConfirmBy == nil || trial.ConfirmBy.Unix() != 90 {
		t.Errorf("on trial: %+v, %v", trial, err)
	}
	for _, length := range []time.Duration{-time.Second, time.Millisecond, 25 * time.Hour} {
		var e *Error
		if _, err := c.Reload(ctx, length); !errors.As(err, &e) || e.Code != http.StatusBadRequest {
			t.Errorf("on trial for %s: %v", length, err)
		}
	}
	if _, err := c.Confirm(ctx); !errors.Is(err, ErrNothing) || err.Error() != "nothing to do: no trial" {
		t.Errorf("confirming nothing: %v", err)
	}
	for want, call := range map[string]func() (string, error){
		"+ ip rule add\n": func() (string, error) { return c.Plan(ctx) },
		"# nft\n":         func() (string, error) { return c.Show(ctx, ShowNFT) },
		"# routes\n":      func() (string, error) { return c.Show(ctx, ShowRoutes) },
		"":                func() (string, error) { return "", c.Stop(ctx) },
	} {
		if got, err := call(); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if _, err := c.Show(ctx, "../stop"); err == nil {
		t.Error("showing something unknown: no error")
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	ts := startServer(t, h, nil)
	const ok, no = http.StatusOK, http.StatusForbidden
	for _, tt := range []struct {
		peer         string
		read, change int
		unknown      int // a path that does not exist
	}{
		{"root", ok, ok, http.StatusNotFound},
		{"self", ok, ok, http.StatusNotFound},
		{"primary", ok, no, http.StatusNotFound},
		{"member", ok, no, http.StatusNotFound},
		{"nogroup", no, no, no},
	} {
		for _, req := range []struct {
			method, path string
			want         int
		}{
			{http.MethodGet, pathStatus, tt.read},
			{http.MethodGet, pathPlan, tt.read},
			{http.MethodGet, pathShow + ShowNFT, tt.read},
			{http.MethodGet, pathShow + ShowRoutes, tt.read},
			{http.MethodPost, pathReload, tt.change},
			{http.MethodPost, pathReload + "?confirm=60s", tt.change},
			{http.MethodPost, pathStop, tt.change},
			{http.MethodPost, pathDisable + "?name=dsl", tt.change},
			{http.MethodPost, pathEnable + "?name=dsl", tt.change},
			{http.MethodGet, "/", tt.unknown},
			{http.MethodGet, "/v1/show/", tt.unknown},
			{http.MethodGet, "/v1/show/../reload", tt.unknown},
			{http.MethodPost, "/v1/reload/", tt.unknown},
		} {
			before := h.changes.Load()
			_, err := ts.client(tt.peer).do(t.Context(), req.method, req.path)
			var e *Error
			got := http.StatusOK
			if errors.As(err, &e) {
				got = e.Code
			} else if err != nil {
				t.Fatal(err)
			}
			if got != req.want {
				t.Errorf("%s: %s %s: %d, want %d (%v)", tt.peer, req.method, req.path, got, req.want, err)
			}
			if (got == no) != errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %s %s: %v is fs.ErrPermission: %t", tt.peer, req.method, req.path, err, errors.Is(err, fs.ErrPermission))
			}
			changed := req.method == http.MethodPost && req.want == ok
			if (h.changes.Load() != before) != changed {
				t.Errorf("%s: %s %s: the handler was asked to change something: %t", tt.peer, req.method, req.path, !changed)
			}
		}
	}
}

func TestNoGroup(t *testing.T) {
	t.Parallel()
	ts := startServer(t, &fakeHandler{}, func(s *Server) { s.gid = -1 })
	_, err := ts.client("member").Status(t.Context())
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "user 1002 is neither root nor in the agent's group") {
		t.Errorf("err = %v", err)
	}
	// 4294967295 is (gid_t)-1: it must not be taken for "no group".
	if (Peer{GID: 1<<32 - 1}).in(-1) {
		t.Error("a peer is a member of no group")
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	ts := startServer(t, h, nil)
	for _, tt := range []struct{ method, path, allow string }{
		{http.MethodGet, pathReload, http.MethodPost},
		{http.MethodGet, pathConfirm, http.MethodPost},
		{http.MethodHead, pathStop, http.MethodPost},
		{http.MethodGet, pathDisable + "?name=dsl", http.MethodPost},
		{http.MethodGet, pathEnable + "?name=dsl", http.MethodPost},
		{http.MethodPost, pathStatus, http.MethodGet},
		{http.MethodDelete, pathPlan, http.MethodGet},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://agent"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := ts.dial(t, "root")
		if err := req.Write(c); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %s, Allow: %q", tt.method, tt.path, resp.Status, resp.Header.Get("Allow"))
		}
	}
	if h.changes.Load() != 0 {
		t.Error("something was changed by a GET")
	}
}

func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	const lines = "agent.toml:3: uplink.dsl.weight: not a number\nagent.toml:9: rule: unknown key"
	for _, tt := range []struct {
		name string
		err  error
		code int
		is   error
	}{
		{"config", fmt.Errorf("%w:\n%s", ErrConfig, lines), http.StatusUnprocessableEntity, ErrConfig},
		{"busy", fmt.Errorf("reloading already: %w", ErrBusy), http.StatusServiceUnavailable, ErrBusy},
		{"unknown", UnknownUplink("dls", []string{"dsl", "lte"}), http.StatusNotFound, ErrUnknown},
		{"deadline", fmt.Errorf("reading the kernel: %w", context.DeadlineExceeded), http.StatusGatewayTimeout, nil},
		{"unsupported", fmt.Errorf("no: %w", errors.ErrUnsupported), http.StatusNotImplemented, nil},
		{"other", errors.New("netlink: no buffer space available"), http.StatusInternalServerError, nil},
		{"passed on", &Error{Code: http.StatusConflict, Text: "two reloads"}, http.StatusConflict, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &fakeHandler{reload: func(context.Context) (ReloadResult, error) { return ReloadResult{}, tt.err }}
			_, err := startServer(t, h, nil).client("root").Reload(t.Context(), 0)
			var e *Error
			if !errors.As(err, &e) || e.Code != tt.code || e.Text != tt.err.Error() {
				t.Fatalf("err = %#v; want code %d, text %q", err, tt.code, tt.err)
			}
			for _, target := range []error{ErrConfig, ErrBusy, ErrUnknown, ErrNotRunning, fs.ErrPermission} {
				if errors.Is(err, target) != (target == tt.is) {
					t.Errorf("errors.Is(err, %v) = %t", target, target != tt.is)
				}
			}
		})
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := &fakeHandler{status: func(context.Context) (Status, error) { panic("secret") }}
	ts := startServer(t, h, func(s *Server) { s.log = slog.New(slog.NewTextHandler(&log, nil)) })
	_, err := ts.client("root").Status(t.Context())
	var e *Error
	if !errors.As(err, &e) || e.Code != http.StatusInternalServerError || strings.Contains(e.Text, "secret") {
		t.Errorf("err = %v", err)
	}
	if _, err := ts.client("root").Plan(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	ts.stop()
	<-ts.done
	ts.done <- nil
	if !strings.Contains(log.String(), "panic=secret") || !strings.Contains(log.String(), "server_test.go") {
		t.Errorf("log: %s", log.String())
	}
}

// TestCrowd: 1,000 clients that say nothing cannot keep root out.
func TestCrowd(t *testing.T) {
	t.Parallel()
	ts := startServer(t, &fakeHandler{}, nil)
	const crowd = 1000
	conns := make([]*net.UnixConn, crowd)
	for i := range conns {
		conns[i] = ts.dial(t, "member")
	}
	start := time.Now()
	if _, err := ts.client("root").Status(t.Context()); err != nil {
		t.Fatalf("root: %v", err)
	}
	t.Logf("root was answered in %v", time.Since(start))
	if _, err := ts.client("member").Status(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("one more member: %v, want %v", err, ErrBusy)
	}
	// They were let in or turned away in the order in which they came.
	inside := ts.limits.connections - ts.limits.reserved
	for i, c := range conns[inside:] {
		if err := c.SetReadDeadline(time.Now().Add(never)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Contains(got, []byte("too many clients")) {
			t.Fatalf("client %d: %q, %v", inside+i, got, err)
		}
	}
	// Those inside are served as soon as they ask, and make room when they leave.
	for i, c := range conns[:inside] {
		if _, err := io.WriteString(c, "GET /v1/plan HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 200")) {
			t.Fatalf("client %d: %q, %v", i, got, err)
		}
	}
	for range crowd { // the server closes its end a moment after the client has seen it
		if _, err := ts.client("member").Status(t.Context()); err == nil {
			return
		}
	}
	t.Error("there is still no room after the crowd has left")
}

// TestTooManyQuestions: those who may read ask so often and no more; root and the own
// user are not counted.
func TestTooManyQuestions(t *testing.T) {
	t.Parallel()
	var answered atomic.Int64
	ts := startServer(t, &fakeHandler{status: func(context.Context) (Status, error) { answered.Add(1); return fullStatus(), nil }}, func(s *Server) {
		s.limits.requests, s.limits.refusal = rate.NewLimiter(rate.Every(time.Hour), 10), 0
	})
	for _, name := range []string{"member", "primary"} {
		for range 20 {
			if _, err := ts.client(name).Status(t.Context()); err != nil && (!errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "try again")) {
				t.Fatal(err)
			}
		}
	}
	if n := answered.Load(); n != 10 {
		t.Errorf("%d of 40 questions were answered, want 10", n)
	}
	for _, name := range []string{"root", "self"} {
		for range 20 {
			if _, err := ts.client(name).Status(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// TestRootFillsTheHouse: even root cannot take more than there is.
func TestRootFillsTheHouse(t *testing.T) {
	t.Parallel()
	ts := startServer(t, &fakeHandler{}, nil)
	for range ts.limits.connections {
		ts.dial(t, "root")
	}
	for _, name := range []string{"root", "member"} {
		if _, err := ts.client(name).Status(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v, want %v", name, err, ErrBusy)
		}
	}
}

// TestSlowClients are shown out when the time for their request is over.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"nothing at all":   "",
		"half a line":      "GET /v1/sta",
		"half a header":    "GET /v1/status HTTP/1.1\r\nHost: agent\r\nX-A: ",
		"half a body":      "POST /v1/reload HTTP/1.1\r\nHost: agent\r\nContent-Length: 10\r\n\r\nabc",
		"half a chunk":     "POST /v1/reload HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
		"nothing more":     "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n", // idle, after an answer
		"half a next line": "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\nGET",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &fakeHandler{}
			ts := startServer(t, h, func(s *Server) { s.limits.read, s.limits.idle = 20*time.Millisecond, 20*time.Millisecond })
			c := ts.dial(t, "root")
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(never)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection was left open: %v", err)
			}
			if h.changes.Load() != 0 {
				t.Error("half a request was carried out")
			}
		})
	}
}

// TestSlowHandler: the time for the request to arrive does not end its being carried out.
func TestSlowHandler(t *testing.T) {
	t.Parallel()
	const read = 10 * time.Millisecond
	h := &fakeHandler{status: func(ctx context.Context) (Status, error) {
		select {
		case <-ctx.Done():
			return Status{}, fmt.Errorf("cancelled: %w", context.Cause(ctx))
		case <-time.After(5 * read):
			return Status{Version: "slow"}, nil
		}
	}}
	ts := startServer(t, h, func(s *Server) { s.limits.read = read })
	if s, err := ts.client("root").Status(t.Context()); err != nil || s.Version != "slow" {
		t.Errorf("Status = %v, %v", s.Version, err)
	}
}

// TestHandlerTimeout: the client of a handler that hangs is told so.
func TestHandlerTimeout(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{reload: func(ctx context.Context) (ReloadResult, error) {
		<-ctx.Done()
		return ReloadResult{}, ctx.Err()
	}}
	ts := startServer(t, h, func(s *Server) { s.limits.write = 240 * time.Millisecond })
	_, err := ts.client("root").Reload(t.Context(), 0)
	var e *Error
	if !errors.As(err, &e) || e.Code != http.StatusGatewayTimeout {
		t.Errorf("err = %v", err)
	}
}

// TestClientGoesAway: questions are given up then, changes are not.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	asked, cancelled, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	finished := make(chan error, 1)
	h := &fakeHandler{
		status: func(ctx context.Context) (Status, error) {
			asked <- struct{}{}
			<-ctx.Done()
			close(cancelled)
			return Status{}, ctx.Err()
		},
		reload: func(ctx context.Context) (ReloadResult, error) {
			asked <- struct{}{}
			<-release
			finished <- ctx.Err()
			return ReloadResult{}, nil
		},
	}
	ts := startServer(t, h, nil)

	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { _, err := ts.client("member").Status(ctx); result <- err }()
	<-asked
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Status = %v", err)
	}
	<-cancelled

	ctx, cancel = context.WithCancel(t.Context())
	go func() { _, err := ts.client("root").Reload(ctx, 0); result <- err }()
	<-asked
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Reload = %v", err)
	}
	if _, err := ts.client("root").Plan(t.Context()); err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-finished; err != nil {
		t.Errorf("the reload was cancelled: %v", err)
	}
}

// TestStopIsAnswered although the server ends because of it.
func TestStopIsAnswered(t *testing.T) {
	t.Parallel()
	var ts *testServer
	var ready sync.WaitGroup
	ready.Add(1)
	h := &fakeHandler{stop: func(context.Context) error {
		ready.Wait()
		ts.stop()
		return nil
	}}
	ts = startServer(t, h, nil)
	ready.Done()
	idle := ts.dial(t, "member")
	if err := ts.client("root").Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := <-ts.done; err != nil {
		t.Errorf("Serve = %v", err)
	}
	ts.done <- nil
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("idle client: %v", err)
	}
	if _, err := Dial(ts.path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

func TestServeFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", clientName("fails"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := NewServer(&fakeHandler{}, -1, nil).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want %v", err, net.ErrClosed)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	ts := startServer(t, h, nil)
	head := "POST /v1/reload HTTP/1.1\r\nHost: agent\r\n"
	for _, tt := range []struct {
		name, sent string
		code       int // 0: closed, or any refusal
	}{
		{"garbage", "\x16\x03\x01\x00\xee\x01\x00\r\n\r\n", 400},
		{"other protocol", "SSH-2.0-x\r\n\r\n", 400},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
		{"no host", "GET /v1/status HTTP/1.1\r\n\r\n", 400},
		{"bad header", "GET /v1/status HTTP/1.1\r\nHost: a\r\na b: c\r\n\r\n", 400},
		{"header of 8 KiB", "GET /v1/status HTTP/1.1\r\nHost: agent\r\nX: " + strings.Repeat("x", 8<<10) + "\r\n\r\n", 431},
		{"path of 8 KiB", "GET /" + strings.Repeat("x", 8<<10) + " HTTP/1.1\r\nHost: agent\r\n\r\n", 431},
		{"endless header", "GET /v1/status HTTP/1.1\r\nX: " + strings.Repeat("x", 60_000), 431},
		{"body announced too long", head + "Content-Length: 65537\r\n\r\n" + strings.Repeat("x", 65537), 413},
		{"body announced absurdly long", head + "Content-Length: 9223372036854775807\r\n\r\n" + strings.Repeat("x", 1<<17), 413},
		{"chunks too long", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n", 17) + "0\r\n\r\n", 413},
		{"bad chunk", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
		{"two lengths", head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400},
		{"negative length", head + "Content-Length: -1\r\n\r\n", 400},
		{"CONNECT", "CONNECT agent:80 HTTP/1.1\r\nHost: agent\r\n\r\n", 404},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: agent\r\n\r\n", 0},
	} {
		c := ts.dial(t, "root")
		if err := c.SetDeadline(time.Now().Add(never)); err != nil {
			t.Fatal(err)
		}
		// The server may have hung up before it has all.
		go func() { _, _ = io.WriteString(c, tt.sent) }()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			if tt.code != 0 {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		resp.Body.Close()
		if tt.code != 0 && resp.StatusCode != tt.code {
			t.Errorf("%s: %s, want %d", tt.name, resp.Status, tt.code)
		}
		c.Close()
	}
	if h.changes.Load() != 0 {
		t.Error("a bad request was carried out")
	}
	body := strings.Repeat("x", 64<<10)
	c := ts.dial(t, "root")
	go func() {
		_, _ = fmt.Fprintf(c, "%sConnection: close\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 200")) {
		t.Errorf("a body of 64 KiB: %.80q, %v", got, err)
	}
}

// discardWriter is a ResponseWriter with deadlines.
type discardWriter struct{ *httptest.ResponseRecorder }

func (discardWriter) SetReadDeadline(time.Time) error { return nil }

// FuzzRequest: whatever is asked, a reader changes nothing and always gets an answer.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"))
	f.Add([]byte("POST /v1/reload HTTP/1.1\r\nHost: agent\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST //v1/./stop?x=/v1/plan HTTP/1.0\r\nX-HTTP-Method-Override: POST\r\n\r\n"))
	f.Add([]byte("GET http://agent/v1/show/nft HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		for _, peer := range []Peer{{UID: 1002, GID: testGID}, {UID: 1003, GID: 1003}} {
			h := &fakeHandler{}
			s := NewServer(h, testGID, nil)
			s.euid = 1000
			w := httptest.NewRecorder()
			s.serveHTTP(discardWriter{w}, req.WithContext(context.WithValue(t.Context(), peerKey{}, peer)))
			if h.changes.Load() != 0 {
				t.Fatal("a reader changed something")
			}
			if w.Code != http.StatusOK && !strings.HasPrefix(w.Body.String(), `{"error":"`) {
				t.Fatalf("%d without an error: %q", w.Code, w.Body)
			}
			if peer.GID != testGID && w.Code != http.StatusForbidden {
				t.Fatalf("a stranger was answered %d", w.Code)
			}
		}
	})
}
