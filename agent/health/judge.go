package health

import (
	"slices"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// judge is the state machine of one leg. It has no clock, no timer and no
// goroutine: whoever owns it calls tick when due says so. Its methods are not
// safe for concurrent use.
type judge struct {
	leg      Leg
	settings config.Health
	random   func() float64
	epoch    time.Time

	state  State
	reason string // of the state
	blind  string // why it cannot be probed; else empty
	since  time.Time
	missed time.Time // when the suspicion began that ended with this down; zero: none did

	present  bool // there is a path
	started  bool // and a prober
	fresh    bool // there never was a path, and nothing is remembered
	returned bool // the path came back, and nothing has spoken against it yet
	byProbes bool // down because nothing answered
	hold     hold
	ease     hold // how long a degraded leg stays so, at least

	targets   targets
	flight    flight
	suspicion suspicion
	quality   quality
	traffic   traffic
	twin      *judge // of the uplink's other family; nil: none
	beside    *judge // the same, if the packets of both are counted, together

	next     time.Time // when the next target in turn is due
	alive    time.Time // when a target answered last, or probing began
	answered time.Time // when the latest of the answered probes was sent
	certain  bool      // a probe failed for certain since then: traffic is no excuse
	good     int       // answers in a row while down
	revoked  time.Time // when a down was taken back
	lent     time.Time // when the uplink's other family was suspected with this one
	ignored  uint64    // answers that were not believed
}

// probe is what has to be sent.
type probe struct {
	target  int
	token   uint64
	timeout time.Duration
}

// newJudge returns the judge of a leg that is not there yet.
func newJudge(l Leg, s config.Health, random func() float64, epoch, now time.Time) *judge {
	j := &judge{leg: l, settings: s, random: random, epoch: epoch, state: Down, since: now, fresh: true}
	j.targets = newTargets(j.list())
	return j
}

// twins makes two judges those of an uplink's families. counted is true if the
// packets of both are counted, together.
func (j *judge) twins(o *judge, counted bool) {
	j.twin, o.twin = o, j
	if counted {
		j.beside, o.beside = o, j
	}
}

// list returns the targets of the leg's family.
func (j *judge) list() []config.Target {
	if j.leg.Family == routes.IPv4 {
		return j.settings.Targets
	}
	return j.settings.Targets6
}

// configure changes the settings, and reports whether the targets are others.
// Then the owner stops the judge until it has a prober for them.
func (j *judge) configure(s config.Health, now time.Time) bool {
	old := j.list()
	j.settings = s
	if limit := now.Add(s.Interval); j.next.After(limit) {
		j.next = limit
	}
	if slices.Equal(old, j.list()) {
		return false
	}
	j.stop()
	j.blind = ""
	j.targets = newTargets(j.list())
	if len(j.targets.list) == 0 && j.present && j.state == Down {
		j.up(now)
	}
	return true
}

// found says that there is a path, or another one. Probing begins with start.
func (j *judge) found(now time.Time) {
	was := j.present
	j.stop()
	j.present = true
	switch {
	case was:
	case j.fresh || len(j.targets.list) == 0:
		j.up(now)
	case j.state == Down:
		j.returned = true
		if !j.byProbes {
			j.reason = "not trusted yet after: " + j.reason
		}
	}
	j.fresh = false
}

// lost says that there is no path: the leg is down at once.
func (j *judge) lost(now time.Time, reason string) {
	j.stop()
	wasDown := j.state == Down
	if !wasDown {
		j.down(now)
	}
	j.present, j.returned, j.byProbes, j.reason, j.blind = false, false, false, reason, ""
}

// unmet says that there is a path, but nobody at its end: the leg is down at
// once. Probes go on.
func (j *judge) unmet(now time.Time, reason string) {
	if j.state != Down {
		j.down(now)
		j.reason, j.byProbes = reason, false
	}
}

// start begins to probe.
func (j *judge) start(now time.Time) {
	j.stop()
	j.started, j.next, j.alive, j.blind = true, now, now, ""
}

// stop ends probing. What is still unanswered is forgotten.
func (j *judge) stop() {
	j.started, j.certain, j.good, j.answered = false, false, 0, time.Time{}
	j.flight.clear()
	j.suspicion, j.traffic = suspicion{}, traffic{}
	j.quality.forget()
}

// probing reports whether there is anything to do as time goes by.
func (j *judge) probing() bool { return j.present && j.started && len(j.targets.list) > 0 }

// due returns when tick has something to do; zero: never.
func (j *judge) due() time.Time {
	if !j.probing() {
		return time.Time{}
	}
	d := j.next
	if j.suspicion.on {
		d = j.suspicion.next
	}
	d = earlier(d, j.flight.due())
	if j.state == Degraded && !j.quality.calm.IsZero() {
		d = earlier(d, latest(j.quality.calm.Add(calmTime), j.ease.until))
	}
	if j.state == Down && j.good >= j.settings.UpAfter {
		d = earlier(d, j.hold.until)
	}
	return d
}

// earlier returns the earlier of two times, of which b may be zero: none.
func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// tick judges what is due and appends to out what has to be sent now.
func (j *judge) tick(now time.Time, out []probe) []probe {
	due := j.due()
	if due.IsZero() || due.After(now) {
		return out
	}
	j.late(now, now.Sub(due))
	for i := range j.flight.batches {
		b := &j.flight.batches[i]
		if !b.judged && !b.due.After(now) {
			j.miss(now, b)
		}
		if !b.judged && !b.doubt.IsZero() && !b.doubt.After(now) {
			j.doubt(now, b)
		}
	}
	j.flight.forget(now)
	switch {
	case j.suspicion.on:
		if !j.suspicion.next.After(now) {
			out = j.round(now, out)
		}
	case !j.next.After(now):
		out = j.inTurn(now, out)
	}
	j.assess(now)
	return out
}

// late makes up for a timer that fired late, because the process was stopped,
// starved or suspended: nobody looked for answers in that time. A probe whose
// whole wait may have fallen into it proves nothing, others are given that
// much more time, but only once, so that a machine that is always slow judges,
// too.
func (j *judge) late(now time.Time, over time.Duration) {
	if over <= max(20*time.Millisecond, j.settings.SuspectInterval/2) {
		return
	}
	for i := range j.flight.batches {
		b := &j.flight.batches[i]
		b.doubt = time.Time{}
		switch {
		case b.judged:
		case over >= b.due.Sub(b.sent):
			b.void = true
		case !b.extended:
			b.extended = true
			if b.due.Before(now) {
				b.due = now // what arrived meanwhile may still be on its way to us
			}
			b.due, b.keep = b.due.Add(over), b.keep.Add(2*over)
		}
	}
}

// inTurn probes the target whose turn it is.
func (j *judge) inTurn(now time.Time, out []probe) []probe {
	b := j.flight.begin(now, j.timeout(), j.settings, false)
	b.base, b.based = j.traffic.last, j.traffic.fresh(now)
	b.doubt = earlier(b.due, now.Add(j.patience()))
	j.next = j.later(now)
	return j.flight.add(b, j.targets.turn(), true, out)
}

// later returns when the next target is due: an interval from now, or a stroke of
// the beat less, by chance. Where the interval is short the strokes are closer.
func (j *judge) later(now time.Time) time.Time {
	at := now.Add(time.Duration(float64(j.settings.Interval) * (0.85 + 0.2*j.random())))
	grid := min(beat, j.settings.Interval/5)
	return at.Add(grid/2 - (at.Sub(j.epoch)+grid/2)%grid)
}

// hurry makes the next probe due at once: somebody wants to know whether
// targets answer here.
func (j *judge) hurry(now time.Time) {
	if j.probing() && !j.suspicion.on {
		j.next = earlier(j.next, now)
	}
}

// timeout returns how long the next probe's answer may take.
func (j *judge) timeout() time.Duration {
	if j.state == Down || j.quality.rtt == 0 {
		return j.settings.Timeout
	}
	return min(max(4*j.quality.rtt, j.settings.Floor), j.settings.Timeout)
}

// patience returns how long an answer usually takes at most. It is shorter than
// the timeout: to ask again costs little, and proves nothing.
func (j *judge) patience() time.Duration {
	q := &j.quality
	if q.rtt == 0 {
		return j.settings.Timeout
	}
	return max(2*q.rtt, q.rtt+4*q.jitter, j.settings.Floor/2)
}

// doubt begins a suspicion because an answer is late, though it may still come
// in time. So the rounds of a dead leg are on their way while its first miss is
// waited for.
func (j *judge) doubt(now time.Time, b *batch) {
	b.doubt = time.Time{}
	t := &j.targets.list[j.flight.of(b)[0].target]
	if j.state != Down && !j.suspicion.on && !b.void && !t.silent() && j.answered.Before(b.sent) && !j.excused(now, b) {
		j.suspect(now)
	}
}

// miss judges a batch whose time is over, or that has failed for certain.
func (j *judge) miss(now time.Time, b *batch) {
	b.judged = true
	silent := true
	shots := j.flight.of(b)
	for i := range shots {
		s := &shots[i]
		t := &j.targets.list[s.target]
		if t.hint || s.answered {
			continue
		}
		if t.silent() || b.void {
			silent = silent && t.silent()
			continue
		}
		silent = false
		t.missed(now, j.alive)
		if !j.suspicion.spared() {
			s.lost = true
			t.tally.count(j.second(b.sent), b.weight, true)
		}
	}
	switch {
	case b.answered:
	case b.void:
		if !j.suspicion.on && j.state != Down {
			j.next = earlier(j.next, now)
		}
	case b.all:
		j.roundFailed(now, b)
	case silent || j.suspicion.on:
	case j.state == Down:
		j.good, j.returned = 0, false
	case !j.answered.Before(b.sent): // something sent later was answered
	case j.excused(now, b):
		j.next = earlier(j.next, now)
	default:
		j.suspect(now)
	}
}

// result is what came of a probe. Answers are believed once, and in time; then
// it returns who answered.
func (j *judge) result(now time.Time, r Result) (t *target, ok bool) {
	b, s := j.flight.find(r.Token)
	if s == nil || s.answered || s.failed || r.Err == nil && (r.RTT < 0 || r.RTT > j.settings.Timeout) {
		j.ignored++
		return nil, false
	}
	t = &j.targets.list[s.target]
	t.err = r.Err
	if r.Err != nil {
		s.failed = true
		if !t.hint {
			j.fail(now, b)
		}
		return nil, false
	}
	s.answered, t.answered = true, now
	j.flight.answers++
	if !t.hint {
		b.open--
		t.misses = 0
		j.believe(now, b, s, t, r.RTT)
	}
	return t, true
}

// fail takes in that a probe of a target that counts failed for certain. If
// nothing of its batch can be answered any more, nobody needs to wait.
func (j *judge) fail(now time.Time, b *batch) {
	j.certain = true
	if b.open--; b.open == 0 && !b.judged {
		j.miss(now, b)
	}
}

// believe takes in an answer of a target that counts.
func (j *judge) believe(now time.Time, b *batch, s *shot, t *target, rtt time.Duration) {
	b.answered = true
	if s.lost {
		s.lost = false
		t.tally.found(j.second(b.sent), b.weight)
	} else {
		t.tally.count(j.second(b.sent), b.weight, false)
	}
	slow := rtt > b.timeout
	j.quality.learn(rtt, slow)
	j.alive, j.certain = now, false
	j.traffic.answered()
	if b.sent.After(j.answered) {
		j.answered = b.sent
	}
	if b.open == 0 && !b.judged {
		j.miss(now, b) // those that failed are counted
	}
	switch {
	case j.suspicion.on:
		j.trust(now)
	case j.state != Down:
	case slow && j.mistaken(now, b):
		j.revoked = now
		j.hold.undo()
		j.up(now)
	case !b.all && !b.sent.Before(j.since):
		j.good++
	}
	j.assess(now)
}

// mistaken reports whether an answer to a probe from before the leg went down
// shows that it never was: answers merely take much longer than they used to.
// That is believed once in a hold-down, lest a link that loses nearly
// everything comes and goes.
func (j *judge) mistaken(now time.Time, b *batch) bool {
	return j.byProbes && b.sent.Before(j.since) && now.Sub(j.since) < j.settings.Timeout &&
		(j.revoked.IsZero() || now.Sub(j.revoked) > j.settings.HoldDown)
}

// assess makes the changes for which loss, latency or time are the reason.
func (j *judge) assess(now time.Time) {
	switch {
	case j.state == Down:
		if j.present && j.good > 0 && j.good >= j.settings.UpAfter && !now.Before(j.hold.until) {
			j.up(now)
		}
	case j.suspicion.on && !j.suspicion.excused: // up or down is the question
		j.quality.calm = time.Time{}
	case j.state == Up:
		why := j.quality.bad(j.targets.sum(j.second(now)), j.settings)
		switch {
		case why == "":
			j.quality.ill = time.Time{}
		case j.quality.ill.IsZero():
			j.quality.ill = now
		case now.Sub(j.quality.ill) >= illTime:
			j.state, j.reason, j.since = Degraded, why, now
			j.ease.down(now, calmTime)
			j.quality.ill, j.quality.calm = time.Time{}, time.Time{}
		}
	case !j.quality.good(j.targets.sum(j.second(now)), j.settings):
		j.quality.calm = time.Time{}
	case j.quality.calm.IsZero():
		j.quality.calm = now
	case now.Sub(j.quality.calm) >= calmTime && !now.Before(j.ease.until):
		j.state, j.reason, j.since = Up, "", now
		j.ease.up(now)
	}
}

// second returns the number of t's second, on the clock that nobody sets.
func (j *judge) second(t time.Time) int64 { return int64(t.Sub(j.epoch) / time.Second) }

// condemn takes the leg down because nothing answers.
func (j *judge) condemn(now time.Time) {
	why := j.silence(now)
	j.down(now)
	j.reason, j.byProbes = why, true
}

// waive puts a leg that is down back at once, if anything speaks for it: there
// is no other leg to wait on.
func (j *judge) waive(now time.Time) {
	if j.present && j.state == Down && j.hopeful() {
		j.up(now)
	}
}

// carries reports whether the leg has something to carry, and will.
func (j *judge) carries() bool { return j.state != Down && !j.condemned() }

// hopeful reports whether the leg is down and anything speaks for it.
func (j *judge) hopeful() bool { return j.good > 0 || j.returned }

func (j *judge) up(now time.Time) {
	j.state, j.reason, j.since = Up, "", now
	j.good, j.returned, j.byProbes = 0, false, false
	j.hold.up(now)
	j.quality.ill, j.quality.calm = time.Time{}, time.Time{}
	j.targets.forget()
}

func (j *judge) down(now time.Time) {
	if !j.fresh && len(j.targets.list) > 0 {
		j.hold.down(now, j.settings.HoldDown)
	}
	j.state, j.since, j.missed, j.good = Down, now, j.suspicion.since, 0
	j.suspicion = suspicion{}
	j.quality.forget()
	j.next = now.Add(j.settings.Interval)
}

// why is the verdict's reason.
func (j *judge) why() string {
	switch {
	case j.suspicion.spared():
		return j.suspicion.excuse
	case j.blind == "" || j.reason == "":
		return j.reason + j.blind
	default:
		return j.reason + "; " + j.blind
	}
}

// verdict says what is known.
func (j *judge) verdict(now time.Time) Verdict {
	v := Verdict{State: j.state, Reason: j.why(), Since: j.since, RTT: j.quality.rtt, Jitter: j.quality.jitter, Usual: j.quality.usual, Loss: j.targets.sum(j.second(now)).loss(),
		Suspect: j.suspicion.on, Probes: j.flight.sent, Answers: j.flight.answers, Ignored: j.ignored}
	switch {
	case j.suspicion.on:
		v.Missed = j.suspicion.since
	case j.state == Down:
		v.Missed = j.missed
	}
	if j.state == Down && j.hold.until.After(now) {
		v.Until = j.hold.until
	}
	return v
}
