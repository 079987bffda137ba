package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logbook is a log that tests read while it is written.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// office is a Runner that runs, and a folder for what programs write.
type office struct {
	*Runner
	t      *testing.T
	folder string
	log    *logbook
	stop   func()
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, folder: t.TempDir(), log: &logbook{}}
	o.Runner = New(slog.New(slog.NewTextHandler(o.log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = o.Run(ctx) }()
	o.stop = func() { cancel(); <-done }
	t.Cleanup(o.stop)
	return o
}

// program writes a shell script.
func (o *office) program(name, script string) string {
	o.t.Helper()
	path := filepath.Join(o.folder, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+o.folder+"\n"+script+"\n"), 0o700); err != nil {
		o.t.Fatal(err)
	}
	return path
}

func (o *office) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(o.folder, name))
	return string(b)
}

func (o *office) until(what string, condition func() bool) {
	o.t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			o.t.Fatalf("%s: not within 20 s; the log:\n%s", what, o.log)
		}
	}
}

// The changes of one uplink are told in order, one program after the other;
// programs get what they were promised and nothing of ours.
func TestInOrder(t *testing.T) {
	t.Setenv("OURS", "secret")
	o := newOffice(t)
	first := o.program("first", `echo "1 $UPLINK $STATE $OURS$HOME" >> told; read x || echo "no input" >> told; sleep 0.01`)
	second := o.program("second", `command -v ls > path; echo "2 $STATE" >> told`)
	want := ""
	for i := range 5 {
		o.Add(Job{Uplink: "dsl", Programs: []string{first, second}, Limit: time.Minute, Env: []string{"UPLINK=dsl", fmt.Sprintf("STATE=%d", i)}})
		want += fmt.Sprintf("1 dsl %d \nno input\n2 %d\n", i, i)
	}
	o.until("all are told", func() bool { return len(o.read("told")) >= len(want) })
	if got := o.read("told"); got != want {
		t.Errorf("told:\n%swant:\n%s", got, want)
	}
	if !strings.HasSuffix(o.read("path"), "/ls\n") {
		t.Error("programs find no others")
	}
}

// A program that hangs is killed with all its children, and holds up neither
// who adds jobs nor other uplinks; the next job of its uplink runs then.
func TestHangs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	hangs := o.program("hangs", `sleep 1000 & echo $! > child; echo begun; trap "" TERM; while :; do sleep 1000; done`)
	fine := o.program("fine", `echo $UPLINK >> told`)
	o.Add(Job{Uplink: "dsl", Programs: []string{hangs, fine}, Limit: 2 * time.Second, Env: []string{"UPLINK=dsl"}})
	o.Add(Job{Uplink: "lte", Programs: []string{fine}, Limit: time.Minute, Env: []string{"UPLINK=lte"}})
	o.until("the other uplink's", func() bool { return o.read("told") == "lte\n" })
	o.until("the one behind it", func() bool { return o.read("told") == "lte\ndsl\n" })
	o.until("the child is gone", func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(o.read("child")) + "/fd/0")
		return err != nil
	})
	if log := o.log.String(); !strings.Contains(log, "took too long") || !strings.Contains(log, "begun") {
		t.Errorf("the log:\n%s", log)
	}
}

// What fails is said, with what it printed, as much as is good.
func TestFails(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.Add(Job{Uplink: "dsl", Programs: []string{
		o.program("wrong", `echo on its way; echo no luck >&2; exit 3`),
		filepath.Join(o.folder, "missing"),
		o.program("chatty", `yes | head -c 10000000`),
		o.program("background", `sleep 1000 & echo parent`),
		o.program("last", `echo done > told`),
	}, Limit: time.Minute})
	o.until("all have run", func() bool { return o.read("told") != "" })
	for _, text := range []string{"exit status 3", "no luck", "missing: no such file", `y ..."`, "parent"} {
		if !strings.Contains(o.log.String(), text) {
			t.Errorf("the log lacks %q:\n%.3000s", text, o.log)
		}
	}
	if n := len(o.log.String()); n > 5*maxOutput {
		t.Errorf("%d bytes of log", n)
	}
}

// Changes that come faster than programs run take bounded memory; the newest
// are told.
func TestTooMany(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	slow := o.program("slow", `test -e go || { : > started; while ! test -e go; do sleep 0.01; done; }; echo $STATE >> told`)
	job := func(state int) Job {
		return Job{Uplink: "dsl", Programs: []string{slow}, Limit: time.Minute, Env: []string{fmt.Sprint("STATE=", state)}}
	}
	o.Add(job(0))
	o.until("the first runs", func() bool { _, err := os.Stat(filepath.Join(o.folder, "started")); return err == nil })
	for i := range 10 * maxWaiting {
		o.Add(job(i + 1))
	}
	if err := os.WriteFile(filepath.Join(o.folder, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("%d\n", 10*maxWaiting)
	o.until("the newest is told", func() bool { return strings.HasSuffix(o.read("told"), "\n"+last) })
	if n := strings.Count(o.read("told"), "\n"); n != maxWaiting+1 {
		t.Errorf("%d were told, want %d", n, maxWaiting+1)
	}
}

// The end of the agent does not wait for a program.
func TestEnd(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.Add(Job{Uplink: "dsl", Programs: []string{o.program("hangs", `echo $$ > pid; sleep 1000`)}, Limit: time.Hour})
	o.until("it runs", func() bool { return strings.HasSuffix(o.read("pid"), "\n") })
	o.stop()
	if _, err := os.Stat("/proc/" + strings.TrimSpace(o.read("pid")) + "/fd/0"); err == nil {
		t.Error("it still runs")
	}
}

// What programs have not heard when a Runner ends, the next one tells: from the
// program on that was interrupted, which is not begun a third time.
func TestPending(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	first := o.program("first", `echo first $STATE >> told`)
	stuck := o.program("stuck", `echo stuck $STATE >> told; test -e go || sleep 1000`)
	last := o.program("last", `echo last $STATE >> told`)
	told := "first 1\nstuck 1\n"
	o.Add(Job{Uplink: "dsl", Programs: []string{first, stuck, last}, Limit: time.Hour, Env: []string{"STATE=1"}})
	o.Add(Job{Uplink: "dsl", Programs: []string{first}, Limit: time.Hour, Env: []string{"STATE=2"}})
	o.until("it is stuck", func() bool { return o.read("told") == told })
	<-o.Told()
	o.stop()

	for _, again := range []bool{true, false} {
		left := o.Pending()
		if len(left) != 2 || left[0].Again != again || left[1].Again {
			t.Fatalf("left to tell: %+v", left)
		}
		next := newOffice(t)
		next.folder = o.folder
		for _, j := range left {
			next.Add(j)
		}
		if again {
			told += "stuck 1\n"
			next.until("it is stuck again", func() bool { return o.read("told") == told })
		} else {
			told += "last 1\nfirst 2\n"
			next.until("the rest is told", func() bool { return len(next.Pending()) == 0 })
		}
		next.stop()
		o = next
	}
	if got := o.read("told"); got != told {
		t.Errorf("told:\n%swant:\n%s", got, told)
	}
}

// Who ends the agent may end its programs at the same time, and first: they have
// not heard.
func TestEndedTogether(t *testing.T) {
	t.Parallel()
	r := New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	r.exec = func(context.Context, string, []string) (string, error) {
		time.AfterFunc(settle/10, cancel)
		return "", errors.New("signal: terminated")
	}
	r.Add(Job{Uplink: "dsl", Programs: []string{"/hook"}, Limit: time.Minute})
	if err := r.Run(ctx); err != nil || len(r.Pending()) != 1 {
		t.Errorf("%v, %+v", err, r.Pending())
	}
}
