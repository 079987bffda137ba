//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"multiroute/test/lab"
)

const (
	costUplinks = 16
	costTime    = 20 * time.Second // of each measurement
	costBound   = 1                // percent of a CPU
)

// cost is what the whole agent takes of a CPU while 16 uplinks are well, in both families, with default settings; and what it takes without probes.
func cost(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	var rows []row
	for _, m := range []struct{ what, health string }{
		{"whole agent", ""},
		{"without probes", "[health]\ntargets = []\ntargets6 = []\n"},
	} {
		values, err := b.percent(ctx, c, m.what, m.health)
		if err != nil {
			return rows, err
		}
		r := row{Case: c.name, What: m.what, Unit: "% of a CPU", Values: values, Bound: costBound}
		rows = append(rows, judged(r))
	}
	return rows, nil
}

// percent measures an agent at rest, as often as there are rounds, but not more than 5 times.
func (b *bench) percent(ctx context.Context, c benchCase, what, health string) ([]float64, error) {
	t, err := b.open(ctx, lab.NewRouter, lab.Options{Uplinks: costUplinks}, health)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if err := sleep(ctx, 3*time.Second); err != nil { // until the beginning is over
		return nil, err
	}
	var values []float64
	for i := range min(b.rounds, 5) {
		before, err := cpuTime(t.agent.PID())
		begin := time.Now()
		if err == nil {
			err = sleep(ctx, costTime)
		}
		if err != nil {
			return values, err
		}
		after, err := cpuTime(t.agent.PID())
		if err != nil {
			return values, err
		}
		values = append(values, 100*float64(after-before)/float64(time.Since(begin)))
		b.progressed(c.name, i, fmt.Sprintf("%s %.2f %%", what, values[i]))
	}
	return values, nil
}

// cpuTime is the processor time of all threads of a process. The kernel counts it in nanoseconds there; the usual place (stat) counts ticks of the
// clock, which miss what is awake for a moment only.
func cpuTime(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no schedstat: the kernel lacks CONFIG_SCHED_INFO, or the process has ended", pid)
	}
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return 0, fmt.Errorf("reading the processor time of a thread: %w", err)
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
