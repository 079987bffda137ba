package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/conntrack"
	"multiroute/routes"
)

// slow is a kernel that deletes when it is told to.
type slow struct {
	conntrack.Conn
	asked  []uint32
	answer chan error
}

func (s *slow) DeleteByMark(mark, _ uint32, _ uint8) error {
	s.asked = append(s.asked, mark)
	return <-s.answer
}

func (s *slow) DeleteOutgoing(mark, mask uint32, family uint8) error {
	return s.DeleteByMark(mark, mask, family)
}

// working runs the loop of a started daemon with three uplinks and a worker.
func working(t *testing.T, f func(*rig, *slow)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoUplinks+"[uplink.c]\ninterface = \"eth3\"\ngateway = \"203.0.113.1\"\ngateway6 = \"off\"\n")
		r.k.facts.Links = append(r.k.facts.Links, routes.Link{Name: "eth3", Index: 5, Up: true, Carrier: true})
		r.k.facts.Addrs = append(r.k.facts.Addrs, routes.Addr{Index: 5, Prefix: netip.MustParsePrefix("203.0.113.9/24"), Global: true, Usable: true})
		r.sysctl.Root = t.TempDir()
		r.dropIn("10-sysctls.toml", "[router]\nmanage_sysctls = false\n")
		if err := r.start(r.load()); err != nil {
			t.Fatal(err)
		}
		r.errands = newErrands()
		s := &slow{answer: make(chan error)}
		ended := make(chan bool)
		go func() { r.errands.run(s); close(ended) }()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.loop(ctx) }()
		r.after(4 * gap)
		r.forget()
		f(r, s)
		r.k.meet()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		<-ended
	})
}

// spreadOver reports whether the default policy's route in the kernel has as many
// next hops.
func (r *rig) spreadOver(hops int) bool {
	return slices.ContainsFunc(r.k.have.Routes, func(o routes.Route) bool {
		return o.Table == r.plan.Policies[0].Table && len(o.Nexthops) == hops
	})
}

// cable plugs a cable in or out and lets the loop notice.
func (r *rig) cable(name string, on bool) {
	r.carrier(name, on)
	r.changed()
	r.after(4 * gap)
}

// While connections of one uplink are deleted, however long that takes, another
// one's failover goes on; its connections are next.
func TestFailoverWhileDeleting(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		if !slices.Equal(s.asked, []uint32{markA}) || !r.spreadOver(2) {
			t.Fatalf("asked for %#x, routes\n%s", s.asked, r.k.have)
		}
		r.cable("eth2", false)
		if !slices.Equal(s.asked, []uint32{markA}) || !r.spreadOver(1) {
			t.Errorf("the second failover waits: asked for %#x, routes\n%s", s.asked, r.k.have)
		}
		from := func() bool {
			return slices.ContainsFunc(r.k.have.Rules, func(o routes.Rule) bool { return o.From == netip.MustParsePrefix("192.0.2.9/32") })
		}
		if !r.settled.Uplinks[0].Usable() || !from() {
			t.Error("settled, or the rules for its address removed, before the connections were gone")
		}
		s.answer <- nil
		r.after(4 * gap)
		s.answer <- nil
		r.after(4 * gap)
		if !slices.Equal(s.asked, []uint32{markA, markB}) || r.busy() || r.settled.Uplinks[1].Usable() || from() {
			t.Errorf("asked for %#x, busy %v; rules and routes\n%s", s.asked, r.busy(), r.k.have)
		}
		// What waited for the worker is nobody's doing.
		if log := r.log.take(); strings.Contains(log, "missing") || r.drift.repairs > 0 {
			t.Errorf("%d repairs; the log:\n%s", r.drift.repairs, log)
		}
	})
}

// What waits for the worker was not taken away by anybody.
func TestNothingMissingWhileDeleting(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		last := func() bool {
			return slices.ContainsFunc(r.k.have.Routes, func(o routes.Route) bool { return o.Table == r.plan.Uplinks[0].Table && o.Unreachable })
		}
		for range 2 * repairBurst {
			r.changed()
			r.after(4 * gap)
		}
		if log := r.log.take(); last() || r.drift.repairs > 0 || strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
			t.Errorf("%d repairs, log:\n%s", r.drift.repairs, log)
		}
		s.answer <- nil
		r.after(4 * gap)
		if !last() || r.owing || r.drift.repairs > 0 {
			t.Errorf("not finished: owing %v, %d repairs, routes\n%s", r.owing, r.drift.repairs, r.k.have)
		}
	})
}

// What the owner cannot leave to the worker is done before anything else happens:
// an uplink with a fixed source that goes on with another one gets new
// connections at once, and the old ones have the same mark.
func TestSourceMovesWithWorker(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.write(strings.Replace(twoUplinks, `"192.0.2.1"`, "\"192.0.2.1\"\naddresses = [\"192.0.2.11\"]", 1))
		r.k.facts.Addrs = append(r.k.facts.Addrs, routes.Addr{Index: 3, Prefix: netip.MustParsePrefix("192.0.2.11/24"), Global: true, Usable: true, Secondary: true})
		r.accept(r.load())
		r.changed()
		r.after(4 * gap)
		r.forget()
		r.write(strings.Replace(twoUplinks, `"192.0.2.1"`, "\"192.0.2.1\"\naddresses = [\"192.0.2.12\"]", 1))
		r.k.facts.Addrs = append(r.k.facts.Addrs, routes.Addr{Index: 3, Prefix: netip.MustParsePrefix("192.0.2.12/24"), Global: true, Usable: true, Secondary: true})
		r.accept(r.load())
		r.changed()
		r.after(4 * gap)
		if len(s.asked) > 0 || r.busy() || !slices.Contains(r.k.deleted, markA) {
			t.Errorf("the worker was asked for %#x, the owner deleted %#x", s.asked, r.k.deleted)
		}
	})
}

// What has failed is tried again until it succeeds, and said once.
func TestDeletingFails(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		for range 3 {
			s.answer <- errKernel
			r.after(retryMax)
		}
		if log := r.log.take(); strings.Count(log, "level=ERROR") != 1 || strings.Contains(log, "again\"") {
			t.Errorf("log:\n%s", log)
		}
		s.answer <- nil
		r.after(retryMax)
		if !slices.Equal(s.asked, []uint32{markA, markA, markA, markA}) || r.retry != 0 || r.settled.Uplinks[0].Usable() {
			t.Errorf("asked for %#x, retry %v", s.asked, r.retry)
		}
		if log := r.log.take(); !strings.Contains(log, "the kernel holds the wanted state again") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// An uplink that returns while its connections are deleted is not used before
// that is done: new ones would be deleted, too.
func TestReturnWhileDeleting(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		r.cable("eth1", true)
		if !r.spreadOver(2) || r.spreadOver(3) {
			t.Errorf("used too early:\n%s", r.k.have)
		}
		s.answer <- nil
		r.after(4 * gap)
		if !r.spreadOver(3) || r.busy() {
			t.Errorf("not used again:\n%s", r.k.have)
		}
	})
}

// An uplink whose connections are being moved to a better one is not used again
// before that is done, should the better one die: new ones would be deleted, too.
func TestStandInAgainWhileMoving(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.dropIn("20-tiers.toml", "[policy.default]\ntiers = [[\"a\"], [\"b\", \"c\"]]\nfailback = \"all\"\n")
		r.calls <- func() { _, _ = r.reload(0) }
		r.after(4 * gap)
		r.cable("eth1", false)
		s.answer <- nil
		r.after(4 * gap)
		r.cable("eth1", true)
		if !slices.Equal(s.asked, []uint32{markA, markB}) || !r.spreadOver(1) {
			t.Fatalf("asked for %#x, routes\n%s", s.asked, r.k.have)
		}
		r.cable("eth1", false)
		if !r.spreadOver(1) {
			t.Errorf("used too early:\n%s", r.k.have)
		}
		for range 3 { // the rest of the move, and a's own
			if r.k.meet(); !r.spreadOver(2) || r.busy() {
				s.answer <- nil
				r.after(4 * gap)
			}
		}
		if !r.spreadOver(2) || r.busy() {
			t.Errorf("asked for %#x, routes\n%s", s.asked, r.k.have)
		}
	})
}

// What somebody asks for waits for the worker, and is done when it returns.
func TestDisableWhileDeleting(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		asked := make(chan error, 1)
		r.calls <- func() { asked <- r.setUplink("b", false, 0) }
		r.after(time.Second)
		select {
		case err := <-asked:
			t.Errorf("it did not wait: %v", err)
		default:
		}
		s.answer <- nil
		if err := <-asked; err != nil {
			t.Error(err)
		}
		r.after(4 * gap)
		if !slices.Equal(r.k.deleted, []uint32{markB}) || !r.spreadOver(1) {
			t.Errorf("deleted %#x", r.k.deleted)
		}
	})
}

// The worker finishes what it has begun when the agent ends.
func TestEndWhileDeleting(t *testing.T) {
	t.Parallel()
	working(t, func(r *rig, s *slow) {
		r.cable("eth1", false)
		go func() { s.answer <- errors.Join() }() // later than the end of the loop, perhaps
	})
}
