package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// All legs' answers are collected together, once in a beat. Under suspicion
// they are looked for more often, but not where nothing depends on it.
func TestMonitorCollects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNet(t)
		m, stop := running(t, Options{Open: n.open, Rand: rand.New(rand.NewPCG(1, 1)).Float64})
		defer stop()
		var legs []Watched
		for i := range 32 {
			legs = append(legs, watched(fmt.Sprint("u", i), i+1))
		}
		wakings := func(d time.Duration) int {
			n.mu.Lock()
			clear(n.wakings)
			n.mu.Unlock()
			time.Sleep(d)
			n.mu.Lock()
			defer n.mu.Unlock()
			return len(n.wakings)
		}
		m.Watch(legs)
		wakings(time.Second) // probing begins
		if k := wakings(time.Minute); k > 60*10+1 {
			t.Errorf("woken %d times in a minute in which all is well", k)
		}
		for _, w := range legs {
			if v := m.Verdicts()[w.Leg]; v.State != Up || v.RTT != rtt || v.Loss > 0 || v.Answers+1 < v.Probes {
				t.Errorf("%v: %+v", w.Leg, v)
			}
		}
		n.kill("u0", true)
		if k := wakings(2 * time.Second); m.Verdicts()[leg("u0")].State != Down || k < 20+30 || k > 20+100 {
			t.Errorf("woken %d times in 2 seconds in which one dies", k)
		}
		for _, w := range legs {
			n.kill(w.Leg.Uplink, true)
		}
		wakings(5 * time.Second)
		if k := wakings(time.Minute); k > 60*30 {
			t.Errorf("woken %d times in a minute in which nothing answers anywhere", k)
		}
	})
}
