// Package hooks runs a user's programs when uplinks change, and never holds up
// who tells it so.
package hooks

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Job is one change and the programs that are to hear of it, one after the
// other.
type Job struct {
	Uplink   string        // jobs of one uplink run in order, those of several side by side
	Programs []string      // absolute paths
	Limit    time.Duration // for each program
	Env      []string      // NAME=value; all that a program gets, but for PATH
}

const (
	// maxWaiting bounds the jobs of one uplink that wait; the oldest give way.
	maxWaiting = 32
	// maxRunning bounds the programs that run at once.
	maxRunning = 8
)

// Runner runs jobs. Its zero value cannot be used; see New.
type Runner struct {
	log  *slog.Logger
	exec func(ctx context.Context, program string, env []string) (output string, err error)

	mu      sync.Mutex
	waiting map[string][]Job // by uplink
	busy    map[string]bool  // uplinks one of whose jobs runs
	more    chan struct{}    // capacity 1: something waits
}

// New returns a Runner that writes what programs print, and how they fail, to
// log.
func New(log *slog.Logger) *Runner {
	return &Runner{log: log, exec: run, waiting: map[string][]Job{}, busy: map[string]bool{}, more: make(chan struct{}, 1)}
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
	r.wake()
}

func (r *Runner) wake() {
	select {
	case r.more <- struct{}{}:
	default: // it will look anyway
	}
}

// Run runs jobs until ctx ends; then it kills what still runs and returns nil.
func (r *Runner) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		for job, ok := r.next(); ok; job, ok = r.next() {
			running.Go(func() {
				r.job(ctx, job)
				r.done(job.Uplink)
			})
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
		if r.busy[uplink] {
			continue
		}
		r.busy[uplink] = true
		if r.waiting[uplink] = list[1:]; len(list) == 1 {
			delete(r.waiting, uplink)
		}
		return list[0], true
	}
	return Job{}, false
}

func (r *Runner) done(uplink string) {
	r.mu.Lock()
	delete(r.busy, uplink)
	r.mu.Unlock()
	r.wake()
}

// job runs the programs of a job.
func (r *Runner) job(ctx context.Context, j Job) {
	for _, program := range j.Programs {
		limited, cancel := context.WithTimeout(ctx, j.Limit)
		output, err := r.exec(limited, program, j.Env)
		late := limited.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case late:
			r.log.Warn("a hook took too long and was killed", "program", program, "uplink", j.Uplink, "limit", j.Limit, "output", output)
		case err != nil:
			r.log.Warn("a hook failed", "program", program, "uplink", j.Uplink, "err", err, "output", output)
		case output != "":
			r.log.Info("a hook says", "program", program, "uplink", j.Uplink, "output", output)
		}
	}
}
