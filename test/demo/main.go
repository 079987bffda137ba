//go:build linux

// Demo runs the real agent in a laboratory of network namespaces and shows a person what it does: connections spread over two uplinks, a
// connection that stays where it is, a port forward, a reload and a crash that nobody notices, a provider that dies and comes back, and a kernel
// that is as before in the end.
//
//	make demo
//
// It needs neither hardware nor the internet, and touches nothing of the machine it runs on. Every line that says "ok" was measured in this
// very run; the exit status is 1 if anything was not as it should be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// patience bounds the whole demo, also on a slow machine.
const patience = 90 * time.Second

func main() {
	os.Exit(lab.Main(func() int { return run(os.Args[1:], os.Stdout, os.Stderr) }))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	program := flags.String("agent", besideMe(), "the agent to show")
	check := flags.Bool("check", false, "only see whether a laboratory can be built here")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "demo: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	if err := lab.Available(); err != nil { // lab.Main has said why
		fmt.Fprint(stderr, remedy(os.Geteuid()))
		return 1
	}
	if *check {
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	s := newScreen(stdout)
	start := time.Now()
	if err := show(ctx, s, *program); err != nil {
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			err = errors.New("interrupted")
		case ctx.Err() != nil:
			err = fmt.Errorf("this took longer than %v: %w", patience, err)
		}
		fmt.Fprintln(stderr, "\ndemo:", err)
		return 1
	}
	if n := len(s.failures); n > 0 {
		fmt.Fprintf(stderr, "\ndemo: %d of %d expectations were not met:\n", n, s.expectations)
		for _, f := range s.failures {
			fmt.Fprintln(stderr, "  -", f)
		}
		return 1
	}
	s.say("\nAll %d expectations were met, in %.1f s.", s.expectations, time.Since(start).Seconds())
	return 0
}

// besideMe is the agent in the folder of this program.
func besideMe() string {
	self, err := os.Executable()
	if err != nil {
		return "bin/agent"
	}
	return filepath.Join(filepath.Dir(self), "agent")
}

// remedy says what to do where no namespaces can be made.
func remedy(user int) string {
	self, err := os.Executable()
	if err != nil {
		self = "bin/demo"
	}
	if user == 0 {
		return "demo: this root may not make network namespaces. In a container, give it the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN\n" +
			"(docker run --privileged has them), or run the demo outside it.\n"
	}
	return "demo: an ordinary user may not make network namespaces here. Run the demo as root:\n\n    sudo " + self + "\n\n" +
		"It touches nothing of this machine as root either. Or allow user namespaces:\n\n" +
		"    sysctl -w kernel.apparmor_restrict_unprivileged_userns=0     on Ubuntu 23.10 and later\n" +
		"    sysctl -w kernel.unprivileged_userns_clone=1                 on older Debian\n" +
		"    sysctl -w user.max_user_namespaces=10000                     where it is 0\n"
}

// show builds the house, runs the agent in it and takes all steps.
func show(ctx context.Context, s *screen, program string) error {
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("looking for the agent: %w; run \"make build\" first", err)
	}
	top, err := lab.NewRouter(lab.Options{DefaultRoutes: true})
	if err != nil {
		return err
	}
	defer top.Close()
	folder, err := os.MkdirTemp("/run", "multiroute-") // the lab's own /run
	if err != nil {
		return err
	}
	d := &demo{screen: s, top: top, agent: rig.New(program, folder, top.Router)}
	if err := d.steps(ctx); err != nil {
		return d.withLog(err)
	}
	if len(s.failures) > 0 {
		s.detail("\nThe end of the agent's log:\n" + tail(d.agent.Log(), 15))
	}
	return nil
}
