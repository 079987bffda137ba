//go:build linux

package main

import (
	"context"
	"errors"
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
	costDelay   = 10 * time.Millisecond
	costMemory  = 40 // MB
)

// cost is what the whole agent takes of a CPU and of memory while 16 uplinks are well, in both families, with default settings: while nobody looks and
// while somebody has the status page open, in turn; and what it takes of a CPU without metrics and status page, and without probes.
func cost(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	rows, err := b.looking(ctx, c)
	for _, m := range []struct{ what, health string }{
		{"no page, no metrics", ""},
		{"and no probes", "[health]\ntargets = []\ntargets6 = []\n"},
	} {
		if err != nil {
			return rows, err
		}
		var values []float64
		values, err = b.resting(ctx, c, m.what, m.health)
		rows = append(rows, percents(c, m.what, values))
	}
	return rows, err
}

// percents is a row of shares of a CPU.
func percents(c benchCase, what string, values []float64) row {
	return judged(row{Case: c.name, What: what, Unit: "% of a CPU", Values: values, Bound: costBound})
}

// costRounds is how often each is measured: enough for a median, and a minute in all.
func (b *bench) costRounds() int { return min(b.rounds, 5) }

// crowd builds a town of 16 uplinks, each 20 ms there and back as real ones are, and waits until the beginning is over. What is sent into a cable of
// the laboratory passes provider and server, and is answered, before the sending returns: their work, too, would count as the agent's.
func (b *bench) crowd(ctx context.Context, http, health string) (*town, error) {
	options := lab.Options{Uplinks: costUplinks, Wires: map[int]lab.WireKind{}}
	for i := range costUplinks {
		options.Wires[i+1] = lab.Line
	}
	t, err := b.openWith(ctx, lab.NewRouter, options, http, health)
	if err != nil {
		return nil, err
	}
	for _, u := range t.Uplinks {
		u.Wire().Delay(costDelay)
	}
	if err := sleep(ctx, 3*time.Second); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// resting measures an agent that nobody looks at.
func (b *bench) resting(ctx context.Context, c benchCase, what, health string) ([]float64, error) {
	t, err := b.crowd(ctx, "", health)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var values []float64
	for i := range b.costRounds() {
		v, err := t.percent(ctx)
		if err != nil {
			return values, err
		}
		values = append(values, v)
		b.progressed(c.name, i, fmt.Sprintf("%s %.2f %%", what, v))
	}
	return values, nil
}

// looking measures an agent while the status page is shut and while it is open, in turn, and its memory.
func (b *bench) looking(ctx context.Context, c benchCase) ([]row, error) {
	t, err := b.crowd(ctx, "127.0.0.1:9780", "")
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var shut, open, memory, most []float64
	rows := func() []row {
		megabytes := func(what string, values []float64) row {
			return judged(row{Case: c.name, What: what, Unit: "MB", Values: values, Bound: costMemory})
		}
		return []row{percents(c, "status page open", open), percents(c, "status page shut", shut), megabytes("memory", memory), megabytes("memory, at most", most)}
	}
	for i := range b.costRounds() {
		n, err := t.percent(ctx)
		if err != nil {
			return rows(), err
		}
		shut = append(shut, n)
		p, err := openPage(ctx, t.agent)
		if err != nil {
			return rows(), err
		}
		n, err = t.percent(ctx)
		if err = errors.Join(err, p.shut()); err != nil {
			return rows(), err
		}
		open = append(open, n)
		now, err := memoryOf(t.agent.PID(), "VmRSS")
		peak, err2 := memoryOf(t.agent.PID(), "VmHWM")
		if err = errors.Join(err, err2); err != nil {
			return rows(), err
		}
		memory, most = append(memory, now), append(most, peak)
		b.progressed(c.name, i, fmt.Sprintf("page shut %.2f %%, open %.2f %%, %.1f MB, at most %.1f MB", shut[i], open[i], now, peak))
	}
	return rows(), nil
}

// percent measures the agent for a while.
func (t *town) percent(ctx context.Context) (float64, error) {
	before, err := cpuTime(t.agent.PID())
	begin := time.Now()
	if err == nil {
		err = sleep(ctx, costTime)
	}
	if err != nil {
		return 0, err
	}
	after, err := cpuTime(t.agent.PID())
	return 100 * float64(after-before) / float64(time.Since(begin)), err
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

// memoryOf reads one of the sizes in a process's status, in MB.
func memoryOf(pid int, key string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of the agent: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			var kib float64
			_, err := fmt.Sscan(value, &kib)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s: it has ended", pid, key)
}
