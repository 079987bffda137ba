package health

import (
	"fmt"
	"strings"
	"time"

	"multiroute/agent/config"
)

// suspicion is what is between the first miss and the verdict. The zero value
// is none.
type suspicion struct {
	on      bool
	since   time.Time
	next    time.Time     // when the next round is due
	pause   time.Duration // between rounds
	failed  int           // rounds in a row in which nothing answered
	missed  time.Time     // when the newest of them was sent
	asked   bool          // the other legs were asked whether targets answer them
	shared  bool          // with the uplink's other family
	witness *judge        // of the leg that targets answered meanwhile; nil: none
	// witnessed is when the first probe that they answered was sent.
	witnessed time.Time
	alarm     bool   // the traffic began it, not a probe
	excuse    string // why a condemned leg stays what it is
	excused   bool   // the last round's failure was
}

// spared reports whether the leg should be down, but nothing better is known.
func (s *suspicion) spared() bool { return s.excuse != "" }

// suspect begins a suspicion. The first round follows in the same tick.
func (j *judge) suspect(now time.Time) {
	j.suspicion = suspicion{on: true, since: now, next: now, pause: j.settings.SuspectInterval}
}

// share brings the uplink's other family under suspicion, too: most often both
// die at once, and it need not find out alone. One answer clears it. Where their
// packets are counted these tell sooner, and speak for this leg unless the other
// one is well. It happens now and then only: a lossy leg must not cost the other
// one many probes.
func (j *judge) share(now time.Time) {
	j.suspicion.shared = true
	if o := j.twin; o != nil && j.beside == nil && o.probing() && o.state == Up && !o.suspicion.on && now.Sub(j.lent) >= 5*j.settings.Interval {
		j.lent = now
		o.suspect(now)
		o.suspicion.shared = true
	}
}

// trust ends it.
func (j *judge) trust(now time.Time) {
	if j.suspicion.alarm {
		j.traffic.quietUntil = now.Add(falseAlarm)
	}
	j.suspicion = suspicion{}
	j.next = j.later(now)
}

// round probes all targets at once. Where the verdict cannot be carried out or
// is put off, rounds become rarer.
func (j *judge) round(now time.Time, out []probe) []probe {
	b := j.flight.begin(now, j.timeout(), j.settings, true)
	b.base, b.based = j.traffic.last, j.traffic.fresh(now)
	for i := range j.targets.list {
		out = j.flight.add(b, i, !j.targets.list[i].hint, out)
	}
	b.weight /= time.Duration(b.open)
	s := &j.suspicion
	if s.excused || j.condemned() {
		s.pause = min(2*s.pause, max(j.settings.Interval, j.settings.SuspectInterval))
	} else {
		s.pause = j.settings.SuspectInterval
	}
	s.next = now.Add(s.pause)
	return out
}

// roundFailed takes in that nothing answered a round.
func (j *judge) roundFailed(now time.Time, b *batch) {
	s := &j.suspicion
	if !s.on || b.sent.Before(s.since) {
		return
	}
	if s.excused = j.excused(now, b); s.excused {
		s.failed = 0
		return
	}
	s.missed = b.sent
	if s.failed++; s.failed == 1 {
		s.next = earlier(s.next, now.Add(j.settings.SuspectInterval))
	}
}

// condemned reports whether enough rounds failed.
func (j *judge) condemned() bool {
	return j.suspicion.on && j.suspicion.failed >= j.settings.DownAfter
}

// spare keeps a condemned leg as it is, for a reason. What was lost is no loss
// of the leg's.
func (j *judge) spare(reason string) {
	j.suspicion.excuse = reason
	j.targets.forget()
}

// silence says in words what does not answer, and how long.
func (j *judge) silence(now time.Time) string {
	var names []string
	gateway := ""
	for i := range j.targets.list {
		t := &j.targets.list[i]
		switch {
		case t.hint && t.answered.After(j.alive):
			gateway = "; the gateway answers"
		case t.hint:
			gateway = "; nor does the gateway"
		case t.err != nil:
			names = append(names, fmt.Sprintf("%s (%v)", name(t.Target), t.err))
		default:
			names = append(names, name(t.Target))
		}
	}
	return fmt.Sprintf("no answer from %s for %v%s", strings.Join(names, ", "), now.Sub(j.alive).Round(10*time.Millisecond), gateway)
}

// name returns a target as it stands in a reason.
func name(t config.Target) string {
	switch t.Scheme {
	case config.ICMP:
		return t.Host
	case config.GatewayTarget:
		return "the gateway"
	default:
		return t.Text
	}
}
