//go:build linux

// Failover runs the real agent in a laboratory, lets uplinks die in every way that is promised to be survived, and measures what clients see of it:
// the longest time without an answer of a 1 kHz UDP stream on that uplink, and of new TCP connections; and what the traffic on the other uplinks
// loses, which must be nothing. It prints a table, and its exit status is 1 if a bound is missed.
//
//	go run ./test/bench/failover [-quick] [-long] [-only REGEXP] [-rounds N] [-o FILE]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

func main() {
	os.Exit(lab.Main(func() int { return run(os.Args[1:], os.Stdout, os.Stderr) }))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("failover", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "3 rounds of each case: for a first impression")
	long := flags.Bool("long", false, "ten minutes of random loss and a minute of each kind of flapping, too")
	rounds := flags.Int("rounds", 20, "`how many` times each uplink dies")
	only := flags.String("only", "", "only cases whose name matches this `regexp`")
	file := flags.String("o", "", "keep the results in this `file`, as JSON")
	program := flags.String("agent", "", "measure this `program` instead of building the agent")
	list := flags.Bool("list", false, "print the names of the cases")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 || *rounds < 1 {
		return 2
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(stderr, "failover: -only:", err)
		return 2
	}
	if *list {
		for _, c := range cases(*long) {
			fmt.Fprintln(stdout, c.name)
		}
		return 0
	}
	if err := lab.Available(); err != nil {
		return 1 // lab.Main has said so
	}
	if *quick {
		*rounds = min(*rounds, 3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	b := &bench{rounds: *rounds, program: *program, progress: stderr}
	r, err := b.run(ctx, cases(*long), chosen)
	if r != nil {
		fmt.Fprint(stdout, r)
	}
	if err == nil && *file != "" {
		err = r.save(*file)
	}
	if err != nil {
		fmt.Fprintln(stderr, "failover:", err)
		return 1
	}
	if !r.OK {
		return 1
	}
	return 0
}

// bench is one run.
type bench struct {
	rounds   int
	program  string // the agent
	progress io.Writer

	folder string // of this run
	towns  int    // how many there were
}

// run measures the chosen cases. What was measured before an error is returned with it.
func (b *bench) run(ctx context.Context, all []benchCase, chosen *regexp.Regexp) (*report, error) {
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
	r := newReport(b.rounds)
	for _, c := range all {
		if !chosen.MatchString(c.name) {
			continue
		}
		begin := time.Now()
		rows, err := c.measure(ctx, b, c)
		r.add(rows...)
		if err != nil {
			return r, fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(b.progress, "\r%-78s\r%s: %.0f s\n", "", c.name, time.Since(begin).Seconds())
	}
	return r, nil
}

// progressed says where a case is.
func (b *bench) progressed(name string, round int, what string) {
	fmt.Fprintf(b.progress, "\r%s, round %d of %d: %s%s", name, round+1, b.rounds, what, strings.Repeat(" ", 12))
}
