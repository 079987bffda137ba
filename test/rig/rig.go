//go:build linux

// Package rig runs the real agent in a laboratory: it builds the program,
// writes its configuration, starts it in the router's namespace and talks to it
// as a person would. Tests, demo and benchmark use it.
package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// Build builds the agent into folder and returns the program's path.
func Build(folder string, flags ...string) (string, error) {
	program := filepath.Join(folder, "agent")
	args := append([]string{"build", "-o", program}, flags...)
	out, err := exec.Command("go", append(args, "multiroute/cmd/agent")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, out)
	}
	return program, nil
}

// Agent is one agent on a router: its configuration, its folder, and its
// process if it runs.
type Agent struct {
	Program string
	Folder  string
	Router  *lab.NS
	HTTP    string // [api] http; empty: nothing is served

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	exit error
	log  *logBuffer
}

// New prepares an agent for a router in a folder of its own. Nothing runs yet.
func New(program, folder string, router *lab.NS) *Agent {
	return &Agent{Program: program, Folder: folder, Router: router, log: &logBuffer{}}
}

// ConfigPath is the main configuration file.
func (a *Agent) ConfigPath() string { return filepath.Join(a.Folder, "agent.toml") }

// Socket is the control socket.
func (a *Agent) Socket() string { return filepath.Join(a.Folder, "run", "agent.sock") }

// Configure writes the configuration; the [api] table is added.
func (a *Agent) Configure(text string) error {
	text += fmt.Sprintf("\n[api]\nsocket = %q\ngroup = \"root\"\nhttp = %q\n", a.Socket(), a.HTTP)
	return os.WriteFile(a.ConfigPath(), []byte(text), 0o600)
}

// Start starts "agent run" and returns at once.
func (a *Agent) Start() error {
	cmd := exec.Command(a.Program, "run", "--config", a.ConfigPath())
	cmd.Stderr = a.log
	cmd.Env = append(os.Environ(), "GOTRACEBACK=all")
	if err := a.Router.Start(cmd); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	done := make(chan struct{})
	a.mu.Lock()
	a.cmd, a.done = cmd, done
	a.mu.Unlock()
	go func() {
		err := cmd.Wait()
		a.mu.Lock()
		a.exit = err
		a.mu.Unlock()
		close(done)
	}()
	return nil
}

// Run starts the agent and waits until it is ready.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.Start(); err != nil {
		return err
	}
	return a.WaitReady(ctx)
}

// WaitReady waits until the agent has verified the kernel's state.
func (a *Agent) WaitReady(ctx context.Context) error {
	_, err := a.Wait(ctx, func(s api.Status) bool { return s.Ready })
	return err
}

// Wait asks for the status until it satisfies; ctx bounds it, 10 s at most.
func (a *Agent) Wait(ctx context.Context, satisfied func(api.Status) bool) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := a.Status(ctx)
		if err == nil && satisfied(s) {
			return s, nil
		}
		a.mu.Lock()
		done := a.done
		a.mu.Unlock()
		select {
		case <-done:
			return s, fmt.Errorf("the agent ended: %w\n%s", a.ExitError(), a.Log())
		case <-ctx.Done():
			return s, fmt.Errorf("waiting for the agent: %w (status %+v, %v)\n%s", ctx.Err(), s, err, a.Log())
		case <-tick.C:
		}
	}
}

// Status asks the running agent over its socket.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	return api.Dial(a.Socket()).Status(ctx)
}

// Reload has the agent read its configuration again.
func (a *Agent) Reload(ctx context.Context) (api.ReloadResult, error) {
	return api.Dial(a.Socket()).Reload(ctx, 0)
}

// Reconfigure is Configure and Reload.
func (a *Agent) Reconfigure(ctx context.Context, text string) error {
	if err := a.Configure(text); err != nil {
		return err
	}
	_, err := a.Reload(ctx)
	return err
}

// Browser returns a client in the router's namespace: of the agent's HTTP server, or
// of any other there. The caller closes its idle connections.
func (a *Agent) Browser() *http.Client {
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return a.Router.DialTCP(ctx, lab.Socket{}, to)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// Get asks the agent's HTTP server, from the router, and returns the body of a
// good answer.
func (a *Agent) Get(ctx context.Context, path string) (string, error) {
	browser := a.Browser()
	defer browser.CloseIdleConnections()
	response, err := a.GetWith(ctx, browser, path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// GetWith asks the agent's HTTP server for something. An answer that is not good
// is an error. The caller closes the answer's body.
func (a *Agent) GetWith(ctx context.Context, browser *http.Client, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := browser.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // the status says enough
		response.Body.Close()
		return nil, fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return response, nil
}

// Signal sends the process a signal.
func (a *Agent) Signal(s syscall.Signal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd == nil {
		return errors.New("the agent was not started")
	}
	return a.cmd.Process.Signal(s)
}

// End sends a signal and waits until the process is gone.
func (a *Agent) End(s syscall.Signal) error {
	if err := a.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.Ended(ctx); err != nil {
		return fmt.Errorf("the agent did not end\n%s", a.Log())
	}
	return nil
}

// Ended waits until the process is gone.
func (a *Agent) Ended(ctx context.Context) error {
	a.mu.Lock()
	done := a.done
	a.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close kills the process, if it was started and still runs, and waits until it is
// gone.
func (a *Agent) Close() error {
	a.mu.Lock()
	started := a.cmd != nil
	a.mu.Unlock()
	if !started {
		return nil
	}
	return a.End(syscall.SIGKILL)
}

// ExitError is how the process ended; call it after it did.
func (a *Agent) ExitError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.exit
}

// PID is the process's number.
func (a *Agent) PID() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cmd.Process.Pid
}

// Command runs another agent command with this configuration in the router's
// namespace and returns what it printed and its exit code.
func (a *Agent) Command(args ...string) (out, errOut string, code int, err error) {
	args = append([]string{args[0], "--config", a.ConfigPath()}, args[1:]...)
	return a.Exec(a.Program, args...)
}

// Exec runs any program in the router's namespace.
func (a *Agent) Exec(program string, args ...string) (out, errOut string, code int, err error) {
	var o, e bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := a.Router.Start(cmd); err != nil {
		return "", "", -1, fmt.Errorf("starting %s: %w", program, err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return o.String(), e.String(), exit.ExitCode(), nil
	}
	return o.String(), e.String(), 0, err
}

// JSON runs a command that prints JSON and decodes it into v.
func (a *Agent) JSON(v any, args ...string) error {
	out, errOut, code, err := a.Command(args...)
	if err != nil || code != 0 {
		return fmt.Errorf("agent %s: exit %d: %w: %s", strings.Join(args, " "), code, err, errOut)
	}
	return json.Unmarshal([]byte(out), v)
}

// Log is everything that the agent wrote so far.
func (a *Agent) Log() string { return a.log.String() }

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
