package agent

import (
	"fmt"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
)

// disabled are the uplinks that somebody took out by hand, by name, and until
// when (zero: until somebody puts them back).
type disabled map[string]time.Time

// reasons says for each of them why it is not used.
func (l disabled) reasons() map[string]string {
	texts := make(map[string]string, len(l))
	for name, until := range l {
		texts[name] = fmt.Sprintf("taken out by hand (agent uplink enable %s)", name)
		if !until.IsZero() {
			texts[name] = fmt.Sprintf("taken out by hand until %s (agent uplink enable %s)", until.Format(time.RFC3339), name)
		}
	}
	return texts
}

// expire puts back those whose time is over, or who are not configured any
// more, and reports whether there were any.
func (l disabled) expire(now time.Time, cfg *config.Config) bool {
	some := false
	for name, until := range l {
		if over := !until.IsZero() && !now.Before(until); over || cfg.Uplink(name) == nil {
			delete(l, name)
			some = true
		}
	}
	return some
}

// setUplink takes an uplink out, for length (0: for good), or puts it back. If
// the kernel refuses that it is undone, unless it refused something before.
func (d *daemon) setUplink(name string, enabled bool, length time.Duration) error {
	u := d.cfg.Uplink(name)
	switch {
	case u == nil:
		var known []string
		for _, u := range d.cfg.Uplinks {
			known = append(known, u.Name)
		}
		return api.UnknownUplink(name, known)
	case enabled && !u.Enabled:
		return fmt.Errorf("uplink %s is disabled in the configuration: remove enabled = false at %s and reload", name, u.Pos)
	}
	before, was := d.disabled[name]
	if enabled {
		delete(d.disabled, name)
	} else {
		until := time.Time{}
		if length > 0 {
			until = time.Now().Add(length).Round(0) // the wall clock: it goes on while the machine sleeps
		}
		d.disabled[name] = until
	}
	if d.failing != "" { // that is not this change's fault
		d.report(d.pass(time.Now()))
		return nil
	}
	if err := d.try(time.Now()); err != nil {
		delete(d.disabled, name)
		if was {
			d.disabled[name] = before
		}
		d.report(d.pass(time.Now()))
		return fmt.Errorf("the kernel refused the change, it is undone: %w", err)
	}
	d.report(nil)
	return nil
}
