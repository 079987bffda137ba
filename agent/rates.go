package agent

import (
	"math"
	"time"

	"multiroute/routes"
)

// rateOver is the shortest time over which a rate is worth showing: a little less
// than the second between two looks of whoever watches.
const rateOver = 900 * time.Millisecond

// rates says how fast interfaces receive and send, from looks at their counters
// that others take anyway. Its zero value knows nothing yet.
type rates struct {
	at      time.Time                // of the newest look that counts
	traffic map[string]routes.Link   // at that look, by interface
	newest  map[string]bitsPerSecond // between the newest two
}

type bitsPerSecond struct{ rx, tx float64 }

// see takes a look at the interfaces. One that comes too early changes nothing.
func (r *rates) see(now time.Time, links []routes.Link) {
	elapsed := now.Sub(r.at)
	if r.traffic != nil && elapsed < rateOver {
		return
	}
	traffic, newest := make(map[string]routes.Link, len(links)), map[string]bitsPerSecond{}
	for _, l := range links {
		traffic[l.Name] = l
		// Another index or a smaller counter is another interface of that name.
		if old, ok := r.traffic[l.Name]; ok && old.Index == l.Index && l.RxBytes >= old.RxBytes && l.TxBytes >= old.TxBytes {
			newest[l.Name] = bitsPerSecond{rx: bits(l.RxBytes-old.RxBytes, elapsed), tx: bits(l.TxBytes-old.TxBytes, elapsed)}
		}
	}
	r.at, r.traffic, r.newest = now, traffic, newest
}

// bits is a rate in whole bits per second.
func bits(bytes uint64, d time.Duration) float64 {
	return math.Round(8 * float64(bytes) / d.Seconds())
}
