//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/nat"
	"multiroute/test/rig"
)

// prefixes is how many a long list has.
const prefixes = 100_000

// costs are times of the same thing, over and over: on the clock, and of a CPU.
type costs struct{ clock, cpu []time.Duration }

// add takes the time of f; cpu reads how much time on CPUs there was so far.
func (c *costs) add(cpu func() (time.Duration, error), f func() error) error {
	before, err := cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := f(); err != nil {
		return err
	}
	c.clock = append(c.clock, time.Since(begin))
	after, err := cpu()
	c.cpu = append(c.cpu, after-before)
	return err
}

// value adds what it took, in milliseconds. As with packets the rest of the machine can only make it longer, so it is from the quickest quarter.
func (c *costs) value(r *report, key string) {
	slices.Sort(c.clock)
	slices.Sort(c.cpu)
	r.value(key, milliseconds(c.clock[len(c.clock)/4]))
	r.value(key+", cpu", milliseconds(c.cpu[len(c.cpu)/4]))
}

// lists measures a rule with very many prefixes: how long the agent takes until it is in force, and until one more prefix is; what of that is the
// writing in the kernel; and the agent's memory.
func (b *bench) lists(ctx context.Context, r *report) error {
	h, err := newHouse(2)
	if err != nil {
		return err
	}
	defer h.Close()
	a, err := b.agent(b.program, h.Router)
	if err != nil {
		return err
	}
	if err := a.Configure(config(h, true, nil)); err != nil {
		return err
	}
	if err := a.Run(ctx); err != nil {
		return err
	}
	var load, more costs
	reload := func(c *costs, n int) error {
		if err := a.Configure(config(h, true, nil) + listRule(n)); err != nil {
			return err
		}
		return c.add(func() (time.Duration, error) { return cpuOf(a) }, func() error { _, err := a.Reload(ctx); return err })
	}
	for i := range b.loads {
		fmt.Fprintf(b.progress, "\rlong list %d of %d ", i+1, b.loads)
		if err := reload(&costs{}, 0); err != nil {
			return err
		}
		if err := reload(&load, prefixes); err != nil {
			return err
		}
		for n := range 4 {
			if err := reload(&more, prefixes+1+n); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(b.progress)
	load.value(r, "list, loaded")
	more.value(r, "list, one more")
	for key, field := range map[string]string{"list, memory": "VmRSS:", "list, memory at most": "VmHWM:"} {
		kib, err := memoryOf(a.PID(), field)
		if err != nil {
			return err
		}
		r.value(key, kib/1024)
	}
	return b.listWrites(ctx, r)
}

// listWrites measures the writing alone, as long as somebody listens.
func (b *bench) listWrites(ctx context.Context, r *report) error {
	h, err := newHouse(1)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Router.Do(func() error { // one thread
		t, err := nat.Open()
		if err != nil {
			return err
		}
		defer t.Close()
		m, err := watch(h.Router)
		if err != nil {
			return err
		}
		defer m.close()
		const defaults, listed = 1 << 24, 2 << 24
		spec := nat.Spec{Mask: 0xff000000, LAN: []string{h.LAN}, Rules: []nat.PolicyRule{{Policy: listed}},
			Policies: []nat.Policy{{Name: "default", ID: 1, Mark: defaults}, {Name: "listed", ID: 2, Mark: listed}}}
		var load, more costs
		write := func(c *costs, n int) error {
			spec.Rules[0].To = listOf(n)
			rules := nat.Compile(spec)
			have, err := t.Read()
			if err != nil {
				return err
			}
			return c.add(cpuOfThread, func() error { return t.Write(have, rules) })
		}
		for range b.loads {
			if err := t.Delete(); err != nil {
				return err
			}
			if err := write(&load, prefixes); err != nil {
				return err
			}
			for n := range 10 {
				if err := write(&more, prefixes+1+n); err != nil {
					return err
				}
			}
		}
		load.value(r, "list, loaded, writing")
		more.value(r, "list, one more, writing")
		return ctx.Err()
	})
}

func cpuOfThread() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0, fmt.Errorf("reading the thread's time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// cpuOf is the time on CPUs that an agent took so far.
func cpuOf(a *rig.Agent) (time.Duration, error) {
	clock := int32(^a.PID()<<3 | 2) // of a process: CPUCLOCK_SCHED (linux/posix-timers_types.h)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("reading the agent's time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// listed is the n-th prefix of a long list: every second /28 from 20.0.0.0 on, so that no two make one.
func listed(n int) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 20<<24+uint32(n)*32)
	return netip.PrefixFrom(netip.AddrFrom4(a), 28)
}

// listOf is a list of n prefixes; what comes after the usual number is among the others.
func listOf(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		all[i] = listed(i)
		if i >= prefixes {
			a := listed(7919 * (i - prefixes)).Addr().As4()
			a[3] += 24 // with a gap on both sides
			all[i] = netip.PrefixFrom(netip.AddrFrom4(a), 30)
		}
	}
	return all
}

func listRule(n int) string {
	var s strings.Builder
	s.WriteString("\n[policy.listed]\n")
	if n == 0 {
		return s.String()
	}
	s.WriteString("[[rule]]\npolicy = \"listed\"\nto = [\n")
	for _, p := range listOf(n) {
		fmt.Fprintf(&s, "\t%q,\n", p)
	}
	s.WriteString("]\n")
	return s.String()
}
