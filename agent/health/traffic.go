package health

import "time"

const (
	// sampleTime is how often the packets are counted.
	sampleTime = 100 * time.Millisecond
	// excuseTime is how long replies excuse that no target answers. They are no
	// proof: what providers broadcast looks like replies, too.
	excuseTime = 30 * time.Second
	// Bytes that the packets of something have on average, at least, if it is
	// more than what is always on the wire of a dead line: ARP, and tries to
	// connect. Where clients download the replies are large, where they upload
	// what goes out is.
	largeIn  = 100
	largeOut = 500
	// usualTime is over how much time the usual rate is measured, at least.
	usualTime = 400 * time.Millisecond
	// falseAlarm is how long the traffic's stopping means nothing after it
	// turned out to mean nothing.
	falseAlarm = 5 * time.Second
)

// traffic is what the packets of others say about an uplink.
type traffic struct {
	last       Counter // our own probes and their answers are not in it
	at         time.Time
	lastIn     time.Time // when packets were last seen to come in
	out        int64     // packets that went out since then
	armed      bool      // that they stop would mean something
	quietUntil time.Time

	// What comes in while targets answer.
	usual   float64 // packets a second
	usualIn uint64  // the counter that it was last measured with
	usualAt time.Time
}

// answered takes in that a target did: what came in so far is usual.
func (t *traffic) answered() {
	took := t.at.Sub(t.usualAt)
	if took < usualTime {
		return
	}
	if t.usual = 0; !t.usualAt.IsZero() && took < 10*time.Second {
		t.usual = float64(max(0, int64(t.last.In-t.usualIn))) / took.Seconds()
	}
	t.usualIn, t.usualAt = t.last.In, t.at
}

// fresh reports whether the last sample is as good as one of now.
func (t *traffic) fresh(now time.Time) bool {
	return !t.at.IsZero() && now.Sub(t.at) <= time.Millisecond
}

// sample takes in the counters, and reports whether replies stopped while
// packets still go out: nothing came in for wait, though something did before.
func (t *traffic) sample(now time.Time, c Counter, wait time.Duration) bool {
	gap := now.Sub(t.at)
	in, out := int64(c.In-t.last.In), int64(c.Out-t.last.Out)
	unknown := t.at.IsZero() || gap > time.Second // nobody looked in between
	t.last, t.at = c, now
	switch quiet := now.Sub(t.lastIn); {
	case unknown:
		t.armed = false
	case in > 0:
		t.lastIn, t.out, t.armed = now, 0, true
	case !t.armed:
	case quiet > time.Second+wait:
		t.armed = false
	default:
		t.out += max(out, 0)
		if t.out < 5 || quiet < wait-sampleTime/10 || now.Before(t.quietUntil) {
			return false
		}
		t.armed = false // until something came in again: much traffic has no replies at all
		return true
	}
	return false
}

// sample takes in how many packets passed the uplink, without our own.
func (j *judge) sample(now time.Time, c Counter) {
	if !j.probing() {
		return
	}
	wait := min(max(2*j.quality.rtt, sampleTime), time.Second)
	if j.traffic.sample(now, c, wait) && !j.suspicion.on && j.state != Down {
		j.suspect(now)
		j.suspicion.alarm = true
	}
	for i := range j.flight.batches {
		if b := &j.flight.batches[i]; !b.based {
			b.base, b.based = c, true
		}
	}
}

// excused reports whether replies that came in after b was sent show that the
// uplink works although b is lost. They must be a matter of both directions, not
// much less than usual, and of more than what even a dead line has. Where the
// other family is well, they are that one's.
func (j *judge) excused(now time.Time, b *batch) bool {
	if !b.based || j.certain || now.Sub(j.alive) > excuseTime || j.beside.well(b.sent) {
		return false
	}
	last, base := &j.traffic.last, &b.base
	in, out := int64(last.In-base.In), int64(last.Out-base.Out)
	window := j.traffic.at.Sub(b.sent)
	enough := time.Duration(in)*j.settings.Interval >= 5*window
	usual := float64(in) >= j.traffic.usual/4*window.Seconds()
	large := int64(last.InBytes-base.InBytes) >= largeIn*in || int64(last.OutBytes-base.OutBytes) >= largeOut*out
	return enough && usual && large && in >= 2 && out >= 2 && in >= out/16
}

// well reports whether targets answer the leg, up to when the other leg of its
// uplink sent something: by then its probe of an interval and a round trip before
// has been answered. A leg that is not there is not well.
func (j *judge) well(sent time.Time) bool {
	return j != nil && j.state != Down && !j.suspicion.on && j.answered.After(sent.Add(-j.settings.Interval-j.quality.rtt))
}
