//go:build linux

// Bench runs the real agent in a laboratory and measures it: what a packet costs, compared with a bare masquerade in the same run; how long the
// agent takes to start; its memory; that a restart writes nothing; what rules cost, many of them and long ones; and how long a long list takes to load and
// to change. It prints a table, and its exit status is 1 if a bound is missed.
//
// Packets are measured in two ways. Frames written in batches show the router and little else: bounds are about those. Ordinary sockets at both ends
// show what programs notice.
//
//	go run ./test/bench [-quick] [-o FILE] [-against PROGRAM]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

func main() {
	os.Exit(lab.Main(func() int { return run(os.Args[1:], os.Stdout, os.Stderr) }))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "a short run, about 20 seconds: for a first impression")
	file := flags.String("o", "", "keep the results in this `file`, as JSON")
	program := flags.String("agent", "", "measure this `program` instead of building the agent")
	against := flags.String("against", "", "compare with this `program`, too: an agent of another version (variants G and H)")
	only := flags.String("only", "", "packets of these variants only, such as \"ABD\"; no bounds")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	if err := lab.Available(); err != nil {
		return 1 // lab.Main has said so
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	b := &bench{effort: full, program: *program, against: *against, only: *only, progress: stderr}
	if *quick {
		b.effort = short
	}
	r, err := b.run(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	fmt.Fprint(stdout, r)
	if *file != "" {
		if err := r.save(*file); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
	}
	if !r.OK {
		return 1
	}
	return 0
}

// effort says how much is measured.
type effort struct {
	rounds     int           // of packets
	ruleRounds int           // of packets, for what rules cost
	turns      int           // of each variant in a round
	slice      time.Duration // of known connections, in a round
	first      int           // new connections in a round
	starts     int           // of the agent
	reloads    int
	loads      int // of a long list
}

var (
	full  = effort{rounds: 75, ruleRounds: 25, turns: 10, slice: 200 * time.Millisecond, first: 10000, starts: 20, reloads: 100, loads: 3}
	short = effort{rounds: 9, ruleRounds: 5, turns: 10, slice: 100 * time.Millisecond, first: 5000, starts: 7, reloads: 100, loads: 3}
)

// bench is one run.
type bench struct {
	effort
	program  string // the agent
	against  string // another agent, or ""
	only     string
	progress io.Writer

	folder string // of this run
	agents int    // how many there were
}

// run measures everything.
func (b *bench) run(ctx context.Context) (*report, error) {
	var err error
	if b.folder, err = os.MkdirTemp("/run", "bench"); err != nil { // the lab's own /run
		return nil, err
	}
	defer os.RemoveAll(b.folder)
	if b.program == "" {
		if b.program, err = rig.Build(b.folder); err != nil {
			return nil, err
		}
	}
	r := newReport(b.effort)
	if b.only == "" {
		if err := b.agentItself(ctx, r); err != nil {
			return nil, err
		}
		if err := b.lists(ctx, r); err != nil {
			return nil, err
		}
	}
	all := variants(b.against != "")
	if err := b.packets(ctx, all, b.rounds, true); err != nil {
		return nil, err
	}
	r.packets(all)
	if b.only == "" || contains(b.only, rulesID) {
		all := ruleVariants()
		if err := b.packets(ctx, all, b.ruleRounds, false); err != nil {
			return nil, err
		}
		r.rules(all)
	}
	r.judge(b.only != "")
	return r, nil
}

// round is what a variant's turns in one round gave.
type round struct {
	established, replies, first, bare samples // with frames
	socketsEstablished, socketsFirst  samples // with ordinary sockets
}

// packets measures all variants, in rounds; with sockets and replies, or only what comes from clients.
func (b *bench) packets(ctx context.Context, all []*variant, rounds int, everything bool) error {
	// One CPU for everything: where a packet is sent is where its whole way is run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("choosing a CPU: %w", err)
	}
	var measured []*variant
	for _, v := range all {
		defer v.close()
		if b.only != "" && !contains(b.only, v.id[:1]) {
			v.missing = "not asked for"
			continue
		}
		if err := v.open(ctx, b); err != nil {
			return err
		}
		if v.missing == "" {
			measured = append(measured, v)
		}
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Zero()
			one.Set(cpu) // the last one
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("choosing a CPU: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()

	const warmUp = 1
	for n := range warmUp + rounds {
		for _, v := range measured {
			if n <= warmUp {
				v.rounds = nil
			}
			v.rounds = append(v.rounds, round{})
		}
		if err := b.round(ctx, measured, n, everything); err != nil {
			return err
		}
		fmt.Fprintf(b.progress, "\rround %d of %d ", max(0, n+1-warmUp), rounds)
	}
	fmt.Fprintln(b.progress)
	return nil
}

// round measures all variants once. Their turns are short, so that whatever the machine does meets all of them.
func (b *bench) round(ctx context.Context, all []*variant, n int, everything bool) error {
	turn := func(what string, f func(*track, *round) error) error {
		for i := range all {
			v := all[(n+i)%len(all)] // each has its time to be the first
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(v.track, &v.rounds[len(v.rounds)-1]); err != nil {
				return fmt.Errorf("%s (%s): %s: %w", v.id, v.what, what, err)
			}
		}
		return nil
	}
	err := turn("forgetting connections", func(t *track, _ *round) error { return t.forget() })
	for range b.turns {
		if err == nil {
			err = turn("first packets", func(t *track, r *round) error { return t.first(b.first/b.turns, &r.first) })
		}
	}
	for range b.turns {
		if err == nil && everything {
			err = turn("first packets, sockets", func(t *track, r *round) error { return t.socketsFirst(b.first/b.turns/2, &r.socketsFirst) })
		}
	}
	if err == nil {
		err = turn("opening connections", func(t *track, _ *round) error { return t.connect() })
	}
	if err == nil && everything {
		err = turn("opening connections, sockets", func(t *track, _ *round) error { return t.socketsConnect() })
	}
	for range b.turns {
		if err == nil {
			err = turn("established packets", func(t *track, r *round) error {
				return t.established(b.slice/time.Duration(b.turns), t.out, &r.established)
			})
		}
		if !everything {
			continue
		}
		if err == nil {
			err = turn("the harness", func(t *track, r *round) error { return t.direct(20, &r.bare) })
		}
		if err == nil {
			err = turn("replies", func(t *track, r *round) error {
				return t.established(b.slice/time.Duration(b.turns)/2, t.back, &r.replies)
			})
		}
		if err == nil {
			err = turn("established packets, sockets", func(t *track, r *round) error {
				return t.socketsEstablished(b.slice/time.Duration(b.turns)/2, &r.socketsEstablished)
			})
		}
	}
	return err
}
