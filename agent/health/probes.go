package health

import (
	"time"

	"multiroute/agent/config"
)

// flight is what was sent and can still be answered, the oldest first. Tokens
// and batches are numbered without gaps, so that they are found without a
// search.
type flight struct {
	batches []batch
	shots   []shot
	token   uint64    // of the shot that was sent last
	batch   uint64    // likewise
	last    time.Time // when something was sent last

	sent, answers uint64
}

// batch is what was sent at once: one target in turn, or a round of all.
type batch struct {
	number  uint64
	first   uint64 // token of its first shot
	shots   int
	open    int // of those that count, neither answered nor failed for certain
	all     bool
	sent    time.Time
	timeout time.Duration
	doubt   time.Time     // when it is doubted, before that; zero: never, or it was
	due     time.Time     // when it is judged
	keep    time.Time     // until then an answer is late, but an answer
	weight  time.Duration // of each shot in the loss: the time it speaks for

	base  Counter // the uplink's traffic when it was sent, or soon after
	based bool

	judged   bool
	answered bool // by a target that counts
	extended bool // given more time, because a timer was late
	void     bool // proves nothing, for the same reason
}

// shot is one probe of a batch.
type shot struct {
	batch    uint64
	target   int
	answered bool
	failed   bool // for certain
	lost     bool // counted as lost
}

// begin adds an empty batch.
func (f *flight) begin(now time.Time, timeout time.Duration, s config.Health, all bool) *batch {
	weight := s.Interval
	if !f.last.IsZero() {
		weight = min(weight, now.Sub(f.last))
	}
	f.last = now
	f.batch++
	f.batches = append(f.batches, batch{number: f.batch, first: f.token + 1, all: all, sent: now, timeout: timeout,
		due: now.Add(timeout), keep: now.Add(s.Timeout), weight: weight})
	return &f.batches[len(f.batches)-1]
}

// add adds a shot to the batch that was begun last. Whether it counts is said
// in counts.
func (f *flight) add(b *batch, target int, counts bool, out []probe) []probe {
	f.token++
	f.sent++
	f.shots = append(f.shots, shot{batch: b.number, target: target})
	b.shots++
	if counts {
		b.open++
	}
	return append(out, probe{target: target, token: f.token, timeout: b.keep.Sub(b.sent)})
}

// of returns the shots of b.
func (f *flight) of(b *batch) []shot {
	i := int(b.first - f.batches[0].first)
	return f.shots[i : i+b.shots]
}

// find returns the shot with a token and its batch, or nil.
func (f *flight) find(token uint64) (*batch, *shot) {
	if len(f.batches) == 0 || token < f.batches[0].first || token > f.token {
		return nil, nil
	}
	s := &f.shots[token-f.batches[0].first]
	return &f.batches[s.batch-f.batches[0].number], s
}

// due returns when the next batch has to be doubted or judged; zero: there is
// none.
func (f *flight) due() time.Time {
	var d time.Time
	for i := range f.batches {
		if b := &f.batches[i]; !b.judged {
			if at := earlier(b.due, b.doubt); d.IsZero() || at.Before(d) {
				d = at
			}
		}
	}
	return d
}

// waits returns until when an answer can come; zero: everything is answered.
func (f *flight) waits() time.Time {
	for i := len(f.batches) - 1; i >= 0; i-- {
		if b := &f.batches[i]; b.open > 0 {
			return b.keep
		}
	}
	return time.Time{}
}

// forget drops what cannot be answered any more.
func (f *flight) forget(now time.Time) {
	n, shots := 0, 0
	for n < len(f.batches) && f.batches[n].judged && !f.batches[n].keep.After(now) {
		shots += f.batches[n].shots
		n++
	}
	if n > 0 {
		f.batches = f.batches[:copy(f.batches, f.batches[n:])]
		f.shots = f.shots[:copy(f.shots, f.shots[shots:])]
	}
}

// clear drops everything. Tokens are not used again.
func (f *flight) clear() { f.batches, f.shots, f.last = f.batches[:0], f.shots[:0], time.Time{} }
