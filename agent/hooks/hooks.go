// Package hooks runs a user's programs when uplinks change, and never holds up
// who tells it so.
package hooks

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Job is one change and the programs that are to hear of it, one after the
// other. It is a value that encodes to JSON.
type Job struct {
	Uplink   string        `json:"uplink"`   // jobs of one uplink run in order, those of several side by side
	Programs []string      `json:"programs"` // absolute paths
	Limit    time.Duration `json:"limit"`    // for each program, in nanoseconds
	Env      []string      `json:"env"`      // NAME=value; all that a program gets, but for PATH

	// Again: the first program was interrupted once before. It is not begun a
	// third time: it may be what ends the agent.
	Again bool `json:"again,omitempty"`
}

const (
	// maxWaiting bounds the jobs of one uplink that wait; the oldest give way.
	maxWaiting = 32
	// maxRunning bounds the programs that run at once.
	maxRunning = 8
	// settle is how long after a program has failed it may turn out that the
	// agent is to end: the service manager may have ended both.
	settle = 100 * time.Millisecond
)

// Runner runs jobs. Its zero value cannot be used; see New.
type Runner struct {
	log  *slog.Logger
	exec func(ctx context.Context, program string, env []string) (output string, err error)

	mu      sync.Mutex
	waiting map[string][]Job // by uplink
	busy    map[string]Job   // the one that runs, by uplink, without the programs that have heard of it
	more    chan struct{}    // capacity 1: something waits
	told    chan struct{}    // capacity 1: a program has heard of a change
}

// New returns a Runner that writes what programs print, and how they fail, to
// log.
func New(log *slog.Logger) *Runner {
	return &Runner{log: log, exec: run, waiting: map[string][]Job{}, busy: map[string]Job{}, more: make(chan struct{}, 1), told: make(chan struct{}, 1)}
}

// Add has a job run soon. It never blocks.
func (r *Runner) Add(j Job) {
	if len(j.Programs) == 0 {
		return
	}
	r.mu.Lock()
	list := append(r.waiting[j.Uplink], j)
	lost := max(0, len(list)-maxWaiting)
	r.waiting[j.Uplink] = slices.Clone(list[lost:])
	r.mu.Unlock()
	if lost > 0 {
		r.log.Warn("hooks are slower than the changes: the oldest change that waited is skipped", "uplink", j.Uplink)
	}
	wake(r.more)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will look anyway
	}
}

// Told says that Pending is shorter than it was.
func (r *Runner) Told() <-chan struct{} { return r.told }

// Pending returns what programs have not heard yet, for another Runner: an
// uplink's jobs in order.
func (r *Runner) Pending() []Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Job
	for _, uplink := range slices.Sorted(maps.Keys(r.busy)) {
		j := r.busy[uplink]
		if j.Again {
			j.Programs = j.Programs[1:]
		}
		if j.Again = !j.Again; len(j.Programs) > 0 {
			all = append(all, j)
		}
	}
	for _, uplink := range slices.Sorted(maps.Keys(r.waiting)) {
		all = append(all, r.waiting[uplink]...)
	}
	return all
}

// Run runs jobs until ctx ends; then it kills what still runs and returns nil.
// What was not told by then is still pending.
func (r *Runner) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		for ctx.Err() == nil {
			job, ok := r.next()
			if !ok {
				break
			}
			running.Go(func() { r.job(ctx, job) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.more:
		}
	}
}

// next takes a job that may run now.
func (r *Runner) next() (Job, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.busy) >= maxRunning {
		return Job{}, false
	}
	for uplink, list := range r.waiting {
		if _, runs := r.busy[uplink]; runs {
			continue
		}
		r.busy[uplink] = list[0]
		if r.waiting[uplink] = list[1:]; len(list) == 1 {
			delete(r.waiting, uplink)
		}
		return list[0], true
	}
	return Job{}, false
}

// heard notes that the first program of an uplink's job has heard of it.
func (r *Runner) heard(uplink string) {
	r.mu.Lock()
	j := r.busy[uplink]
	if j.Programs, j.Again = j.Programs[1:], false; len(j.Programs) > 0 {
		r.busy[uplink] = j
	} else {
		delete(r.busy, uplink)
	}
	r.mu.Unlock()
	wake(r.told)
	wake(r.more)
}

// job runs the programs of a job.
func (r *Runner) job(ctx context.Context, j Job) {
	for _, program := range j.Programs {
		limited, cancel := context.WithTimeout(ctx, j.Limit)
		output, err := r.exec(limited, program, j.Env)
		late := errors.Is(limited.Err(), context.DeadlineExceeded)
		cancel()
		if err != nil && !late {
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case late:
			r.log.Warn("a hook took too long and was killed", "program", program, "uplink", j.Uplink, "limit", j.Limit, "output", output)
		case err != nil:
			r.log.Warn("a hook failed", "program", program, "uplink", j.Uplink, "err", err, "output", output)
		case output != "":
			r.log.Info("a hook says", "program", program, "uplink", j.Uplink, "output", output)
		}
		r.heard(j.Uplink)
	}
}
