package health

import (
	"maps"
	"slices"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// counterRetry is how long after the counters could not be read it is tried
// again.
const counterRetry = 10 * time.Second

// Where nobody sends there is nothing to learn: the counters are read rarely
// until an uplink carries enough packets again for their stopping to mean
// something, or is suspected.
const (
	restTime = 500 * time.Millisecond // how often they are read then
	stirs    = 5                      // packets of others from one reading to the next
	stirTime = time.Second            // how long that holds
)

// meter keeps the probes' own packets, which are no traffic of others, and when
// the counters are read next.
type meter struct {
	own     map[int]Counter // by interface index
	next    time.Time       // zero: nobody needs them
	stirred time.Time       // when there was last a reason to read them often
}

// looked takes in what was read.
func (m *meter) looked(now time.Time, before, after Counter) {
	moved := func(a, b uint64) bool { return int64(b-a) >= stirs || int64(b-a) <= -stirs }
	if moved(before.In, after.In) || moved(before.Out, after.Out) {
		m.stirred = now
	}
}

// later returns when the counters are read again.
func (m *meter) later(now, epoch time.Time) time.Time {
	if now.Sub(m.stirred) > stirTime {
		now = now.Add(restTime - beat)
	}
	return onBeat(now, epoch)
}

// packets is about how many packets a probe and its answer are. Too many do
// little harm: replies are then seen a little later.
func packets(s config.Scheme) Counter {
	switch s {
	case config.TCP:
		return Counter{In: 1, Out: 2}
	case config.HTTP:
		return Counter{In: 5, Out: 5}
	case config.HTTPS:
		return Counter{In: 9, Out: 9}
	default:
		return Counter{In: 1, Out: 1}
	}
}

func (m *meter) sent(index int, s config.Scheme) {
	c := m.own[index]
	c.Out += packets(s).Out
	m.own[index] = c
}

func (m *meter) answered(index int, s config.Scheme) {
	c := m.own[index]
	c.In += packets(s).In
	m.own[index] = c
}

// keep forgets the interfaces that are nobody's any more: those of dial-up links
// are new ones each time.
func (m *meter) keep(legs []Watched) {
	maps.DeleteFunc(m.own, func(index int, _ Counter) bool {
		return !slices.ContainsFunc(legs, func(w Watched) bool { return w.Traffic == index })
	})
}

// others returns c without our own packets; their bytes are too few to matter.
// It may be less than 0 and wrap: only differences matter.
func (m *meter) others(index int, c Counter) Counter {
	own := m.own[index]
	c.In, c.Out = c.In-own.In, c.Out-own.Out
	return c
}

// count reads the counters if it is time; else nil.
func (m *Monitor) count() map[int]routes.Counter {
	if m.options.Counters == nil {
		return nil
	}
	m.mu.Lock()
	wanted, suspected := false, false
	for _, w := range m.order {
		if w.want.Traffic != 0 && w.probing() {
			wanted, suspected = true, suspected || w.suspicion.on
		}
	}
	now := time.Now()
	if suspected && m.meter.next.Sub(now) <= restTime { // else they cannot be read
		m.meter.stirred, m.meter.next = now, earlier(m.meter.next, onBeat(now, m.epoch))
	}
	due := wanted && !m.meter.next.After(now)
	switch {
	case !wanted:
		m.meter.next = time.Time{}
	case due:
		m.meter.next = m.meter.later(now, m.epoch)
	}
	m.mu.Unlock()
	if !due {
		return nil
	}
	c, err := m.options.Counters()
	if err != nil {
		m.options.Log.Warn("cannot count packets: the traffic says nothing about uplinks until it works again", "err", err)
		m.mu.Lock()
		m.meter.next = now.Add(counterRetry)
		m.mu.Unlock()
		return nil
	}
	return c
}
