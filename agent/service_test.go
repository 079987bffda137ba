package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/agent/notify"
)

// listener is a service manager that remembers what it was told.
type listener struct {
	k     *fake // orders what it hears
	every time.Duration
	heard []string
	deaf  bool
}

func (l *listener) Every() time.Duration { return l.every }

func (l *listener) Send(messages ...string) error {
	l.k.met.Lock()
	defer l.k.met.Unlock()
	if l.deaf {
		return errors.New("nobody listens")
	}
	l.heard = append(l.heard, messages...)
	return nil
}

// take returns and forgets what was heard, except food.
func (l *listener) take() []string {
	l.k.met.Lock()
	defer l.k.met.Unlock()
	heard := slices.DeleteFunc(l.heard, func(s string) bool { return s == notify.Watchdog })
	l.heard = nil
	for i, s := range heard {
		if strings.HasPrefix(s, "RELOADING=1\nMONOTONIC_USEC=") {
			heard[i] = "RELOADING"
		}
	}
	return heard
}

// managed runs the loop of a daemon under a service manager, for f.
func managed(t *testing.T, every time.Duration, f func(t *testing.T, r *rig, l *listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twoUplinks)
		l := &listener{k: r.k, every: every}
		r.service = l
		r.signals = make(chan os.Signal, 1)
		r.Reload = r.signals
		if err := r.start(r.load()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.loop(ctx) }()
		r.after(2 * gap)
		f(t, r, l)
		r.k.meet()
		l.take()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := l.take(); !l.deaf && !slices.Equal(got, []string{notify.Stopping}) {
			t.Errorf("at the end it heard %q", got)
		}
	})
}

func (l *listener) hears(t *testing.T, want ...string) {
	t.Helper()
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("the service manager heard\n  %q, want\n  %q", got, want)
	}
}

const allUp = "STATUS=2 of 2 uplinks up; generation "

func TestServiceHears(t *testing.T) {
	t.Parallel()
	managed(t, 0, func(t *testing.T, r *rig, l *listener) {
		l.hears(t, allUp+"1", notify.Ready)
		r.after(time.Minute)
		l.hears(t) // what it knows already

		r.carrier("eth1", false)
		r.changed()
		r.after(gap)
		l.hears(t, "STATUS=1 of 2 uplinks up (a down); generation 1")
		r.carrier("eth1", true)
		r.changed()
		r.after(gap)
		l.hears(t, allUp+"1")

		r.write(onlyB)
		r.signals <- syscall.SIGHUP
		r.after(gap)
		l.hears(t, "RELOADING", "STATUS=1 of 1 uplinks up; generation 2", notify.Ready)

		r.write("[router]\nlan = 7\n")
		r.signals <- syscall.SIGHUP
		r.after(gap)
		got := l.take()
		if len(got) != 3 || got[0] != "RELOADING" || !strings.HasPrefix(got[1], "STATUS=1 of 1 uplinks up; generation 2; configuration: "+r.path+":") || got[2] != notify.Ready {
			t.Errorf("a wrong configuration: it heard %q", got)
		}
	})
}

// The socket's reload is the signal's.
func TestServiceHearsReloadBySocket(t *testing.T) {
	t.Parallel()
	managed(t, 0, func(t *testing.T, r *rig, l *listener) {
		l.take()
		r.write(onlyB)
		h := &handler{d: r.daemon, ctx: t.Context()}
		if _, err := h.Reload(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		r.after(gap)
		l.hears(t, "RELOADING", "STATUS=1 of 1 uplinks up; generation 2", notify.Ready)
		if err := h.SetUplink(t.Context(), "b", false, 0); err != nil {
			t.Fatal(err)
		}
		r.after(gap)
		l.hears(t, "STATUS=0 of 1 uplinks up (b disabled); generation 2")
	})
}

// An owner that is stuck does not feed the watchdog; one that has nothing to do
// does.
func TestServiceWatchdog(t *testing.T) {
	t.Parallel()
	const every = 10 * time.Second
	managed(t, every, func(t *testing.T, r *rig, l *listener) {
		l.heard = nil
		r.after(2 * every)
		if want := slices.Repeat([]string{notify.Watchdog}, 4); !slices.Equal(l.heard, want) {
			t.Errorf("it was fed %q, want %q", l.heard, want)
		}
		l.heard = nil
		stuck := make(chan struct{})
		r.calls <- func() { <-stuck }
		r.after(every)
		if len(l.heard) > 0 {
			t.Errorf("a stuck owner said %q", l.heard)
		}
		close(stuck)
	})
}

// A manager that does not hear is told again, and the log says so once.
func TestServiceDeaf(t *testing.T) {
	t.Parallel()
	managed(t, 0, func(t *testing.T, r *rig, l *listener) {
		l.take()
		l.deaf = true
		r.signals <- syscall.SIGHUP
		r.after(3 * resync)
		if log := r.log.take(); strings.Count(log, "nobody listens") != 1 {
			t.Errorf("log:\n%s", log)
		}
		l.deaf = false
		r.after(resync)
		l.hears(t, allUp+"1", notify.Ready)
	})
}
