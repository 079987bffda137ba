package config

import (
	"testing"
	"time"
	_ "time/tzdata" // where the system has none
)

const clockLayout = "2006-01-02 15:04:05 MST"

// spanOf makes a rule of hours such as "22:00-06:00" and days; both may be left out.
func spanOf(t *testing.T, hours string, days ...time.Weekday) Rule {
	t.Helper()
	r := Rule{Days: days}
	if hours != "" {
		h, ok := hourRange.check(&node{raw: hours}, func(_ *node, problem string) { t.Fatal(problem) }).(Hours)
		if !ok {
			t.Fatal(hours)
		}
		r.Hours = &h
	}
	return r
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// In Berlin the clock goes from 02:00 to 03:00 on Sunday, 2026-03-29, and from
// 03:00 back to 02:00 on Sunday, 2026-10-25. 2026-03-02 is a Monday.
func TestActiveAt(t *testing.T) {
	t.Parallel()
	const mon, tue, sat, sun = time.Monday, time.Tuesday, time.Saturday, time.Sunday
	workdays := []time.Weekday{mon, tue, time.Wednesday, time.Thursday, time.Friday}
	tests := []struct {
		name  string
		hours string
		days  []time.Weekday
		at    string
		want  bool
	}{
		{"nothing given", "", nil, "2026-03-02 12:00:00 CET", true},
		{"begins", "08:00-18:00", nil, "2026-03-02 08:00:00 CET", true},
		{"just before", "08:00-18:00", nil, "2026-03-02 07:59:59 CET", false},
		{"last second", "08:00-18:00", nil, "2026-03-02 17:59:59 CET", true},
		{"ends", "08:00-18:00", nil, "2026-03-02 18:00:00 CET", false},
		{"workday", "08:00-18:00", workdays, "2026-03-06 12:00:00 CET", true},
		{"weekend", "08:00-18:00", workdays, "2026-03-07 12:00:00 CET", false},
		{"day begins at midnight", "", []time.Weekday{mon}, "2026-03-02 00:00:00 CET", true},
		{"day ends at midnight", "", []time.Weekday{mon}, "2026-03-03 00:00:00 CET", false},
		{"Sunday's last second", "", []time.Weekday{sun}, "2026-03-01 23:59:59 CET", true},
		{"Sunday to Monday", "", []time.Weekday{sun}, "2026-03-02 00:00:00 CET", false},
		{"until 24:00", "22:00-24:00", []time.Weekday{mon}, "2026-03-02 23:59:59 CET", true},
		{"not after 24:00", "22:00-24:00", []time.Weekday{mon}, "2026-03-03 00:00:00 CET", false},
		{"until 00:00", "22:00-00:00", []time.Weekday{mon}, "2026-03-02 23:59:59 CET", true},
		{"not after 00:00", "22:00-00:00", []time.Weekday{mon}, "2026-03-03 00:00:00 CET", false},
		{"all day", "00:00-24:00", nil, "2026-03-02 23:59:59 CET", true},
		{"night, evening", "22:00-06:00", nil, "2026-03-02 22:00:00 CET", true},
		{"night, midnight", "22:00-06:00", nil, "2026-03-03 00:00:00 CET", true},
		{"night, morning", "22:00-06:00", nil, "2026-03-03 05:59:59 CET", true},
		{"night, over", "22:00-06:00", nil, "2026-03-03 06:00:00 CET", false},
		{"night of Sunday, Monday morning", "22:00-06:00", []time.Weekday{sun}, "2026-03-02 05:00:00 CET", true},
		{"night of Sunday, Sunday morning", "22:00-06:00", []time.Weekday{sun}, "2026-03-01 05:00:00 CET", false},
		{"night of Sunday, Monday evening", "22:00-06:00", []time.Weekday{sun}, "2026-03-02 23:00:00 CET", false},
		{"night of Saturday, Sunday morning", "22:00-06:00", []time.Weekday{sat}, "2026-03-01 05:00:00 CET", true},
		{"spring, before", "01:30-03:30", nil, "2026-03-29 01:59:59 CET", true},
		{"spring, after", "01:30-03:30", nil, "2026-03-29 03:00:00 CEST", true},
		{"spring, begins in the gap", "02:30-04:00", nil, "2026-03-29 03:00:00 CEST", true},
		{"spring, not before the gap", "02:30-04:00", nil, "2026-03-29 01:59:59 CET", false},
		{"spring, ends in the gap", "01:00-02:30", nil, "2026-03-29 03:00:00 CEST", false},
		{"autumn, first time", "02:00-02:30", nil, "2026-10-25 02:15:00 CEST", true},
		{"autumn, between", "02:00-02:30", nil, "2026-10-25 02:45:00 CEST", false},
		{"autumn, second time", "02:00-02:30", nil, "2026-10-25 02:15:00 CET", true},
		{"autumn, night of Saturday", "22:00-02:30", []time.Weekday{sat}, "2026-10-25 02:15:00 CET", true},
	}
	berlin := zone(t, "Europe/Berlin")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, at := spanOf(t, tt.hours, tt.days...), clock(t, berlin, tt.at)
			if got := r.ActiveAt(at); got != tt.want {
				t.Errorf("%q %v at %s: %v", tt.hours, tt.days, at, got)
			}
		})
	}
	// The same moment is another hour elsewhere.
	r, at := spanOf(t, "08:00-18:00"), clock(t, berlin, "2026-03-02 08:30:00 CET")
	if r.ActiveAt(at.UTC()) || !r.ActiveAt(at) {
		t.Error("ActiveAt does not look at the location")
	}
}

// clock reads a time that the clock shows in loc, in summer time (CEST) or not (CET).
func clock(t *testing.T, loc *time.Location, s string) time.Time {
	t.Helper()
	at, err := time.ParseInLocation(clockLayout, s, loc)
	if err != nil || at.Format(clockLayout) != s {
		t.Fatalf("%s is read as %s: %v", s, at, err)
	}
	return at
}

func TestNextChange(t *testing.T) {
	t.Parallel()
	const mon, fri, sat, sun = time.Monday, time.Friday, time.Saturday, time.Sunday
	tests := []struct {
		name  string
		rules []Rule
		at    string
		want  string // empty: never
	}{
		{"no rules", nil, "2026-03-02 12:00:00 CET", ""},
		{"always", []Rule{{}}, "2026-03-02 12:00:00 CET", ""},
		{"all day, every day", []Rule{spanOf(t, "00:00-24:00")}, "2026-03-02 12:00:00 CET", ""},
		{"every day of the week", []Rule{spanOf(t, "", 0, 1, 2, 3, 4, 5, 6)}, "2026-03-02 12:00:00 CET", ""},
		{"begins today", []Rule{spanOf(t, "08:00-18:00")}, "2026-03-02 07:59:59 CET", "2026-03-02 08:00:00 CET"},
		{"ends today", []Rule{spanOf(t, "08:00-18:00")}, "2026-03-02 08:00:00 CET", "2026-03-02 18:00:00 CET"},
		{"begins tomorrow", []Rule{spanOf(t, "08:00-18:00")}, "2026-03-02 18:00:00 CET", "2026-03-03 08:00:00 CET"},
		{"over the weekend", []Rule{spanOf(t, "08:00-18:00", mon, fri)}, "2026-03-06 18:00:00 CET", "2026-03-09 08:00:00 CET"},
		{"a week", []Rule{spanOf(t, "08:00-18:00", mon)}, "2026-03-02 18:00:00 CET", "2026-03-09 08:00:00 CET"},
		{"Sunday ends", []Rule{spanOf(t, "", sun)}, "2026-03-01 12:00:00 CET", "2026-03-02 00:00:00 CET"},
		{"weekend, no change between its days", []Rule{spanOf(t, "", sat, sun)}, "2026-02-28 12:00:00 CET", "2026-03-02 00:00:00 CET"},
		{"night goes on over midnight", []Rule{spanOf(t, "22:00-06:00")}, "2026-03-02 23:00:00 CET", "2026-03-03 06:00:00 CET"},
		{"night of Sunday", []Rule{spanOf(t, "22:00-06:00", sun)}, "2026-03-01 05:00:00 CET", "2026-03-01 22:00:00 CET"},
		{"night of Sunday ends", []Rule{spanOf(t, "22:00-06:00", sun)}, "2026-03-02 00:00:00 CET", "2026-03-02 06:00:00 CET"},
		{"00:00 ends the day", []Rule{spanOf(t, "22:00-00:00")}, "2026-03-02 23:00:00 CET", "2026-03-03 00:00:00 CET"},
		{"24:00 to 00:00 is no change", []Rule{spanOf(t, "00:00-24:00", mon, 2)}, "2026-03-02 12:00:00 CET", "2026-03-04 00:00:00 CET"},
		{"the earliest rule", []Rule{spanOf(t, "08:00-18:00"), spanOf(t, "07:00-19:00"), {}}, "2026-03-02 18:30:00 CET", "2026-03-02 19:00:00 CET"},
		{"spring, begins in the gap", []Rule{spanOf(t, "02:30-04:00")}, "2026-03-29 00:30:00 CET", "2026-03-29 03:00:00 CEST"},
		{"spring, ends in the gap", []Rule{spanOf(t, "01:00-02:30")}, "2026-03-29 01:30:00 CET", "2026-03-29 03:00:00 CEST"},
		{"spring, left out", []Rule{spanOf(t, "02:00-03:00")}, "2026-03-28 12:00:00 CET", "2026-03-30 02:00:00 CEST"},
		{"spring, left out and weekly", []Rule{spanOf(t, "02:00-03:00", sun)}, "2026-03-22 12:00:00 CET", "2026-04-05 02:00:00 CEST"},
		{"spring, after it", []Rule{spanOf(t, "08:00-18:00")}, "2026-03-29 01:00:00 CET", "2026-03-29 08:00:00 CEST"},
		{"autumn, ends", []Rule{spanOf(t, "02:00-02:30")}, "2026-10-25 02:00:00 CEST", "2026-10-25 02:30:00 CEST"},
		{"autumn, again", []Rule{spanOf(t, "02:00-02:30")}, "2026-10-25 02:30:00 CEST", "2026-10-25 02:00:00 CET"},
		{"autumn, ends again", []Rule{spanOf(t, "02:00-02:30")}, "2026-10-25 02:00:00 CET", "2026-10-25 02:30:00 CET"},
		{"autumn, a day of 25 hours", []Rule{spanOf(t, "", sun)}, "2026-10-25 00:00:00 CEST", "2026-10-26 00:00:00 CET"},
	}
	berlin := zone(t, "Europe/Berlin")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &Config{Rules: tt.rules}
			got := c.NextChange(clock(t, berlin, tt.at))
			if tt.want == "" && got.IsZero() {
				return
			}
			if s := got.Format(clockLayout); s != tt.want {
				t.Errorf("after %s: %s, want %s", tt.at, s, tt.want)
			}
		})
	}
}

// The monotonic clock stands still while the machine sleeps, and midnight comes.
func TestNextChangeIsWallClock(t *testing.T) {
	t.Parallel()
	c := &Config{Rules: []Rule{spanOf(t, "08:00-18:00")}}
	if next := c.NextChange(time.Now()); next != next.Round(0) {
		t.Errorf("%s has a monotonic clock", next)
	}
}

// Walking from change to change must see all that looking every five minutes
// sees, and nothing else, also where the clock is set at midnight or by half an hour.
func TestNextChangeMissesNothing(t *testing.T) {
	t.Parallel()
	rules := []Rule{
		spanOf(t, "08:00-18:00", 1, 2, 3, 4, 5),
		spanOf(t, "22:00-06:00", 0),
		spanOf(t, "23:30-00:30", 4, 6),
		spanOf(t, "00:00-01:00"),
		spanOf(t, "02:10-01:50", 0, 3),
		spanOf(t, "01:45-02:15", 0),
		spanOf(t, "", 0, 6),
	}
	places := []struct{ zone, from string }{
		{"UTC", "2026-03-01"},
		{"Europe/Berlin", "2026-03-20"},
		{"Europe/Berlin", "2026-10-16"},
		{"Africa/Cairo", "2024-04-18"}, // from 00:00 to 01:00
		{"Africa/Cairo", "2024-10-24"}, // from 24:00 to 23:00
		{"Australia/Lord_Howe", "2026-03-27"},
	}
	for _, p := range places {
		t.Run(p.zone+" "+p.from, func(t *testing.T) {
			t.Parallel()
			begin, err := time.ParseInLocation(time.DateOnly, p.from, zone(t, p.zone))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				c := &Config{Rules: []Rule{r}}
				active, next := r.ActiveAt(begin), c.NextChange(begin)
				changes := 0
				for at := begin; at.Before(begin.Add(15 * day)); at = at.Add(5 * time.Minute) {
					if at.Equal(next) {
						active, next = !active, c.NextChange(at)
						changes++
					}
					if at.After(next) || r.ActiveAt(at) != active {
						t.Fatalf("%v %v at %s: active %v, next change %s", r.Hours, r.Days, at, r.ActiveAt(at), next)
					}
				}
				if changes < 2 {
					t.Errorf("%v %v changes %d times", r.Hours, r.Days, changes)
				}
			}
		})
	}
}
