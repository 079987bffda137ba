package agent

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"multiroute/agent/api"
	"multiroute/agent/plan"
)

// What an agent did not come to tell its hooks the next one tells, and nothing
// twice.
func TestHooksAreToldByTheNext(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "health.json")
	next := func(down bool) *rig {
		t.Helper()
		r := newRig(t, twoUplinks+"[hooks]\non_change = [\"/bin/true\"]\n")
		r.carrier("eth1", !down)
		if _, err := r.watch(file, nil, nil); err != nil {
			t.Fatal(err)
		}
		r.monitor = nobody{}
		r.retell(r.load())
		if err := r.start(r.load()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	owes := func(r *rig, want ...string) {
		t.Helper()
		var got []string
		for _, j := range r.untold() {
			got = append(got, j.Env[0]+" "+j.Env[1]+" "+j.Env[2])
		}
		if !slices.Equal(got, want) {
			t.Errorf("left to tell: %q, want %q", got, want)
		}
	}
	// tell runs the hooks until all have heard.
	tell := func(r *rig) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.hooks.Run(ctx) }()
		for len(r.untold()) > 0 {
			<-r.hooks.Told()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.remember()
	}
	const upA, upB = "UPLINK=a STATE=up PREVIOUS=", "UPLINK=b STATE=up PREVIOUS="
	const lostA, backA = "UPLINK=a STATE=down PREVIOUS=up", "UPLINK=a STATE=up PREVIOUS=down"

	r := next(false)
	owes(r, upA, upB)
	owes(next(false), upA, upB) // the first ended before it told anything
	tell(r)
	r = next(false)
	owes(r)

	r.carrier("eth1", false)
	r.mustPass(0)
	owes(r, lostA)
	owes(next(true), lostA)
	owes(next(false), lostA, backA)
	tell(next(false))
	owes(next(false))

	// The connections were still being moved.
	r = next(false)
	r.events.add(api.Event{Uplink: "a", From: api.Up, To: api.Down})
	r.states["a"] = uplinkState{state: plan.Down}
	r.remember()
	owes(next(true), lostA)
}
