package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const mbit = 1_000_000

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is lines that carry something, seconds after the start.
type world struct {
	Balancer
	now   time.Time
	group Group
	bytes map[string]Bytes
}

func newWorld(method Method, members ...Member) *world {
	w := &world{now: epoch, group: Group{Policy: "default", Method: method, Members: members}, bytes: map[string]Bytes{}}
	for i := range members {
		members[i].Weight = max(members[i].Weight, 1)
	}
	return w
}

// second lets a second pass in which the lines carry so many Mbit/s, and
// reports whether weights changed.
func (w *world) second(down, up map[string]float64) bool {
	w.now = w.now.Add(time.Second)
	for _, m := range w.group.Members {
		b := w.bytes[m.Uplink]
		b.Down += uint64(down[m.Uplink] * mbit / 8)
		b.Up += uint64(up[m.Uplink] * mbit / 8)
		w.bytes[m.Uplink] = b
	}
	w.Count(w.now, w.bytes)
	return w.Step(w.now, []Group{w.group})
}

// share is an uplink's part of the weights in force.
func (w *world) share(uplink string) float64 {
	sum := 0
	for _, weight := range w.Weights()["default"] {
		sum += weight
	}
	return float64(w.Weights()["default"][uplink]) / float64(sum)
}

func line(name string, down, up int64) Member {
	return Member{Uplink: name, Down: down * mbit, Up: up * mbit}
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within {
		t.Errorf("%s: %.3f, want %.3f", what, got, want)
	}
}

// TestCapacitySettles: what the shares are after half a minute of the same load.
func TestCapacitySettles(t *testing.T) {
	t.Parallel()
	type load = map[string]float64
	tests := []struct {
		name     string
		a, b     Member
		down, up load
		want     float64 // a's share
	}{
		{"idle", line("a", 100, 100), line("b", 20, 20), nil, nil, 5. / 6},
		{"idle, of one size", line("a", 100, 10), line("b", 100, 10), nil, nil, 0.5},
		{"idle, one better down and one better up", line("a", 100, 10), line("b", 10, 100), nil, nil, 0.5},
		{"idle, the scarcer direction decides", line("a", 100, 10), line("b", 20, 20), nil, nil, 2. / 3},
		{"a is half full", line("a", 100, 100), line("b", 100, 100), load{"a": 50}, nil, 1. / 3},
		{"a is half full up", line("a", 100, 10), line("b", 100, 10), nil, load{"a": 5}, 1. / 3},
		{"a is full and gets a little", line("a", 100, 100), line("b", 100, 100), load{"a": 100}, nil, 1. / 33},
		{"a is fuller than full", line("a", 100, 100), line("b", 100, 100), load{"a": 130}, nil, 1. / 33},
		{"both are full: the bandwidth", line("a", 100, 100), line("b", 20, 20), load{"a": 99, "b": 20}, nil, 5. / 6},
		{"equally free", line("a", 100, 100), line("b", 20, 20), load{"a": 80}, nil, 0.5},
		{"weights multiply", Member{Uplink: "a", Weight: 3, Down: 100, Up: 100}, line("b", 0, 0), nil, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.name == "weights multiply" {
				tt.a, tt.b, tt.want = line("a", 100, 100), line("b", 100, 100), 0.75
				tt.a.Weight = 3
			}
			w := newWorld(Capacity, tt.a, tt.b)
			for range 30 {
				w.second(tt.down, tt.up)
			}
			near(t, "share", w.share("a"), tt.want, max(0.02, 0.1*tt.want))
			for name, weight := range w.Weights()["default"] {
				if weight < 1 || weight > 256 {
					t.Errorf("weight of %s is %d", name, weight)
				}
			}
		})
	}
}

// TestCapacityFollows: a line that fills up is avoided within seconds, in
// bounded steps, and is used again as soon when it is free.
func TestCapacityFollows(t *testing.T) {
	t.Parallel()
	w := newWorld(Capacity, line("a", 100, 100), line("b", 100, 100))
	full := map[string]float64{"a": 99}
	for range 10 {
		w.second(nil, nil)
	}
	follow := func(load map[string]float64, there func() bool) int {
		for n := 1; n < 30; n++ {
			before := w.share("a")
			w.second(load, nil)
			if step := math.Abs(w.share("a") - before); step > 0.26 {
				t.Errorf("a step of %.2f", step)
			}
			if there() {
				return n
			}
		}
		return 30
	}
	if n := follow(full, func() bool { return w.share("a") < 0.15 }); n > 6 {
		t.Errorf("avoided after %d seconds", n)
	}
	if n := follow(nil, func() bool { return w.share("a") > 0.45 }); n > 12 {
		t.Errorf("used again after %d seconds", n)
	}
}

// TestCapacityRests: a load that goes up and down by a few percent writes
// nothing.
func TestCapacityRests(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(Capacity, line("a", 100, 20), line("b", 50, 10), line("c", 1000, 100))
		changes := 0
		for n := range 600 {
			down, up := map[string]float64{}, map[string]float64{}
			for _, m := range w.group.Members {
				down[m.Uplink] = float64(m.Down) / mbit * (0.3 + 0.1*random.Float64())
				up[m.Uplink] = float64(m.Up) / mbit * (0.1 + 0.1*random.Float64())
			}
			if w.second(down, up) && n > 20 {
				changes++
			}
		}
		if changes > 0 {
			t.Errorf("seed %d: %d changes in 10 minutes", seed, changes)
		}
	}
}

// TestCounters: counters that are new, missing or begin again are no traffic.
func TestCounters(t *testing.T) {
	t.Parallel()
	w := newWorld(Capacity, line("a", 100, 100), line("b", 100, 100))
	w.bytes["a"] = Bytes{Down: 1 << 60, Up: 1 << 60}
	for range 5 {
		w.second(nil, nil)
	}
	near(t, "a large number at first", w.share("a"), 0.5, 0.01)
	w.bytes["a"] = Bytes{}
	for range 5 {
		w.second(nil, nil)
	}
	near(t, "zero again", w.share("a"), 0.5, 0.01)
	for range 10 {
		w.second(map[string]float64{"a": 90}, nil)
	}
	w.now = w.now.Add(time.Second)
	w.Count(w.now, nil)
	for range 10 {
		w.Step(w.now, []Group{w.group})
		w.now = w.now.Add(time.Second)
	}
	near(t, "nobody counts", w.share("a"), 0.5, 0.05)
}

// TestGroups: who is in a group comes and goes at once; one alone, and a policy
// that is gone, has no weights.
func TestGroups(t *testing.T) {
	t.Parallel()
	a, b, c := line("a", 100, 100), line("b", 50, 50), line("c", 50, 50)
	a.Weight, b.Weight, c.Weight = 1, 1, 1
	group := func(policy string, tier int, m ...Member) Group { return Group{Policy: policy, Tier: tier, Members: m} }
	var bal Balancer
	if len(bal.Weights()) != 0 || bal.Step(epoch, nil) {
		t.Error("weights from nothing")
	}
	for i, tt := range []struct {
		groups []Group
		change bool
		want   Weights
	}{
		{[]Group{group("p", 0, a, b, c)}, true, Weights{"p": {"a": 256, "b": 128, "c": 128}}},
		{[]Group{group("p", 0, a, b, c)}, false, Weights{"p": {"a": 256, "b": 128, "c": 128}}},
		{[]Group{group("p", 0, b, c)}, true, Weights{"p": {"b": 256, "c": 256}}},
		{[]Group{group("p", 0, b)}, true, Weights{}},
		{[]Group{group("p", 0, a, b), group("p", 1, c), group("q", 0, a, c)}, true, Weights{"p": {"a": 256, "b": 128}, "q": {"a": 256, "c": 128}}},
		{nil, true, Weights{}},
	} {
		changed := bal.Step(epoch.Add(time.Duration(i)*time.Second), tt.groups)
		if diff := cmp.Diff(tt.want, bal.Weights()); diff != "" || changed != tt.change {
			t.Errorf("step %d: changed %v, want %v\n%s", i, changed, tt.change, diff)
		}
	}
}

// probes is an uplink's usual round trip and jitter, as package health makes
// them of single ones.
type probes struct{ rtt, jitter float64 }

func (p *probes) answer(d time.Duration) {
	if p.rtt == 0 {
		p.rtt = float64(d)
		return
	}
	p.jitter += (math.Abs(float64(d)-p.rtt) - p.jitter) / 8
	p.rtt += (float64(d) - p.rtt) / 8
}

// quick runs a latency group for some seconds, with two answers a second.
func (w *world) quick(seconds int, p []probes, rtt func(i int) time.Duration) {
	for range seconds {
		for i := range w.group.Members {
			p[i].answer(rtt(i))
			p[i].answer(rtt(i))
			w.group.Members[i].RTT, w.group.Members[i].Jitter = time.Duration(p[i].rtt), time.Duration(p[i].jitter)
		}
		w.second(nil, nil)
	}
}

// noise are kinds of round trips around a middle.
var noise = map[string]func(r *rand.Rand, d time.Duration) time.Duration{
	"none": func(_ *rand.Rand, d time.Duration) time.Duration { return d },
	"uniform": func(r *rand.Rand, d time.Duration) time.Duration {
		return time.Duration(float64(d) * (0.6 + 0.8*r.Float64()))
	},
	"exponential": func(r *rand.Rand, d time.Duration) time.Duration {
		return time.Duration(float64(d) * (0.7 + 0.3*r.ExpFloat64()))
	},
	"jitter": func(r *rand.Rand, d time.Duration) time.Duration {
		return d + time.Duration((r.Float64()+r.Float64())*float64(20*time.Millisecond))
	},
	"spikes": func(r *rand.Rand, d time.Duration) time.Duration {
		if r.Float64() < 0.02 {
			return d + 200*time.Millisecond
		}
		return time.Duration(float64(d) * (0.9 + 0.2*r.Float64()))
	},
}

// TestLatencyFollows: from 10 to 200 ms, the quick uplink gets 80 % within 10
// seconds, in bounded steps.
func TestLatencyFollows(t *testing.T) {
	t.Parallel()
	for name, noisy := range noise {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slowest := 0
			for seed := range uint64(20) {
				random := rand.New(rand.NewPCG(seed, 2))
				w := newWorld(Latency, Member{Uplink: "a"}, Member{Uplink: "b"})
				p := make([]probes, 2)
				w.quick(60, p, func(int) time.Duration { return noisy(random, 10*time.Millisecond) })
				if s := w.share("a"); s < 0.25 || s > 0.75 {
					t.Errorf("seed %d: equal uplinks share %.2f to %.2f", seed, s, 1-s)
				}
				after := 0
				for ; after < 30 && w.share("b") < 0.8; after++ {
					before := w.share("b")
					w.quick(1, p, func(i int) time.Duration {
						return noisy(random, []time.Duration{200 * time.Millisecond, 10 * time.Millisecond}[i])
					})
					if step := math.Abs(w.share("b") - before); step > 0.16 {
						t.Errorf("seed %d: a step of %.2f", seed, step)
					}
				}
				slowest = max(slowest, after)
			}
			if slowest > 9 {
				t.Errorf("80 %% after %d seconds", slowest)
			}
			t.Logf("80 %% after at most %d seconds", slowest)
		})
	}
}

// TestLatencyFollowsSoon: also where noise has moved shares a while ago, a
// quick uplink that becomes slow has less than 20 % within 10 seconds.
func TestLatencyFollowsSoon(t *testing.T) {
	t.Parallel()
	for name, noisy := range noise {
		for _, uplinks := range []int{2, 3, 4} {
			t.Run(fmt.Sprint(name, uplinks), func(t *testing.T) {
				t.Parallel()
				for _, before := range []int{5, 20, 90} {
					for seed := range uint64(30) {
						random := rand.New(rand.NewPCG(seed, 5))
						members := make([]Member, uplinks)
						for i := range members {
							members[i].Uplink = string(rune('a' + i))
						}
						w, p := newWorld(Latency, members...), make([]probes, uplinks)
						w.quick(before, p, func(int) time.Duration { return noisy(random, 10*time.Millisecond) })
						for second := range 20 {
							w.quick(1, p, func(i int) time.Duration {
								return noisy(random, []time.Duration{400 * time.Millisecond, 10 * time.Millisecond}[min(i, 1)])
							})
							if s := w.share("a"); s > 0.2 && second >= 9 {
								t.Errorf("seed %d, after %d seconds: %.2f in second %d", seed, before, s, second+1)
							}
						}
					}
				}
			})
		}
	}
}

// TestLatencyIsCalm: noise does not make the shares swing.
func TestLatencyIsCalm(t *testing.T) {
	t.Parallel()
	const minutes = 20
	for name, noisy := range noise {
		for _, rtts := range [][]time.Duration{{10 * time.Millisecond, 10 * time.Millisecond}, {20 * time.Millisecond, 40 * time.Millisecond},
			{30 * time.Millisecond, 35 * time.Millisecond, 45 * time.Millisecond}, {10 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond}} {
			t.Run(fmt.Sprint(name, rtts), func(t *testing.T) {
				t.Parallel()
				turns, writes, worst := 0, 0, 0
				for seed := range uint64(6) {
					random := rand.New(rand.NewPCG(seed, 3))
					var members []Member
					for i := range rtts {
						members = append(members, Member{Uplink: string(rune('a' + i))})
					}
					w := newWorld(Latency, members...)
					p := make([]probes, len(rtts))
					last, turned := map[string]float64{}, map[string]float64{}
					var at []int // seconds in which some share turned round
					for second := range minutes * 60 {
						w.quick(1, p, func(i int) time.Duration { return noisy(random, rtts[i]) })
						moved, wrote := false, false
						for _, m := range w.group.Members {
							s := w.share(m.Uplink)
							d := s - last[m.Uplink]
							if last[m.Uplink] != 0 && math.Abs(d) > 0.005 {
								wrote = true
								moved = moved || d*turned[m.Uplink] < 0
								turned[m.Uplink] = d
							}
							last[m.Uplink] = s
						}
						if moved {
							at = append(at, second)
						}
						if wrote {
							writes++
						}
					}
					turns += len(at)
					for i, s := range at {
						n := 0
						for _, o := range at[i:] {
							if o-s < 60 {
								n++
							}
						}
						worst = max(worst, n)
					}
				}
				t.Logf("%d turns and %d writes in %d minutes, at most %d turns in one", turns, writes, 6*minutes, worst)
				if worst > 1 {
					t.Errorf("%d turns within a minute", worst)
				}
			})
		}
	}
}

// TestLatencyUnknown: without answers the configured weights decide.
func TestLatencyUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(Latency, Member{Uplink: "a", Weight: 3}, Member{Uplink: "b"}, Member{Uplink: "c"})
	w.second(nil, nil)
	if len(w.Weights()) > 0 {
		t.Errorf("weights %v", w.Weights())
	}
	w.group.Members[0].RTT, w.group.Members[1].RTT = 10*time.Millisecond, 10*time.Millisecond
	for range 30 {
		w.second(nil, nil)
	}
	near(t, "with an unknown one: weight", w.share("a"), 0.6, 0.01)
	near(t, "with an unknown one: as quick as the others", w.share("c"), 0.2, 0.01)
}
