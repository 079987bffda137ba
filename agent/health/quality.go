package health

import (
	"fmt"
	"time"

	"multiroute/agent/config"
)

const (
	lossSeconds = 10              // the loss is that of so many seconds
	lossProbes  = 10              // and is believed from so many probes on,
	lossTime    = 5 * time.Second // if they speak for so much of it
	illTime     = 5 * time.Second // outages of a moment that come together by chance are no loss
	calmTime    = 10 * time.Second
)

// quality is how good a leg is that answers.
type quality struct {
	rtt, jitter time.Duration // smoothed; 0: unknown
	usual       Trip          // as those, but no answer counts for more than another
	ill         time.Time     // since when a leg that is up should be degraded; zero: it should not
	calm        time.Time     // since when a degraded leg is well; zero: it is not
}

// tally is what became of the probes of a target in the last seconds.
type tally [lossSeconds]second

// second is what became of the probes sent in one second.
type second struct {
	number           int64
	probes, missed   int
	total, unheardOf time.Duration // the time that they speak for
}

// count adds a probe that speaks for so much time.
func (t *tally) count(number int64, weight time.Duration, lost bool) {
	s := &t[number%lossSeconds]
	if s.number != number {
		*s = second{number: number}
	}
	s.probes++
	s.total += weight
	if lost {
		s.missed++
		s.unheardOf += weight
	}
}

// found takes back that a probe was lost: its answer came late.
func (t *tally) found(number int64, weight time.Duration) {
	if s := &t[number%lossSeconds]; s.number == number {
		s.missed--
		s.unheardOf -= weight
	}
}

// sum adds up the seconds up to now of every target that does answer.
func (t *targets) sum(now int64) second {
	var sum second
	for i := range t.list {
		l := &t.list[i]
		if l.hint || l.silent() || l.answered.IsZero() {
			continue
		}
		for _, s := range l.tally {
			if now-s.number < lossSeconds {
				sum.probes += s.probes
				sum.missed += s.missed
				sum.total += s.total
				sum.unheardOf += s.unheardOf
			}
		}
	}
	return sum
}

// loss returns percent: that of the probes or that of the time that they speak
// for, whichever is less. By probes alone the many of a suspicion would turn an
// outage of a moment into the loss of 10 seconds, and by time alone the few
// probes of a quiet time would make it a matter of luck.
func (s second) loss() float64 {
	if s.probes == 0 || s.total <= 0 {
		return 0
	}
	return 100 * min(float64(s.missed)/float64(s.probes), float64(s.unheardOf)/float64(s.total))
}

// learn takes in a round trip. One that was too long for the timeout counts at
// once, so that the next is waited for.
func (q *quality) learn(rtt time.Duration, slow bool) {
	rtt = max(rtt, 1) // 0 is unknown
	diff := max(rtt-q.rtt, q.rtt-rtt)
	switch {
	case q.rtt == 0:
		q.rtt, q.jitter, q.usual = rtt, 0, Trip{RTT: rtt}
		return
	case slow && rtt > q.rtt:
		q.jitter += (diff - q.jitter) / 8
		q.rtt = rtt
	default:
		q.jitter += (diff - q.jitter) / 8
		q.rtt = max(q.rtt+(rtt-q.rtt)/8, 1)
	}
	q.usual.Jitter += (max(rtt-q.usual.RTT, q.usual.RTT-rtt) - q.usual.Jitter) / 8
	q.usual.RTT = max(q.usual.RTT+(rtt-q.usual.RTT)/8, 1)
}

// forget drops the round trip: it is learned anew.
func (q *quality) forget() { q.rtt, q.jitter, q.usual = 0, 0, Trip{} }

// forget drops the loss.
func (t *targets) forget() {
	for i := range t.list {
		t.list[i].tally = tally{}
	}
}

// bad returns why the leg is degraded, or "". The sum is that of its targets.
func (q *quality) bad(sum second, s config.Health) string {
	if s.DegradedLatency > 0 && q.rtt > s.DegradedLatency {
		return fmt.Sprintf("answers take %v, and degraded_latency is %v", q.rtt.Round(time.Millisecond), s.DegradedLatency)
	}
	enough := sum.probes >= lossProbes && sum.total >= lossTime
	if s.DegradedLoss > 0 && enough && sum.loss() >= float64(s.DegradedLoss) {
		return fmt.Sprintf("%.0f%% of the probes were lost in %d seconds", sum.loss(), lossSeconds)
	}
	return ""
}

// good reports whether the leg is well enough to be degraded no more.
func (q *quality) good(sum second, s config.Health) bool {
	quick := s.DegradedLatency == 0 || q.rtt <= s.DegradedLatency*8/10
	return quick && (s.DegradedLoss == 0 || 2*sum.loss() <= float64(s.DegradedLoss))
}
