package health

import (
	"encoding/json"
	"testing"
	"time"

	"multiroute/routes"

	"github.com/google/go-cmp/cmp"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	u := s.add("dsl", settings(3), steady(rtt).dead(20*time.Second, never))
	s.add("lte", settings(3), steady(rtt))
	s.run(25 * time.Second)
	text, err := json.Marshal(map[Leg]Memory{u.leg: u.remember()})
	if err != nil {
		t.Fatal(err)
	}
	var all map[Leg]Memory
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	kept := all[Leg{"dsl", routes.IPv4}]
	if diff := cmp.Diff(u.remember(), kept); diff != "" {
		t.Errorf("after JSON (-want +got):\n%s", diff)
	}

	// The uplink that was down does not come back sooner because of a restart.
	s2 := newSim(2)
	s2.start, s2.now = s.now, s.now
	lte := s2.add("lte", settings(3), steady(rtt))
	d := s2.gone("dsl", settings(3), steady(rtt))
	d.recall(kept, s2.now)
	d.found(s2.now)
	d.start(s2.now)
	s2.run(5 * time.Second)
	if v := d.verdict(s2.now); v.State != Down || v.Reason != kept.Reason || !v.Since.Equal(kept.Since) {
		t.Errorf("%+v", v)
	}
	s2.run(12 * time.Second)
	if d.state != Up || d.hold.flaps != 1 || lte.state != Up {
		t.Errorf("%v, %+v", d.state, d.hold)
	}
}

// The clock may have been set while the agent was away.
func TestMemoryOfAnotherTime(t *testing.T) {
	t.Parallel()
	s := newSim(1)
	later := s.now.Add(1000 * time.Hour)
	u := s.gone("dsl", settings(3), nil)
	u.recall(Memory{State: Down, Since: later, Until: later, Flaps: 1 << 30, Decayed: later}, s.now)
	if u.since.After(s.now) || u.hold.until.After(s.now.Add(10*time.Minute)) || u.hold.flaps > 20 || u.hold.decayed.After(s.now) {
		t.Errorf("%+v", u.hold)
	}
}

// The clock may be set after the start: what is recalled stays as far away as it
// was, on the clock that nobody sets.
func TestMemoryKeepsItsDistance(t *testing.T) {
	t.Parallel()
	now := time.Now()
	j := newJudge(Leg{"dsl", routes.IPv4}, settings(3), nil, now, now)
	m := Memory{State: Down, Since: now.Add(-time.Hour).Round(0), Until: now.Add(time.Minute).Round(0), Flaps: 1, Decayed: now.Add(-time.Minute).Round(0)}
	j.recall(m, now)
	for _, at := range []time.Time{j.since, j.hold.until, j.hold.decayed} {
		if at == at.Round(0) {
			t.Errorf("%v is on the wall clock", at)
		}
	}
	if diff := cmp.Diff(m, j.remember()); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
	j.recall(Memory{}, now)
	if j.hold.until != (time.Time{}) {
		t.Errorf("a hold-down until %v out of nothing", j.hold.until)
	}
}

func TestMemoryText(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{`{"dsl":{}}`, `{"/4":{}}`, `{"dsl/5":{}}`, `{"dsl/4":{"state":"fine"}}`} {
		var all map[Leg]Memory
		if err := json.Unmarshal([]byte(bad), &all); err == nil {
			t.Errorf("%s is read as %v", bad, all)
		}
	}
}
