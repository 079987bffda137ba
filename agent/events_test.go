package agent

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/health"
	"multiroute/agent/plan"
	"multiroute/agent/web"
	"multiroute/routes"
)

// newest returns the newest event.
func (r *rig) newest() api.Event {
	r.t.Helper()
	if len(r.events.newest) == 0 {
		r.t.Fatal("no event")
	}
	return r.events.newest[len(r.events.newest)-1]
}

// Every change of a state is an event, with what caused it in one word.
func TestEventCauses(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks+"[health]\ndegraded_latency = \"100ms\"\n")
	leg := health.Leg{Uplink: "a", Family: legA.Family}
	for _, tt := range []struct {
		name  string
		do    func()
		state api.State
		cause api.Cause
	}{
		{"cable out", func() { r.carrier("eth1", false) }, api.Down, api.CauseLink},
		{"cable in", func() { r.carrier("eth1", true) }, api.Up, api.CauseRecovered},
		{"silence", func() { doc.verdicts[leg] = health.Verdict{State: health.Down, Reason: "no answer", Missed: r.now} }, api.Down, api.CauseProbes},
		{"answers", func() { doc.says(leg, health.Up, "") }, api.Up, api.CauseRecovered},
		{"loss", func() { doc.says(leg, health.Degraded, "lost") }, api.Degraded, api.CauseLoss},
		{"well", func() { doc.says(leg, health.Up, "") }, api.Up, api.CauseRecovered},
		{"slow", func() { doc.verdicts[leg] = health.Verdict{State: health.Degraded, RTT: 200 * time.Millisecond} }, api.Degraded, api.CauseLatency},
		{"quick", func() { doc.says(leg, health.Up, "") }, api.Up, api.CauseRecovered},
		{"by hand", func() { r.disabled["a"] = time.Time{} }, api.Disabled, api.CauseMaintenance},
		{"put back", func() { delete(r.disabled, "a") }, api.Up, api.CauseMaintenance},
	} {
		before := r.newest().ID
		tt.do()
		r.mustPass(time.Second)
		e := r.newest()
		if e.ID != before+1 || e.Uplink != "a" || e.To != tt.state || e.Cause != tt.cause || e.Routed.IsZero() {
			t.Errorf("%s: %+v", tt.name, e)
		}
		if n := r.events.total[web.Transition{Uplink: "a", To: tt.state, Cause: tt.cause}]; n == 0 {
			t.Errorf("%s is not counted: %v", tt.name, r.events.total)
		}
	}
	if first := r.events.newest[0]; first.From != "" || first.Cause != api.CauseStart {
		t.Errorf("the first: %+v", first)
	}
	r.write(onlyB)
	if _, err := r.reload(0); err != nil {
		t.Fatal(err)
	}
	if len(r.events.total) != 0 {
		t.Errorf("figures of an uplink that is gone: %v", r.events.total)
	}
}

// The lines in the log about one change have its number, and no others have it.
func TestEventInLog(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	doc.says(legA, health.Down, "no answer")
	r.mustPass(time.Second)
	log := r.log.take()
	for _, line := range []string{
		`msg="uplink is down" id=3 uplink=a`,
		`msg="ending the connections of an uplink that cannot carry them any more" id=3 uplink=a mark=0x1000000`,
		`msg="uplink change done" id=3 uplink=a`,
	} {
		if !strings.Contains(log, line) {
			t.Errorf("the log lacks %s:\n%s", line, log)
		}
	}
	doc.says(legA, health.Down, "no answer from anybody")
	r.mustPass(time.Second)
	if log := r.log.take(); !strings.Contains(log, `msg="uplink is down" uplink=a`) {
		t.Errorf("no change of the state:\n%s", log)
	}
}

// A failover lasts from the first missing answer until routes lead elsewhere,
// also where the kernel refuses them at first.
func TestFailoverDuration(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	now := time.Now()
	doc.verdicts[legA] = health.Verdict{State: health.Down, Reason: "no answer", Missed: now.Add(-800 * time.Millisecond)}
	failing := true
	r.k.failWith = func(call string) bool { return failing && len(call) > 5 && call[:5] == "ip -4" }
	if err := r.pass(now); !errors.Is(err, errKernel) {
		t.Fatal(err)
	}
	if e := r.newest(); !e.Routed.IsZero() || e.To != api.Down {
		t.Errorf("routed although the kernel refused it: %+v", e)
	}
	failing = false
	r.now = now
	r.mustPass(time.Millisecond)
	e := r.newest()
	h := r.events.durations
	total := uint64(0)
	for _, n := range h.Counts {
		total += n
	}
	if total != 1 || h.Sum != e.Routed.Sub(e.Noticed) || h.Sum < 800*time.Millisecond || h.Sum > 10*time.Second {
		t.Errorf("%+v, %+v", h, e)
	}
}

// Old events make room for new ones; their numbers go on.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	var l events
	for range 3 * keptEvents {
		l.add(api.Event{Uplink: "a", From: api.Up, To: api.Down, Cause: api.CauseProbes})
	}
	if len(l.newest) != keptEvents || l.newest[0].ID != 2*keptEvents+1 || l.newest[keptEvents-1].ID != 3*keptEvents {
		t.Errorf("%d events, %d to %d", len(l.newest), l.newest[0].ID, l.newest[len(l.newest)-1].ID)
	}
}

func TestReloadsAreCounted(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	try := func(cfg string) { r.write(cfg); _, _ = r.reload(0) }
	try(onlyB)
	try("nonsense")
	r.k.failWith = func(call string) bool { return len(call) > 2 && call[:2] == "ip" }
	try(twoUplinks)
	if want := (web.Reloads{Applied: 1, Invalid: 1, Refused: 1}); r.reloads != want {
		t.Errorf("%+v, want %+v", r.reloads, want)
	}
	if r.states["b"].state != plan.Up {
		t.Error(r.states)
	}
}

// An uplink that loses one family stays up: that is an event of its own, and a
// failover, but no change of the state.
func TestFamilyEvents(t *testing.T) {
	t.Parallel()
	r, doc := bothFamilies(t), &nurse{verdicts: map[health.Leg]health.Verdict{}}
	r.monitor = doc
	r.mustPass(time.Second)
	six := health.Leg{Uplink: "a", Family: routes.IPv6}
	before, transitions := r.newest().ID, maps.Clone(r.events.total)
	now := time.Now()
	doc.verdicts[six] = health.Verdict{State: health.Down, Reason: "no answer", Missed: now.Add(-700 * time.Millisecond)}
	r.now = now
	r.mustPass(0)
	e := r.newest()
	if e.ID != before+1 || e.Family != "ipv6" || e.From != api.Up || e.To != api.Up || e.Cause != api.CauseProbes || !e.Lost() || e.Routed.IsZero() {
		t.Errorf("lost: %+v", e)
	}
	if d := r.events.durations.Sum; d < 700*time.Millisecond || d > 10*time.Second {
		t.Errorf("the failover took %s", d)
	}
	doc.says(six, health.Up, "")
	r.mustPass(time.Second)
	if e := r.newest(); e.ID != before+2 || e.Family != "ipv6" || e.Cause != api.CauseRecovered || e.Lost() {
		t.Errorf("back: %+v", e)
	}
	if !maps.Equal(r.events.total, transitions) {
		t.Errorf("counted as changes of the state: %v, were %v", r.events.total, transitions)
	}
}
