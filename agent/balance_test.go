package agent

import (
	"strings"
	"testing"
	"time"

	"multiroute/agent/health"
	"multiroute/nat"
	"multiroute/routes"
)

const capacityConfig = `
[router]
lan = ["eth0"]

[uplink.a]
interface = "eth1"
gateway = "192.0.2.1"
gateway6 = "off"
bandwidth = { down = "100mbit", up = "100mbit" }

[uplink.b]
interface = "eth2"
gateway = "198.51.100.1"
gateway6 = "off"
bandwidth = { down = "50mbit", up = "50mbit" }

[policy.default]
balance = "capacity"
`

// fakeLinks are the counters of interfaces: bytes that grow by rate each time.
type fakeLinks map[int]routes.Counter

func (f fakeLinks) Read() (map[int]routes.Counter, error) { return f, nil }

// carried lets a second pass in which eth1 received so many Mbit, and makes a
// pass if one is due.
func (r *rig) carried(links fakeLinks, mbit int) {
	r.t.Helper()
	r.now = r.now.Add(time.Second)
	c := links[3]
	c.InBytes += uint64(mbit) * 1e6 / 8
	links[3] = c
	if r.rebalance(r.now) {
		r.mustPass(0)
	}
}

// weights of the default policy's uplinks, as status has them.
func (r *rig) weights() map[string]int {
	all := map[string]int{}
	for _, m := range r.status().Policies[0].Members {
		all[m.Uplink] = m.Weight
	}
	return all
}

// TestCapacity: the first plan shares by bandwidth; what an uplink carries moves
// its share, by routes alone and at most one a second, without a word.
func TestCapacity(t *testing.T) {
	t.Parallel()
	r := started(t, capacityConfig)
	if w := r.weights(); w["a"] != 256 || w["b"] != 128 {
		t.Fatalf("at first %v", w)
	}
	links := fakeLinks{3: {}, 4: {}}
	r.links = links
	for range 10 {
		r.carried(links, 0)
	}
	r.wrote()
	for n := range 30 {
		r.k.writes = nil
		r.carried(links, 100)
		if len(r.k.writes) > 1 {
			t.Fatalf("second %d: wrote %q", n, r.k.writes)
		}
		for _, w := range r.k.writes {
			if !strings.Contains(w, "route replace default") {
				t.Errorf("wrote %s", w)
			}
		}
	}
	if w := r.weights(); w["b"] != 256 || w["a"] > 32 || w["a"] < 1 {
		t.Errorf("a is full, and the weights are %v", w)
	}
	if log := r.log.take(); log != "" {
		t.Errorf("log:\n%s", log)
	}
	r.forget()
	for range 60 {
		r.carried(links, 100)
	}
	r.wrote()

	// b is gone and comes back: the shares are what they should be at once.
	r.carrier("eth2", false)
	r.mustPass(time.Second)
	if w := r.weights(); len(w) != 1 {
		t.Errorf("without b: %v", w)
	}
	r.carrier("eth2", true)
	r.mustPass(time.Second)
	if w := r.weights(); w["b"] != 256 || w["a"] > 32 {
		t.Errorf("with b again: %v", w)
	}

	// By configured weights again.
	r.write(strings.Replace(capacityConfig, `"capacity"`, `"weight"`, 1))
	if _, err := r.reload(0); err != nil {
		t.Fatal(err)
	}
	if w := r.weights(); w["a"] != 1 || w["b"] != 1 {
		t.Errorf("by weight: %v", w)
	}
	if r.rebalance(r.now.Add(time.Second)) {
		t.Error("a pass without a reason")
	}
}

// TestCapacityOfRules: where uplinks share an interface, the counters in the
// rules tell.
func TestCapacityOfRules(t *testing.T) {
	t.Parallel()
	r := newRig(t, strings.ReplaceAll(capacityConfig, `interface = "eth1"`, `interface = "eth2"`))
	r.k.facts.Addrs[1].Index = 4
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.k.counts = map[string]nat.Count{"down-1-a": {}, "up-1-a": {}, "down-2-b": {}, "up-2-b": {}}
	r.links = fakeLinks{3: {InBytes: 1 << 50}, 4: {InBytes: 1 << 60}}
	for range 30 {
		r.now = r.now.Add(time.Second)
		r.k.counts["up-1-a"] = nat.Count{Bytes: r.k.counts["up-1-a"].Bytes + 100e6/8}
		if r.rebalance(r.now) {
			r.mustPass(0)
		}
	}
	if w := r.weights(); w["b"] != 256 || w["a"] > 32 {
		t.Errorf("weights %v", w)
	}
	r.log.take()
	r.k.failWith = func(call string) bool { return call == "count bytes" }
	for range 5 {
		r.now = r.now.Add(time.Second)
		r.rebalance(r.now)
	}
	if log := r.log.take(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "cannot be counted") {
		t.Errorf("log:\n%s", log)
	}
	if w := r.weights(); w["b"] != 256 || w["a"] > 32 {
		t.Errorf("weights %v", w)
	}
}

// probed is a monitor with made-up verdicts.
type probedLegs struct {
	nobody
	verdicts map[health.Leg]health.Verdict
}

func (p probedLegs) Verdicts() map[health.Leg]health.Verdict { return p.verdicts }

// TestLatency: without answers the configured weights decide; with them, the
// quickest gets most.
func TestLatency(t *testing.T) {
	t.Parallel()
	r := newRig(t, strings.Replace(capacityConfig, `"capacity"`, `"latency"
weights = { a = 3 }`, 1))
	p := probedLegs{verdicts: map[health.Leg]health.Verdict{}}
	r.monitor = p
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	second := func() {
		r.now = r.now.Add(time.Second)
		if r.rebalance(r.now) {
			r.mustPass(0)
		}
	}
	second()
	if w := r.weights(); w["a"] != 3 || w["b"] != 1 {
		t.Errorf("without answers %v", w)
	}
	rtt := func(a, b time.Duration) {
		p.verdicts[health.Leg{Uplink: "a", Family: routes.IPv4}] = health.Verdict{RTT: time.Second, Usual: health.Trip{RTT: a}}
		p.verdicts[health.Leg{Uplink: "b", Family: routes.IPv4}] = health.Verdict{RTT: time.Millisecond, Usual: health.Trip{RTT: b}}
	}
	rtt(10*time.Millisecond, 10*time.Millisecond)
	second()
	if w := r.weights(); w["a"] != 256 || w["b"] != 85 {
		t.Errorf("equally quick: %v", w)
	}
	rtt(200*time.Millisecond, 10*time.Millisecond)
	for range 10 {
		second()
	}
	if w := r.weights(); w["b"] != 256 || w["a"] > 64 {
		t.Errorf("a is slow: %v", w)
	}
}
