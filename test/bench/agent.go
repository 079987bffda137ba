//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// agentItself measures the program: its start on a fresh router and on one that it served before, what a restart writes, and its memory.
func (b *bench) agentItself(ctx context.Context, r *report) error {
	var fresh, again []time.Duration
	for i := range b.starts {
		fmt.Fprintf(b.progress, "\rstart %d of %d ", i+1, b.starts)
		if err := b.start(ctx, r, i == 0, &fresh, &again); err != nil {
			return fmt.Errorf("starting the agent: %w", err)
		}
	}
	fmt.Fprintln(b.progress)
	slices.Sort(fresh)
	slices.Sort(again)
	r.value("start", milliseconds(fresh[len(fresh)/2]))
	r.value("start, slowest", milliseconds(fresh[len(fresh)-1]))
	r.value("restart", milliseconds(again[len(again)/2]))
	return nil
}

// start starts an agent on a router of its own, ends it and starts it again; with all, it also counts what the restart writes, and looks at the
// memory.
func (b *bench) start(ctx context.Context, r *report, all bool, fresh, again *[]time.Duration) error {
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
	writes, err := watch(h.Router)
	if err != nil {
		return err
	}
	defer writes.close()
	d, err := untilReady(ctx, a)
	if err != nil {
		return err
	}
	*fresh = append(*fresh, d)
	time.Sleep(50 * time.Millisecond) // for the monitor
	if writes.count.Load() == 0 {
		return errors.New("the monitor saw nothing of the first start")
	}
	if err := a.End(unix.SIGTERM); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	before := writes.count.Load()
	if d, err = untilReady(ctx, a); err != nil {
		return err
	}
	*again = append(*again, d)
	if all {
		time.Sleep(500 * time.Millisecond) // passes of the loop
		r.value("writes on restart", float64(writes.count.Load()-before))
		if err := b.memory(ctx, r, h, a); err != nil {
			return err
		}
	}
	return a.End(unix.SIGTERM)
}

// untilReady starts the agent, and asks it every millisecond until it says that the kernel holds what is wanted.
func untilReady(ctx context.Context, a *rig.Agent) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begin := time.Now()
	if err := a.Start(); err != nil {
		return 0, err
	}
	for {
		if s, err := a.Status(ctx); err == nil && s.Ready {
			return time.Since(begin), nil
		}
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, a.Log())
		}
		time.Sleep(time.Millisecond)
	}
}

// memory looks at the agent's memory, and again after many reloads which each change something.
func (b *bench) memory(ctx context.Context, r *report, h *house, a *rig.Agent) error {
	kib, err := memoryOf(a.PID(), "VmRSS:")
	if err != nil {
		return err
	}
	r.value("memory", kib/1024)
	for i := range b.reloads {
		if err := a.Reconfigure(ctx, config(h, true, []int{1, 2 + i%2})); err != nil {
			return err
		}
	}
	if kib, err = memoryOf(a.PID(), "VmRSS:"); err != nil {
		return err
	}
	r.value("memory after reloads", kib/1024)
	return nil
}

// memoryOf is a line of a process's status (proc_pid_status(5)) about its memory, in KiB.
func memoryOf(pid int, line string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for text := range bytes.Lines(status) {
		if fields := bytes.Fields(text); len(fields) > 1 && string(fields[0]) == line {
			return strconv.ParseFloat(string(fields[1]), 64)
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, line)
}

// monitor counts what is written to a namespace's configuration.
type monitor struct {
	count atomic.Int64
	conns []*netlink.Conn
}

// watch begins to count messages of nftables and rtnetlink: rules, routes, addresses, links, and per-interface settings. Neighbours change by
// themselves and are left out.
func watch(ns *lab.NS) (*monitor, error) {
	groups := map[int][]uint32{
		unix.NETLINK_NETFILTER: {unix.NFNLGRP_NFTABLES},
		unix.NETLINK_ROUTE: {unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP},
	}
	m := &monitor{}
	for family, list := range groups {
		var c *netlink.Conn
		err := ns.Do(func() (err error) {
			c, err = netlink.Dial(family, nil)
			return err
		})
		if err == nil {
			m.conns = append(m.conns, c)
			err = c.SetReadBuffer(8 << 20)
		}
		for _, g := range list {
			if err == nil {
				err = c.JoinGroup(g)
			}
		}
		if err != nil {
			m.close()
			return nil, fmt.Errorf("opening a monitor: %w", err)
		}
		go func() {
			for {
				messages, err := c.Receive()
				if err != nil {
					return // closed
				}
				m.count.Add(int64(len(messages)))
			}
		}()
	}
	return m, nil
}

func (m *monitor) close() {
	for _, c := range m.conns {
		_ = c.Close()
	}
}
