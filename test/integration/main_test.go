//go:build linux

// Package integration tests the real agent on a real kernel with real packets:
// what the providers and the server saw decides.
package integration

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// program builds the agent once for all tests.
var program = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("/run", "agent") // the lab's own /run
	if err != nil {
		return "", err
	}
	return rig.Build(folder)
})

// house is a topology with an agent on its router.
type house struct {
	*lab.Topology
	*rig.Agent
	t           *testing.T
	leaksBefore uint64 // what leaked before the agent was there
}

// newHouse builds a topology and prepares an agent; nothing runs yet. At the
// end of the test no provider may have seen a leak.
func newHouse(t *testing.T, topology func(lab.Options) (*lab.Topology, error), o lab.Options) *house {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology(o)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("/run", "h") // the lab's own; short, as a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Topology: top, Agent: rig.New(path, folder, top.Router), t: t}
	t.Cleanup(func() {
		h.noLeaks()
		// One that ran on would keep its namespace, take its share of the processor
		// from the tests to come, and write to its folder while that is removed.
		if err := h.Agent.Close(); err != nil {
			t.Error(err)
		}
		top.Close()
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of the agent's log:\n%s", tail(h.Log(), 100))
		}
	})
	return h
}

// start configures and runs the agent.
func (h *house) start(ctx context.Context, text string) {
	h.t.Helper()
	h.configure(text)
	if err := h.Run(ctx); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) configure(text string) {
	h.t.Helper()
	if err := h.Configure(text); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) noLeaks() {
	h.t.Helper()
	if err := h.Leaks(); err != nil && leaked(h.t, h) != h.leaksBefore {
		h.t.Error(err)
	}
}

// deadline bounds a test.
func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// topologies are the two situations that the product exists for.
var topologies = map[string]func(lab.Options) (*lab.Topology, error){
	"one NIC per uplink": lab.NewRouter,
	"one NIC":            lab.NewSingleNIC,
}

func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
