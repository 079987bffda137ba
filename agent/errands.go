package agent

import (
	"slices"
	"time"

	"multiroute/agent/plan"
	"multiroute/routes"
)

// errands are what takes long where there are many connections: a worker does
// them, one at a time, with a connection to the kernel of its own, so that the
// next failover need not wait. Only run belongs to the worker, all else to the
// owner.
type errands struct {
	jobs    chan func(tracker) error // capacity 1, closed when the owner ends
	results chan error               // capacity 1
	then    func()                   // what the owner does when the job has succeeded; nil: there is none
	plan    plan.Plan                // in force when it began
	ends    []plan.End               // what it deletes by mark
}

// handover is how long the owner waits for the worker, which is enough where
// there are few connections: on a busy computer, going on at once would keep the
// worker from the CPU.
const handover = gap

func newErrands() *errands {
	return &errands{jobs: make(chan func(tracker) error, 1), results: make(chan error, 1)}
}

// run does the jobs until the owner ends; it finishes the last one.
func (e *errands) run(t tracker) {
	for job := range e.jobs {
		e.results <- job(t)
	}
}

// busy reports whether the worker has a job.
func (d *daemon) busy() bool { return d.errands != nil && d.errands.then != nil }

// wait waits until the worker has none, and returns what became of it.
func (d *daemon) wait() error {
	if !d.busy() {
		return nil
	}
	return d.finished(<-d.errands.results)
}

// finished ends a job. One that has failed is still owed: the next pass finds
// that it has to be done.
func (d *daemon) finished(err error) error {
	then := d.errands.then
	d.errands.then = nil
	if err == nil {
		then()
	}
	return err
}

// together reports whether the owner does a job itself and waits for it: at the
// start, and for what somebody asked for.
func (d *daemon) together() bool { return d.errands == nil || d.trying }

// later has a job done for plan p, and then what follows from its success. The
// worker must be free. ends is what the job deletes by mark.
func (d *daemon) later(together bool, p plan.Plan, ends []plan.End, job func(tracker) error, then func()) error {
	if together || d.together() {
		err := job(d.tracker)
		if err == nil {
			then()
		}
		return err
	}
	d.errands.then, d.errands.plan, d.errands.ends = then, p, ends
	d.errands.jobs <- job
	select {
	case err := <-d.errands.results:
		return d.finished(err)
	case <-time.After(handover):
		return nil
	}
}

// returnsEarly reports whether an uplink gets connections in p that it did not
// get when the worker began: it was not usable, or its connections were moved to
// a better one. What the worker deletes may be that uplink's, and must not be
// what begins there from now on.
func (d *daemon) returnsEarly(p plan.Plan) bool {
	if !d.busy() {
		return false
	}
	usable := slices.ContainsFunc(d.errands.plan.Uplinks, func(o plan.Uplink) bool {
		i := slices.IndexFunc(p.Uplinks, func(u plan.Uplink) bool { return u.ID == o.ID })
		return i >= 0 && slices.ContainsFunc(families[:], func(f routes.Family) bool {
			return !o.Leg(f).Usable && p.Uplinks[i].Leg(f).Usable
		})
	})
	return usable || slices.ContainsFunc(d.errands.ends, func(e plan.End) bool {
		return e.Outgoing && slices.ContainsFunc(p.Uplinks, func(u plan.Uplink) bool { return u.Mark == e.Mark && p.Serves(u.Name, e.Family, e.Of) })
	})
}
