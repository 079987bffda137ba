//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// watcher counts changes of the uplinks' states.
type watcher struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	changes, downs int    // read them after stop
	last           string // what the last change was
}

// watch asks for the uplinks' states all the time.
func (t *town) watch(ctx context.Context) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel}
	last := map[string]api.UplinkStatus{}
	ask := func() {
		s, err := t.agent.Status(ctx)
		if err != nil {
			return
		}
		for _, u := range s.Uplinks {
			before, known := last[u.Name]
			last[u.Name] = u
			if !known || before.State == u.State && (before.Since == nil || u.Since == nil || before.Since.Equal(*u.Since)) {
				continue
			}
			w.changes++
			if w.last = u.Name + " " + string(u.State); u.Reason != nil {
				w.last += ": " + *u.Reason
			}
			if u.State == api.Down {
				w.downs++
			}
		}
	}
	ask()
	w.wait.Go(func() {
		for sleep(ctx, 20*time.Millisecond) == nil {
			ask()
		}
	})
	return w
}

// stop ends the questions.
func (w *watcher) stop() {
	w.cancel()
	w.wait.Wait()
}

// outages are too short for a verdict.
func outages(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	t, err := b.open(ctx, lab.NewRouter, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	u := t.Uplinks[0]
	if err := t.bystanders(ctx, t.Uplinks[1]); err != nil {
		return nil, err
	}
	var rows []row
	for _, d := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
		w := t.watch(ctx)
		for i := range b.rounds {
			b.progressed(c.name, i, d.String())
			err := u.Provider.Blackhole(true)
			if err == nil {
				err = sleep(ctx, d)
			}
			if err == nil {
				err = u.Provider.Blackhole(false)
			}
			if err == nil {
				err = sleep(ctx, 2*time.Second+time.Duration(i*137%500)*time.Millisecond)
			}
			if err != nil {
				return rows, err
			}
		}
		w.stop()
		rows = append(rows, counted(c.name, d.String(), "transitions "+w.last, w.changes, 0))
	}
	unharmed, err := t.unharmed(ctx, c.name, t.Uplinks[1])
	return append(rows, unharmed...), err
}

// randomLoss is 5 % of all packets, with one of the targets dead and all CPUs busy.
func randomLoss(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	t, err := b.open(ctx, lab.NewRouter, lab.Options{})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	for range runtime.NumCPU() {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
	}
	for _, u := range t.Uplinks {
		if err := u.Provider.Break(lab.Fault{Far: lab.Targets[2]}, lab.Fault{Percent: 5, Way: lab.FromCustomer}); err != nil {
			return nil, err
		}
	}
	w := t.watch(ctx)
	for begin := time.Now(); time.Since(begin) < 10*time.Minute; {
		fmt.Fprintf(b.progress, "\r%s: %.0f s ", c.name, time.Since(begin).Seconds())
		if err := sleep(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	w.stop()
	return []row{counted(c.name, "transitions to down", fmt.Sprintf("and %d others", w.changes-w.downs), w.downs, 0)}, nil
}

// flapping is a loose plug.
func flapping(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	t, err := b.open(ctx, lab.NewRouter, lab.Options{}, "[health]\nhold_down = \"1s\"\n")
	if err != nil {
		return nil, err
	}
	defer t.Close()
	healthy, u := t.Uplinks[0], t.Uplinks[1]
	if err := t.bystanders(ctx, healthy); err != nil {
		return nil, err
	}
	for _, hertz := range []int{1, 5, 20} {
		half := time.Second / time.Duration(2*hertz)
		for begin := time.Now(); time.Since(begin) < time.Minute; {
			fmt.Fprintf(b.progress, "\r%s: %d Hz, %.0f s ", c.name, hertz, time.Since(begin).Seconds())
			for _, on := range []bool{false, true} {
				if err := u.Carrier(on); err != nil {
					return nil, err
				}
				if err := sleep(ctx, half); err != nil {
					return nil, err
				}
			}
		}
	}
	return t.unharmed(ctx, c.name, healthy)
}
