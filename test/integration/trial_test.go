package integration

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// carrying reports whether the default policy has n members.
func carrying(n int) func(api.Status) bool {
	return func(s api.Status) bool { return s.Ready && len(s.Policies) > 0 && len(s.Policies[0].Members) == n }
}

// waits is Wait, or the test ends.
func (h *house) waits(ctx context.Context, what string, satisfied func(api.Status) bool) api.Status {
	h.t.Helper()
	s, err := h.Wait(ctx, satisfied)
	if err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	return s
}

// TestTrial: a configuration on trial goes by itself, also when the agent dies
// meanwhile; connections on what stays in both live through all of it.
func TestTrial(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	both, one := rig.Config(h.Topology, []int{1, 1}), rig.Config(h.Topology, []int{1, 1})
	one = strings.Replace(one, "[uplink."+h.Uplinks[1].Name+"]", "[uplink."+h.Uplinks[1].Name+"]\nenabled = false", 1)
	h.start(ctx, both)
	b := h.bystanders(ctx, h.Uplinks[0])
	client := api.Dial(h.Socket())
	onTrial := func(d time.Duration) {
		t.Helper()
		h.configure(one)
		if r, err := client.Reload(ctx, d); err != nil || r.ConfirmBy == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		h.waits(ctx, "on trial", carrying(1))
	}

	onTrial(2 * time.Second)
	s := h.waits(ctx, "nobody confirmed", carrying(2))
	if s.Config.Error == nil || !strings.Contains(*s.Config.Error, "not confirmed") {
		t.Errorf("status does not say why: %+v", s.Config)
	}

	// The agent dies, and is started again before the time is up.
	onTrial(3 * time.Second)
	if err := h.End(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := h.waits(ctx, "still on trial", carrying(1)); s.Config.ConfirmBy == nil {
		t.Error("the new agent does not know of the trial")
	}
	h.waits(ctx, "nobody confirmed", carrying(2))

	// ... and once more, when it is over: the files still hold what nobody confirmed.
	if err := h.End(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
	h.waits(ctx, "after another restart", carrying(2))

	onTrial(time.Hour)
	if out, errOut, code, err := h.Command("confirm"); err != nil || code != 0 {
		t.Fatalf("confirm: %d, %v, %s%s", code, err, out, errOut)
	}
	if err := h.End(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// A broken file at the next start: the last one that was right is in force.
	h.configure("[router]\nno_such_key = 1\n")
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
	s = h.waits(ctx, "with a broken file", carrying(1))
	if s.Config.Error == nil || !strings.Contains(*s.Config.Error, "agent.toml:2: router.no_such_key") {
		t.Errorf("status does not say what is wrong: %+v", s.Config)
	}
	b.check()
}
