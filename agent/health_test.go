package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/api"
	"multiroute/agent/health"
	"multiroute/agent/plan"
	"multiroute/routes"
)

// nurse is a watcher that says what a test wants it to say.
type nurse struct {
	verdicts map[health.Leg]health.Verdict
	watched  []health.Watched
	held     bool
	memories map[health.Leg]health.Memory
}

func (d *nurse) Hold(on bool)                            { d.held = on }
func (d *nurse) Watch(w []health.Watched)                { d.watched = w }
func (d *nurse) Verdicts() map[health.Leg]health.Verdict { return maps.Clone(d.verdicts) }
func (d *nurse) Memories() map[health.Leg]health.Memory  { return maps.Clone(d.memories) }

var legA = health.Leg{Uplink: "a", Family: routes.IPv4}

func (d *nurse) says(leg health.Leg, state health.State, reason string) {
	d.verdicts[leg] = health.Verdict{State: state, Reason: reason}
}

// treated is a started daemon with a nurse.
func treated(t *testing.T, cfg string) (*rig, *nurse) {
	t.Helper()
	r := started(t, cfg)
	d := &nurse{verdicts: map[health.Leg]health.Verdict{}}
	r.monitor = d
	r.mustPass(time.Second)
	r.forget()
	return r, d
}

// A dead uplink: new connections first, then its own are ended, and nothing
// else is touched. Its table stays, for the probes.
func TestDeadUplink(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	doc.says(legA, health.Down, "no answer")
	r.mustPass(time.Second)
	r.wrote("ip -4 route replace default via 198.51.100.1 dev eth2 table 20003 src 192.168.0.1 proto 77", "delete connections 0x1000000/0xff000000, ip_forward is 1")
	r.forget()
	r.mustPass(time.Second)
	r.wrote()
	s := r.status()
	if s.Uplinks[0].State != api.Down || *s.Uplinks[0].Reason != "no answer" || len(s.Policies[0].Members) != 1 {
		t.Errorf("status: %+v", s.Uplinks[0])
	}
	delete(doc.verdicts, legA)
	r.mustPass(time.Second)
	r.wrote("ip -4 route replace default table 20003 src 192.168.0.1 proto 77 nexthop via 192.0.2.1 dev eth1 weight 1 nexthop via 198.51.100.1 dev eth2 weight 1")
}

// With nobody to take over nothing is ended.
func TestAllDead(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	doc.says(legA, health.Down, "no answer")
	doc.says(health.Leg{Uplink: "b", Family: routes.IPv4}, health.Down, "no answer")
	r.mustPass(time.Second)
	if len(r.k.deleted) > 0 {
		t.Errorf("deleted %#x", r.k.deleted)
	}
}

// What is to be probed, and how the probes leave.
func TestWatched(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	names := func() (all []string) {
		for _, w := range doc.watched {
			path := "no path"
			if w.Path != nil {
				path = w.Path.Interface + " from " + w.Path.Source.String() + " via " + w.Path.Gateway.String()
			}
			all = append(all, w.Leg.String()+": "+path+" "+w.Gone)
		}
		return all
	}
	want := []string{"a/4: eth1 from 192.0.2.9 via 192.0.2.1 ", "b/4: eth2 from 198.51.100.9 via 198.51.100.1 "}
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Error(diff)
	}
	if w := doc.watched[0]; w.Path.Mark != markA || w.Path.Index != 3 || w.Traffic != 3 || len(w.Settings.Targets) != 3 {
		t.Errorf("watched: %+v", w)
	}
	r.carrier("eth1", false)
	r.k.facts.FailedNeighbours = []routes.Neighbour{{Index: 4, Addr: r.k.facts.Addrs[2].Prefix.Addr().Prev()}}
	r.mustPass(time.Second)
	if w := doc.watched[0]; w.Path != nil || !strings.Contains(w.Gone, "no carrier") {
		t.Errorf("without carrier: %+v", w)
	}
	r.k.facts.FailedNeighbours[0].Addr = doc.watched[1].Path.Gateway
	r.mustPass(time.Second)
	if w := doc.watched[1]; w.Path == nil || !strings.Contains(w.Gone, "gateway 198.51.100.1 does not answer") {
		t.Errorf("with a gateway that does not answer: %+v", w)
	}
	if err := r.setUplink("a", false, 0); err != nil {
		t.Fatal(err)
	}
	if len(doc.watched) != 1 {
		t.Errorf("what is taken out is probed: %v", names())
	}
}

func TestTakenOut(t *testing.T) {
	t.Parallel()
	r, _ := treated(t, twoUplinks)
	if err := r.setUplink("nobody", false, 0); !errors.Is(err, api.ErrUnknown) || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("unknown uplink: %v", err)
	}
	if err := r.setUplink("a", false, time.Minute); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.k.deleted, []uint32{markA}) {
		t.Errorf("deleted %#x", r.k.deleted)
	}
	s := r.status().Uplinks[0]
	if s.State != api.Disabled || !strings.Contains(*s.Reason, "agent uplink enable a") || s.Until == nil {
		t.Errorf("status: %+v", s)
	}
	r.now = time.Now()
	r.mustPass(2 * time.Minute)
	if s := r.status().Uplinks[0]; s.State != api.Up || s.Until != nil {
		t.Errorf("after its time: %+v", s)
	}
	if err := errors.Join(r.setUplink("b", false, 0), r.setUplink("b", true, 0)); err != nil {
		t.Fatal(err)
	}
	if s := r.status().Uplinks[1]; s.State != api.Up {
		t.Errorf("put back: %+v", s)
	}
	r.write(strings.Replace(twoUplinks, "[uplink.b]", "[uplink.b]\nenabled = false", 1))
	if _, err := r.reload(0); err != nil {
		t.Fatal(err)
	}
	if err := r.setUplink("b", true, 0); err == nil || !strings.Contains(err.Error(), "enabled = false") {
		t.Errorf("enabling what the configuration disables: %v", err)
	}
}

// If the kernel refuses, it is as before.
func TestTakenOutRefused(t *testing.T) {
	t.Parallel()
	r, _ := treated(t, twoUplinks)
	r.k.failWith = func(call string) bool {
		return strings.Contains(call, "replace default via 198.51.100.1 dev eth2 table 20003")
	}
	if err := r.setUplink("a", false, 0); !errors.Is(err, errKernel) {
		t.Errorf("no error: %v", err)
	}
	if s := r.status().Uplinks[0]; s.State != api.Up {
		t.Errorf("status: %+v", s)
	}
	r.holds()
}

// What the kernel refuses of another uplink keeps nobody from taking this one out.
func TestTakenOutBesideARefusal(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks+"[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.3\"\ngateway6 = \"off\"\n")
	table := fmt.Sprintf("table %d ", r.plan.Uplinks[2].Table)
	r.k.have.Routes = slices.DeleteFunc(r.k.have.Routes, func(o routes.Route) bool { return o.Table == r.plan.Uplinks[2].Table })
	r.k.failWith = func(call string) bool {
		return strings.Contains(call, "route replace") && strings.Contains(call, table)
	}
	r.report(r.pass(r.now))
	r.forget()
	if err := r.setUplink("a", false, 0); err != nil {
		t.Fatal(err)
	}
	if s := r.status().Uplinks[0]; s.State != api.Disabled || !slices.Equal(r.k.deleted, []uint32{markA}) {
		t.Errorf("%+v, deleted %#x", s, r.k.deleted)
	}
}

// The next agent knows who is dead and who was taken out.
func TestMemory(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks)
	r.memoryFile = filepath.Join(t.TempDir(), "health.json")
	doc.memories = map[health.Leg]health.Memory{legA: {State: health.Down, Reason: "no answer", Flaps: 2}}
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	r.disabled["b"] = until
	r.mustPass(time.Second)
	kept, err := recall(r.memoryFile)
	if legs := kept.Legs; err != nil || legs[legA].Flaps != 2 || len(legs) != 1 || !kept.Disabled["b"].Equal(until) || !kept.IDs.Equal(r.ids) {
		t.Errorf("recalled %+v, %v", kept, err)
	}
	for name, s := range r.states {
		later := s.since.Add(time.Hour)
		if got := kept.since(name, s.state, later); !got.Equal(s.since) {
			t.Errorf("%s is %s since %v, recalled %v", name, s.state, s.since, got)
		}
		if got := kept.since(name, plan.Degraded, later); got != later {
			t.Errorf("%s is another state since %v, want now", name, got)
		}
		earlier := s.since.Add(-time.Hour) // the clock was set back
		if got := kept.since(name, s.state, earlier); got != earlier {
			t.Errorf("%s is %s since %v, which is still to come", name, s.state, got)
		}
	}
	next := started(t, twoUplinks)
	next.states, next.remembered = map[string]uplinkState{}, kept
	next.mustPass(time.Hour)
	if a := next.states["a"]; !a.since.Equal(r.states["a"].since) {
		t.Errorf("after a restart since %v, before %v", a.since, r.states["a"].since)
	}
	// Not written again without a reason.
	if err := os.Remove(r.memoryFile); err != nil {
		t.Fatal(err)
	}
	r.mustPass(time.Second)
	if _, err := os.Stat(r.memoryFile); err == nil {
		t.Error("written although nothing changed")
	}
}

// Connections keep their marks while our table is gone and no agent runs: the
// next one gives everybody the id that was theirs.
func TestIDsWithoutTable(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks)
	r.remembered.IDs = plan.IDs{Uplinks: map[string]int{"a": 7, "b": 9}, Policies: map[string]int{"default": 3}}
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	if !r.ids.Equal(r.remembered.IDs) {
		t.Errorf("ids %v, want %v", r.ids, r.remembered.IDs)
	}
}

// A tier is said in words.
func TestTierInStatus(t *testing.T) {
	t.Parallel()
	r, doc := treated(t, twoUplinks+"[policy.default]\ntiers = [[\"a\"], [\"b\"]]\n")
	if s := r.status().Policies[0]; *s.Tier != 0 || s.Members[0].Uplink != "a" {
		t.Errorf("%+v", s)
	}
	doc.says(legA, health.Degraded, "loss")
	r.mustPass(time.Second)
	if s := r.status(); *s.Policies[0].Tier != 1 || s.Uplinks[0].State != api.State(plan.Degraded) {
		t.Errorf("%+v", s)
	}
	if len(r.k.deleted) > 0 {
		t.Errorf("a degraded uplink lost its connections: %#x", r.k.deleted)
	}
}
