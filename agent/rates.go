package agent

import (
	"math"
	"time"
)

// rateOver is the shortest time over which a rate is worth showing: a little less
// than the second between two looks of whoever watches.
const rateOver = 900 * time.Millisecond

// rates says how fast uplinks receive and send, from looks at what they carried
// that others take anyway. Its zero value knows nothing yet.
type rates struct {
	at      time.Time                // of the newest look that counts
	traffic map[string]carried       // at that look, by uplink
	newest  map[string]bitsPerSecond // between the newest two
}

type bitsPerSecond struct{ rx, tx float64 }

// see takes a look at the uplinks. One that comes too early changes nothing.
func (r *rates) see(now time.Time, traffic map[string]carried) {
	if !r.due(now) {
		return
	}
	elapsed := now.Sub(r.at)
	newest := map[string]bitsPerSecond{}
	for name, c := range traffic {
		// Another index or a smaller counter is another interface, or begins anew.
		if old, ok := r.traffic[name]; ok && old.index == c.index && c.InBytes >= old.InBytes && c.OutBytes >= old.OutBytes {
			newest[name] = bitsPerSecond{rx: bits(c.InBytes-old.InBytes, elapsed), tx: bits(c.OutBytes-old.OutBytes, elapsed)}
		}
	}
	r.at, r.traffic, r.newest = now, traffic, newest
}

// due reports whether a look counts by now.
func (r *rates) due(now time.Time) bool { return r.traffic == nil || now.Sub(r.at) >= rateOver }

// bits is a rate in whole bits per second.
func bits(bytes uint64, d time.Duration) float64 {
	return math.Round(8 * float64(bytes) / d.Seconds())
}
