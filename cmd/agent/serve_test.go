package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"multiroute/agent/api"
)

// fakeAgent is a daemon that only writes down what it is asked to change.
type fakeAgent struct {
	mu    sync.Mutex
	calls []string
}

var _ api.Handler = &fakeAgent{}

func (*fakeAgent) Status(context.Context) (api.Status, error) {
	return api.Status{Version: "1.2.3", PID: 42, Ready: true,
		Uplinks: []api.UplinkStatus{{Name: "dsl", State: api.Up, Interface: "eth1", RxRate: new(1.5e6)}, {Name: "lte", State: api.Down}}}, nil
}
func (*fakeAgent) Confirm(context.Context) (api.ReloadResult, error) {
	return api.ReloadResult{Generation: 2}, nil
}

// Reload implements api.Handler: 42 seconds are for what is confirmed already.
func (a *fakeAgent) Reload(_ context.Context, onTrial time.Duration) (api.ReloadResult, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, fmt.Sprint("reload ", onTrial))
	r := api.ReloadResult{Generation: 2, Changed: onTrial != 42*time.Second}
	if onTrial != 0 && r.Changed {
		until := time.Now().Add(onTrial)
		r.ConfirmBy = &until
	}
	return r, nil
}
func (*fakeAgent) Plan(context.Context) (string, error)         { return "", nil }
func (*fakeAgent) Show(context.Context, string) (string, error) { return "", nil }
func (*fakeAgent) Stop(context.Context) error                   { return nil }
func (a *fakeAgent) SetUplink(_ context.Context, name string, enabled bool, d time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, fmt.Sprint(name, " ", enabled, " ", d))
	if known := []string{"dsl", "lte"}; !slices.Contains(known, name) {
		return api.UnknownUplink(name, known)
	}
	return nil
}

// agentKey is where a script's fakeAgent is kept.
const agentKey = "fake agent"

// serve starts a fakeAgent for the rest of the script.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: serve")
	}
	l, err := net.Listen("unix", filepath.Join(ts.Getenv("WORK"), "s"))
	ts.Check(err)
	a := ts.Value(agentKey).(*fakeAgent)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.NewServer(a, -1, nil).Serve(ctx, l) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
}

// asked compares and forgets what the fakeAgent was asked to change.
func asked(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: asked [CHANGE]...")
	}
	a := ts.Value(agentKey).(*fakeAgent)
	a.mu.Lock()
	defer a.mu.Unlock()
	if got, want := strings.Join(a.calls, "\n"), strings.Join(args, "\n"); got != want {
		ts.Fatalf("the agent was asked %q, want %q", got, want)
	}
	a.calls = nil
}
