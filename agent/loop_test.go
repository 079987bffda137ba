package agent

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/agent/api"
	"multiroute/nat"
)

// running runs the loop of a started daemon in a bubble of time, for f.
func running(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	runningWith(t, func() string { return twoUplinks }, f)
}

// runningWith is running with a configuration that is written in the bubble.
func runningWith(t *testing.T, cfg func() string, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := started(t, cfg())
		r.signals = make(chan os.Signal, 1)
		r.Reload = r.signals
		ctx, cancel := context.WithCancel(t.Context())
		r.stop = cancel
		done := make(chan error, 1)
		go func() { done <- r.loop(ctx) }()
		r.after(2 * gap) // the first pass of the loop
		r.forget()
		f(t, r)
		r.k.meet()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the loop ended with %v", err)
		}
	})
}

// passes counts the passes since forget.
func (r *rig) passes() int {
	n := 0
	for _, c := range r.k.calls {
		if c == "facts" {
			n++
		}
	}
	return n
}

func TestLoopLooksByItself(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		r.after(10*resync + resync/2)
		if n := r.passes(); n != 10 {
			t.Errorf("%d passes, want 10", n)
		}
		r.wrote()
	})
}

// A rule's hours begin and end to the second, whenever the loop looks by itself.
func TestLoopHours(t *testing.T) {
	t.Parallel()
	var begin time.Time
	const minutes = 2
	config := func() string {
		time.Sleep(resync * 3 / 10)
		begin = time.Now().Truncate(time.Minute).Add(time.Minute)
		return twoUplinks + "\n[[rule]]\nuplink = \"b\"\nhours = \"" + begin.Format("15:04") + "-" + begin.Add(minutes*time.Minute).Format("15:04") + "\"\n"
	}
	runningWith(t, config, func(t *testing.T, r *rig) {
		for _, c := range []struct {
			at    time.Time
			holds bool
		}{{begin.Add(-time.Second), false}, {begin.Add(2 * time.Second), true}, {begin.Add(minutes*time.Minute - time.Second), true}, {begin.Add(minutes*time.Minute + 2*time.Second), false}} {
			r.after(time.Until(c.at))
			if got := slices.Contains(r.k.state.Chains(), "rules"); got != c.holds {
				t.Errorf("%v after the rule begins: in force: %v", c.at.Sub(begin), got)
			}
		}
	})
}

func TestLoopReacts(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		r.carrier("eth1", false)
		r.changed()
		r.after(gap)
		r.holds()
		if len(r.k.deleted) != 1 {
			t.Errorf("deleted %#x", r.k.deleted)
		}
	})
}

// A storm of events costs a bounded number of passes.
func TestLoopStorm(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		for range 1000 {
			r.changed()
			r.after(time.Millisecond)
		}
		if n, most := r.passes(), int(time.Second/gap)+2; n > most || n < 10 {
			t.Errorf("%d passes in a second, want at most %d", n, most)
		}
	})
}

// A failed pass is tried again, less and less often, and logged once.
func TestLoopRetries(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		broken := true
		r.k.failWith = func(call string) bool { return broken && call == "read routes" }
		r.changed()
		r.after(time.Minute)
		if n := r.passes(); n < 15 || n > 30 {
			t.Errorf("%d tries in a minute", n)
		}
		if log := r.log.take(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "again_in=100ms") {
			t.Errorf("log:\n%s", log)
		}
		if s := r.status(); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "the kernel said no") {
			t.Errorf("status says %q", s.Warnings)
		}
		broken = false
		r.after(resync)
		if log := r.log.take(); !strings.Contains(log, "the kernel holds the wanted state again") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A pass that fails once is tried again soon, not at the next resync.
func TestLoopRetriesSoon(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		r.carrier("eth1", false)
		failed := false
		r.k.failWith = func(call string) bool {
			defer func() { failed = failed || strings.HasPrefix(call, "delete connections") }()
			return !failed && strings.HasPrefix(call, "delete connections")
		}
		r.changed()
		r.after(retryMin + 2*gap)
		r.holds()
		if len(r.k.deleted) != 1 {
			t.Errorf("deleted %#x", r.k.deleted)
		}
	})
}

func TestLoopRepairs(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		r.k.have.Rules = r.k.have.Rules[1:]
		r.changed()
		r.after(patience / 2)
		r.wrote()
		r.after(patience)
		r.holds()
		if r.drift.repairs != 1 {
			t.Errorf("%d repairs", r.drift.repairs)
		}
	})
}

// What a reload by signal leaves to be done is done soon.
func TestLoopReloadSignal(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		r.write(onlyB)
		r.signals <- syscall.SIGHUP
		r.after(0)
		r.holds()
		if r.cfg.Uplink("a") != nil {
			t.Error("a is still configured")
		}

		r.write("[router]\nlan = 3\n")
		r.forget()
		r.signals <- syscall.SIGHUP
		r.after(0)
		if len(r.k.calls) > 0 {
			t.Errorf("the kernel was asked %q", r.k.calls)
		}
		if log := r.log.take(); !strings.Contains(log, "reload failed; the old configuration stays in force") {
			t.Errorf("log:\n%s", log)
		}

		r.write(onlyB)
		r.k.state = nat.State{}
		r.signals <- syscall.SIGHUP
		r.after(2 * patience)
		r.holds()
	})
}

// A closed channel of signals is no flood of reloads.
func TestLoopNoSignals(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		close(r.signals)
		r.after(time.Second)
		if n := r.passes(); n > 1 {
			t.Errorf("%d passes", n)
		}
	})
}

func TestHandler(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		h := &handler{d: r.daemon, ctx: ctx}
		s, err := h.Status(ctx)
		if err != nil || !s.Ready || s.Version != "test" || s.Config.Generation != 1 || len(s.Uplinks) != 2 {
			t.Errorf("status %+v, %v", s, err)
		}
		u := s.Uplinks[0]
		if u.State != api.Up || u.Reason != nil || *u.Connections != 7 || *s.Uplinks[1].Connections != 0 || u.Gateway.String() != "192.0.2.1" || u.Gateway6 != nil || u.Mark != markA || u.Table != 20001 {
			t.Errorf("uplink %+v", u)
		}
		if p := s.Policies[0]; p.Name != "default" || *p.Tier != 0 || len(p.Members) != 2 {
			t.Errorf("policy %+v", p)
		}
		for what, part := range map[string]string{api.ShowNFT: "table inet multiroute {", api.ShowRoutes: "ip -4 rule pref 10000 lookup main"} {
			if text, err := h.Show(ctx, what); err != nil || !strings.HasPrefix(text, part) {
				t.Errorf("show %s: %q, %v", what, text, err)
			}
		}
		if text, err := h.Plan(ctx); err != nil || text != "" {
			t.Errorf("plan: %q, %v", text, err)
		}
		r.forget()
		r.write(onlyB)
		text, err := h.Plan(ctx)
		for _, part := range []string{"nft delete chain inet multiroute mark-1-a\n", "ip -4 rule del pref 10200 fwmark 0x1000000/0xff000000", "ip -4 route replace default via 198.51.100.1 dev eth2 table 20003"} {
			if !strings.Contains(text, part) {
				t.Errorf("plan lacks %q:\n%s", part, text)
			}
		}
		if err != nil {
			t.Error(err)
		}
		r.wrote()
		got, err := h.Reload(ctx, 0)
		if err != nil || !got.Changed || got.Generation != 2 {
			t.Errorf("reload %+v, %v", got, err)
		}
		r.holds()
		r.write("wrong")
		if _, err := h.Reload(ctx, 0); err == nil {
			t.Error("no error")
		}
		if _, err := h.Plan(ctx); err == nil {
			t.Error("no error")
		}
		if err := h.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// Who asks while the daemon ends gets an answer.
func TestHandlerAfterTheEnd(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&handler{d: r.daemon, ctx: ended}).Status(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := (&handler{d: r.daemon, ctx: t.Context()}).Status(ended); err == nil {
		t.Error("no error")
	}
}

// What happens to uplinks is dealt with before questions, however many there
// are; and a question is answered however much happens.
func TestLoopQuestionsWait(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		const answer = 5 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := &handler{d: r.daemon, ctx: ctx}
		for range 12 {
			go func() {
				for h.ask(ctx, func() { time.Sleep(answer) }) == nil {
				}
			}()
		}
		for i := range 50 {
			r.after(100 * time.Millisecond)
			r.forget()
			r.changed()
			r.after(2 * answer)
			if r.passes() == 0 {
				t.Errorf("change %d waits for questions", i)
			}
		}
		var over atomic.Bool
		var storm sync.WaitGroup
		storm.Go(func() {
			for !over.Load() {
				r.changed()
				time.Sleep(time.Millisecond)
			}
		})
		for range 100 {
			if err := h.ask(ctx, func() {}); err != nil {
				t.Fatal(err)
			}
		}
		over.Store(true)
		storm.Wait()
	})
}
