package agent

import (
	"fmt"
	"slices"

	"multiroute/agent/doctor"
	"multiroute/routes"
)

// mostForeign is how many of other programs' nftables rules the agent looks at:
// that takes it some 10 ms and 4 MB. "agent doctor" looks at any number.
const mostForeign = 300

// lookAtOthers warns of what other programs' rules do to packets of ours. They
// are many, and change when somebody changes them: it is done at the start and at
// each reload.
func (d *daemon) lookAtOthers() {
	tables, err := d.table.ForeignUpTo(mostForeign)
	if err != nil || tables == nil {
		d.Log.Info("the nftables rules of others are not looked at: \"agent doctor\" does that", "more_than", mostForeign, "err", err)
	}
	before := d.others
	d.others = inOurWay(&doctor.Facts{Config: d.cfg, Plan: d.plan, Kernel: routes.Facts{Links: d.seen}, Tables: tables})
	for _, w := range d.others {
		if !slices.Contains(before, w) {
			d.Log.Warn(w)
		}
	}
}

// inOurWay is what doctor finds in the tables of others.
func inOurWay(f *doctor.Facts) []string {
	var all []string
	for _, w := range doctor.InOurWay(f) {
		all = append(all, fmt.Sprintf("%s: %s: %s", w.Subject, w.What, w.Remedy))
	}
	return all
}
