package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
)

const (
	// watchEvery is how often agent status --watch asks.
	watchEvery = time.Second
	// watchLate is after how long without an answer it says so; it asks again after watchPatience.
	watchLate     = 3 * time.Second
	watchPatience = 10 * time.Second
)

func watchStatus(c *call) error {
	// The signals stay caught: one that comes twice, as those of timeout(1) do, must
	// not kill what is just ending.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	w := &watcher{out: c.out, err: c.err, json: c.json}
	if !c.json {
		w.screen = openTerminal(c.out)
	}
	looks := make(chan look)
	go c.looks(ctx, looks)
	return w.run(ctx, looks)
}

// look is one answer of the daemon.
type look struct {
	at     time.Time
	status api.Status
	err    error
}

// looks asks once a second until ctx ends. A daemon that was started again may have
// another socket.
func (c *call) looks(ctx context.Context, looks chan<- look) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var client *api.Client
	for {
		if client == nil {
			client = api.Dial(config.Fallback(c.config).API.Socket)
		}
		asked, cancel := context.WithTimeout(ctx, watchPatience)
		s, err := client.Status(asked)
		cancel()
		if err != nil {
			client = nil
		}
		select {
		case looks <- look{at: time.Now(), status: s, err: err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// watcher shows looks.
type watcher struct {
	out, err io.Writer
	json     bool
	screen   *terminal // nil: a pipe, or what is as simple

	good    look   // the newest with a status
	newest  look   // the newest; zero: none yet
	problem string // the last error that was printed beside JSON
}

// run shows looks until ctx ends, which is how it is meant to end.
func (w *watcher) run(ctx context.Context, looks <-chan look) (err error) {
	signals := make(chan os.Signal, 8)
	var tick <-chan time.Time
	if w.screen != nil {
		signal.Notify(signals, unix.SIGWINCH, unix.SIGTSTP, unix.SIGCONT)
		defer signal.Stop(signals)
		if err := w.screen.take(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.screen.give()) }()
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-looks:
			if w.newest.at.IsZero() && errors.Is(l.err, fs.ErrPermission) {
				return l.err // that will not change
			}
			if w.newest = l; l.err == nil {
				w.good = l
			}
			if w.screen == nil {
				if err := w.print(); err != nil {
					return err
				}
				continue
			}
		case <-tick:
		case s := <-signals:
			if s == unix.SIGTSTP { // Ctrl-Z: whoever comes next needs the terminal as it was
				if err := errors.Join(w.screen.give(), unix.Kill(unix.Getpid(), unix.SIGSTOP)); err != nil {
					return err
				}
				continue
			}
			if s == unix.SIGCONT {
				if err := w.screen.take(); err != nil {
					return err
				}
			}
		}
		if err := w.draw(time.Now()); err != nil {
			return err
		}
	}
}

// print prints the newest look: a line of JSON, or a block that ends with an empty line.
func (w *watcher) print() error {
	l := w.newest
	if w.json {
		if l.err != nil {
			if text := l.err.Error(); text != w.problem {
				w.problem = text
				fmt.Fprintln(w.err, "agent status:", text)
			}
			return nil
		}
		w.problem = ""
		return json.NewEncoder(w.out).Encode(l.status)
	}
	var b strings.Builder
	fmt.Fprintln(&b, l.at.Format(time.TimeOnly))
	if l.err != nil {
		fmt.Fprintln(&b, printable(l.err.Error()))
	} else {
		for _, line := range statusLines(l.status, l.at, format{}) {
			if line != "" { // only between blocks
				fmt.Fprintln(&b, line)
			}
		}
	}
	fmt.Fprintln(&b)
	_, err := io.WriteString(w.out, b.String())
	return err
}

// draw draws the screen anew, in one write. A line is emptied before it is written: at the
// last column, emptying the rest would take the last character.
func (w *watcher) draw(now time.Time) error {
	if !w.screen.taken() || w.newest.at.IsZero() {
		return nil
	}
	size := w.screen.size()
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range w.frame(now, size, w.screen.colour) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("\x1b[2K" + line)
	}
	b.WriteString("\x1b[J")
	_, err := w.screen.file.WriteString(b.String())
	return err
}

// frame is what the screen shows: the newest status there is, and above it the time, and
// what is wrong if it is old.
func (w *watcher) frame(now time.Time, size extent, colour bool) []string {
	f := format{width: size.width, colour: colour}
	head, paint := now.Format(time.TimeOnly), plain
	switch late := now.Sub(w.newest.at); {
	case w.newest.err != nil:
		head, paint = head+": "+w.newest.err.Error(), red
	case late > watchLate:
		head, paint = fmt.Sprintf("%s: no answer from the agent for %s", head, late.Round(time.Second)), red
	}
	if paint != plain && !w.good.at.IsZero() {
		head += "; below is what it said at " + w.good.at.Format(time.TimeOnly)
	}
	all := f.sentence(paint, head)
	if !w.good.at.IsZero() {
		all = append(all, statusLines(w.good.status, w.good.at, f)...)
	}
	if more := len(all) - size.height; more > 0 {
		keep := max(0, size.height-1)
		all = append(all[:keep], f.paint(dim, fmt.Sprintf("... %d more lines", len(all)-keep)))
	}
	return all
}
