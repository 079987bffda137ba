package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// attempt carries out the operations of one change, which may come in stages,
// and goes on after those that the kernel refuses: one uplink's wrong gateway
// must not keep the others from being switched over. What was to come after a
// refused operation was ordered so for a reason (see Diff), so it leaves out
// what would be unsafe now:
//
//   - a rule that leads to a table in which something was refused, and no last
//     resort stands behind it: its packets would find half a table,
//   - the deletion of a rule whose successor, the rule for the same packets,
//     could not be added,
//   - the deletion of a route from a table in which something was refused, as
//     that may be what replaces it, or to which such an old rule still leads,
//   - a nexthop whose own table could not be written, in routes that choose
//     among several: the second packet of its connections would find no way.
//     The others of the route are written, and nothing if there are none.
//
// After an error that says nothing about one uplink (no privilege, no memory, a
// timeout, and any about a new rule: rules depend on nothing outside) nothing
// more is tried.
type attempt struct {
	broken  map[tableKey]bool
	holes   map[hole]bool       // refused in a broken table, with nothing behind
	last    map[hole]bool       // where a last resort was written
	kept    map[tableKey]bool   // old rules lead there that should have gone
	lost    map[selector]bool   // no rule for these packets could be added
	refused map[nexthopKey]bool // by the kernel, as the only one of a route
	stopped error
}

type tableKey struct {
	family Family
	number int
}

// hole is a destination in a table.
type hole struct {
	table tableKey
	dst   netip.Prefix
}

type nexthopKey struct {
	family  Family
	index   int
	gateway netip.Addr
}

// selector is which packets a rule is for.
type selector struct {
	family     Family
	mark, mask uint32
	from       netip.Prefix
	forwarded  bool
}

func (r Rule) selector() selector { return selector{r.Family, r.Mark, r.Mask, r.From, r.Forwarded} }

func (o Op) table() tableKey {
	if o.Rule != nil {
		return tableKey{o.Rule.Family, o.Rule.Table}
	}
	return tableKey{o.Route.Family, o.Route.Table}
}

func newAttempt() *attempt {
	return &attempt{broken: map[tableKey]bool{}, holes: map[hole]bool{}, last: map[hole]bool{}, kept: map[tableKey]bool{}, lost: map[selector]bool{}, refused: map[nexthopKey]bool{}}
}

// apply carries out ops in order by write and returns the errors of all of them.
func (a *attempt) apply(ops []Op, write func(Op) error) error {
	if a.stopped != nil && len(ops) > 0 {
		return fmt.Errorf("not tried after an earlier error: %s: %w", brief(ops), a.stopped)
	}
	var errs []error
	var left []Op
	ofOne := true
	for i, op := range ops {
		possible, ok := a.admit(op)
		if !ok {
			a.fail(op)
			left = append(left, op)
			continue
		}
		err := write(possible)
		if err == nil {
			a.done(op)
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w%s", possible, err, hint(possible, err)))
		a.fail(op)
		ofOne = ofOne && ofUplink(possible, err)
		if op.Rule != nil && op.Verb == Add || !isOpinion(err) {
			a.stopped = err
			left = append(left, ops[i+1:]...)
			break
		}
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("not tried after an earlier error: %s", brief(left)))
	}
	err := errors.Join(errs...)
	if err != nil && ofOne && a.stopped == nil {
		return RefusedError{err}
	}
	return err
}

// RefusedError is what Apply returns where the kernel refused only what leads to
// single uplinks, such as one whose gateway is wrong or whose interface has just
// gone. All else was done.
type RefusedError struct{ Err error }

func (e RefusedError) Error() string { return e.Err.Error() }

func (e RefusedError) Unwrap() error { return e.Err }

// Refused reports whether err is a RefusedError, or several of them joined and
// nothing else.
func Refused(err error) bool {
	if _, ok := err.(RefusedError); ok {
		return true
	}
	joined, ok := err.(interface{ Unwrap() []error })
	return ok && !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !Refused(err) })
}

// ofUplink reports whether the kernel refused op because of an uplink. Of
// several next hops together it says the same without multipath.
func ofUplink(op Op, err error) bool {
	return op.Verb == Replace && (len(op.Route.Nexthops) == 1 || len(op.Route.Nexthops) > 1 && !errors.Is(err, unix.EINVAL))
}

// admit returns what of op is safe after what was refused before it; false:
// nothing.
func (a *attempt) admit(op Op) (Op, bool) {
	switch {
	case op.Rule != nil && op.Verb == Add:
		for h := range a.holes {
			if h.table == op.table() {
				return op, false
			}
		}
		return op, true
	case op.Rule != nil:
		return op, !a.lost[op.Rule.selector()]
	case op.Verb == Delete:
		return op, !a.broken[op.table()] && !a.kept[op.table()]
	}
	bad := func(n Nexthop) bool { return a.refused[nexthopKey{op.Route.Family, n.Index, n.Gateway}] }
	if !slices.ContainsFunc(op.Route.Nexthops, bad) {
		return op, true
	}
	r := *op.Route
	r.Nexthops = slices.DeleteFunc(slices.Clone(r.Nexthops), bad)
	if len(r.Nexthops) == 1 {
		r.Nexthops[0].Weight = 1
	}
	op.Route = &r
	return op, len(r.Nexthops) > 0
}

// done notes that op was carried out.
func (a *attempt) done(op Op) {
	if op.Verb == Replace && op.Route.Metric == MetricLast {
		h := hole{op.table(), op.Route.Dst}
		a.last[h] = true
		delete(a.holes, h)
	}
}

// fail notes that op was not carried out.
func (a *attempt) fail(op Op) {
	switch {
	case op.Rule != nil && op.Verb == Add:
		a.lost[op.Rule.selector()] = true
	case op.Rule != nil:
		a.kept[op.table()] = true
	default:
		a.broken[op.table()] = true
		if h := (hole{op.table(), op.Route.Dst}); op.Verb == Replace && !a.last[h] {
			a.holes[h] = true
		}
		if op.Verb == Replace && len(op.Route.Nexthops) == 1 {
			n := op.Route.Nexthops[0]
			a.refused[nexthopKey{op.Route.Family, n.Index, n.Gateway}] = true
		}
	}
}

// isOpinion reports whether err is what the kernel thinks of one operation, and
// not of all we do.
func isOpinion(err error) bool {
	var number unix.Errno
	if !errors.As(err, &number) {
		return false
	}
	switch number {
	case unix.EPERM, unix.EACCES, unix.EAGAIN, unix.EINTR, unix.ENOMEM, unix.ENOBUFS, unix.EBADF:
		return false
	}
	return true
}

func brief(ops []Op) string {
	const most = 5
	var b strings.Builder
	for i, op := range ops {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(ops)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(op.String())
	}
	return b.String()
}
