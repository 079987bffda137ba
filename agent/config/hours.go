package config

import (
	"slices"
	"time"
)

// day is one that lasts as long as most do.
const day = 24 * time.Hour

// ActiveAt reports whether r's hours and days include t, by the clock on the
// wall in t's location. A span over midnight belongs to the day it begins on.
// What the clock shows twice counts twice; what it leaves out never comes.
func (r *Rule) ActiveAt(t time.Time) bool {
	now, today := sinceMidnight(t), t.Weekday()
	yesterday := (today + 6) % 7
	switch {
	case r.Hours == nil:
		return r.onDay(today)
	case r.Hours.From <= r.Hours.To:
		return r.Hours.From <= now && now < r.Hours.To && r.onDay(today)
	}
	return now >= r.Hours.From && r.onDay(today) || now < r.Hours.To && r.onDay(yesterday)
}

// onDay reports whether r has a span that begins on d.
func (r *Rule) onDay(d time.Weekday) bool { return len(r.Days) == 0 || slices.Contains(r.Days, d) }

// NextChange returns the first time after t at which ActiveAt of a rule is not
// what it was just before, in t's location; zero if that never happens. Who
// waits for it must look again when the clock or the time zone is set.
func (c *Config) NextChange(t time.Time) time.Time {
	t = t.Round(0) // without the monotonic clock, which stands still while the machine sleeps
	var next time.Time
	for i := range c.Rules {
		if n := c.Rules[i].nextChange(t); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return next
}

// nextChange is NextChange for one rule.
func (r *Rule) nextChange(t time.Time) time.Time {
	if r.Hours == nil && len(r.Days) == 0 {
		return time.Time{}
	}
	// A weekly span that the clock leaves out comes two weeks later.
	active, end := r.ActiveAt(t), t.Add(16*day)
	for t = r.nextEdge(t); t.Before(end); t = r.nextEdge(t) {
		if r.ActiveAt(t) != active {
			return t
		}
	}
	return time.Time{}
}

// nextEdge returns the first time after t at which ActiveAt could change:
// midnight, a beginning or an end, and when the clock is set for summer or winter.
func (r *Rule) nextEdge(t time.Time) time.Time {
	now := sinceMidnight(t)
	wait := day - now
	if r.Hours != nil {
		for _, edge := range []time.Duration{r.Hours.From, r.Hours.To} {
			if edge > now {
				wait = min(wait, edge-now)
			}
		}
	}
	next := t.Add(wait)
	if _, end := t.ZoneBounds(); !end.IsZero() && end.Before(next) {
		return end
	}
	return next
}

// sinceMidnight returns what the clock on the wall shows.
func sinceMidnight(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}
