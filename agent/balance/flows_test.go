package balance

import (
	"math/rand/v2"
	"testing"
	"time"
)

// transfers lets workers fetch things of random size, one after the other, for
// so long, over lines that share their bandwidth fairly, and returns the Mbit/s
// that each carried after the first 10 seconds.
func transfers(seed uint64, balanced bool, workers int, size float64, length time.Duration) [2]float64 {
	const tick = 10 * time.Millisecond
	can := [2]float64{100, 20}
	random := rand.New(rand.NewPCG(seed, 4))
	w := newWorld(Capacity, line("a", 100, 100), line("b", 20, 20))
	w.second(nil, nil)
	type transfer struct {
		line int
		left float64 // Mbit
	}
	begin := func() transfer {
		share := 0.5
		if balanced {
			share = w.share("a")
		}
		f := transfer{left: size * random.ExpFloat64()}
		if random.Float64() >= share {
			f.line = 1
		}
		return f
	}
	all := make([]transfer, workers)
	for i := range all {
		all[i] = begin()
	}
	var total, second [2]float64
	for at := time.Duration(0); at < length; at += tick {
		var busy [2]int
		for _, f := range all {
			busy[f.line]++
		}
		for i := range all {
			f := &all[i]
			moved := min(f.left, can[f.line]/float64(busy[f.line])*tick.Seconds())
			f.left -= moved
			second[f.line] += moved
			if f.left <= 0 {
				*f = begin()
			}
		}
		if at%time.Second == 0 {
			w.second(map[string]float64{"a": second[0], "b": second[1]}, map[string]float64{"a": second[0] / 30, "b": second[1] / 30})
			if at > 10*time.Second {
				total[0] += second[0]
				total[1] += second[1]
			}
			second = [2]float64{}
		}
	}
	for i := range total {
		total[i] /= (length - 10*time.Second).Seconds()
	}
	return total
}

// TestTransfers: lines of 100 and 20 Mbit/s with more demand than either carry
// nearly all that they can together; with equal weights they do not.
func TestTransfers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		workers int
		size    float64
		better  bool // than equal weights, which take long to show what they do to hundreds
	}{{"many small ones", 40, 4, true}, {"some large ones", 30, 40, true}, {"hundreds", 300, 20, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(5) {
				capacity, equal := transfers(seed, true, c.workers, c.size, time.Minute+10*time.Second), transfers(seed, false, c.workers, c.size, time.Minute+10*time.Second)
				sum := capacity[0] + capacity[1]
				t.Logf("seed %d: by capacity %.0f + %.0f Mbit/s, with equal weights %.0f + %.0f", seed, capacity[0], capacity[1], equal[0], equal[1])
				if sum < 0.95*120 || capacity[0] < 0.9*100 || capacity[1] < 0.8*20 {
					t.Errorf("seed %d: %.1f Mbit/s", seed, sum)
				}
				if sum < 1.2*(equal[0]+equal[1]) && c.better {
					t.Errorf("seed %d: equal weights do as well", seed)
				}
			}
		})
	}
}
