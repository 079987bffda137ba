package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
)

func TestFrame(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	good := look{at: at, status: api.Status{Version: "1", PID: 2, Ready: true, Uplinks: []api.UplinkStatus{{Name: "dsl", State: api.Up, Since: new(at.Add(-time.Minute))}}}}
	gone := look{at: at.Add(time.Minute), err: errors.New("the agent does not run")}
	const head = "multiroute 1, process 2, ready, configuration 0"
	title, row := "UPLINK  STATE  SINCE  RTT  LOSS  CONNECTIONS", "dsl     up     1m0s   -    -     -"
	tests := map[string]struct {
		good, newest look
		after        time.Duration
		height       int
		want         []string
	}{
		"well":          {good: good, newest: good, after: time.Second, height: 50, want: []string{"12:00:01", head, "", title, row, ""}},
		"late":          {good: good, newest: good, after: 5 * time.Second, height: 50, want: []string{"12:00:05: no answer from the agent for 5s; below", "  is what it said at 12:00:00", head, "", title, row, ""}},
		"gone":          {good: good, newest: gone, after: time.Minute, height: 50, want: []string{"12:01:00: the agent does not run; below is what", "  it said at 12:00:00", head, "", title, row, ""}},
		"never there":   {newest: gone, after: time.Minute, height: 50, want: []string{"12:01:00: the agent does not run"}},
		"just fits":     {good: good, newest: good, height: 6, want: []string{"12:00:00", head, "", title, row, ""}},
		"does not fit":  {good: good, newest: good, height: 5, want: []string{"12:00:00", head, "", title, "... 2 more lines"}},
		"one line only": {good: good, newest: good, height: 1, want: []string{"... 6 more lines"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watcher{good: test.good, newest: test.newest}
			if diff := cmp.Diff(test.want, w.frame(at.Add(test.after), extent{width: 48, height: test.height}, false)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestWatchPipe: blocks without escape codes, an empty line between them, and the agent may
// be away in between.
func TestWatchPipe(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	good := look{at: at, status: api.Status{Version: "1", Uplinks: []api.UplinkStatus{{Name: "dsl", State: api.Up}}, Warnings: []string{"w"}}}
	gone := look{at: at, err: errors.New("the agent does not run")}
	for name, test := range map[string]struct {
		json     bool
		out, err string
	}{
		"text": {out: "12:00:00\nthe agent does not run\n\n12:00:00\nmultiroute 1, process 0, not ready yet, configuration 0\n" +
			"UPLINK  STATE  SINCE  INTERFACE  ADDRESS  GATEWAY  RTT  LOSS  JITTER  DOWNLOAD  UPLOAD  CONNECTIONS  RECEIVED  SENT\n" +
			"dsl     up     -                 -        -        -    -     -       -         -       -            -         -\nwarning: w\n\n" +
			strings.Repeat("12:00:00\nthe agent does not run\n\n", 2)},
		"json": {json: true, err: strings.Repeat("agent status: the agent does not run\n", 2),
			out: `{"version":"1","pid":0,"ready":false,"config":{"generation":0,"loaded_at":null,"error":null,"confirm_by":null},"uplinks":[{"name":"dsl","id":0,"state":"up","reason":null,"since":null,"until":null,"interface":"","gateway":null,"gateway6":null,"addresses":[],"mark":0,"table":0,"rtt_ms":null,"jitter_ms":null,"loss_percent":null,"connections":null,"rx_bytes":null,"tx_bytes":null,"rx_bits_per_second":null,"tx_bits_per_second":null}],"policies":[],"warnings":["w"],"drift":{"repairs":0,"last_repair":null}}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			w := watcher{out: &out, err: &errOut, json: test.json}
			for _, l := range []look{gone, good, gone, gone} {
				if w.newest = l; l.err == nil {
					w.good = l
				}
				if err := w.print(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([]string{test.out, test.err}, []string{out.String(), errOut.String()}); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Who may not ask is told at once.
func TestWatchForbidden(t *testing.T) {
	t.Parallel()
	looks := make(chan look, 1)
	looks <- look{at: time.Now(), err: fs.ErrPermission}
	if err := (&watcher{}).run(t.Context(), looks); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// pty is a terminal, with a program on it.
type pty struct {
	t             *testing.T
	master, slave *os.File
	program       *exec.Cmd
	before        unix.Termios // the modes until the program began
	mu            sync.Mutex
	shown         string // everything the program wrote
	read          int    // how much of that was waited for
}

// onTerminal starts agent with arguments on a terminal of its own.
func onTerminal(t *testing.T, width, height uint16, environment []string, args ...string) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { slave.Close() })
	p := &pty{t: t, master: master, slave: slave, program: exec.Command("agent", args...)}
	p.resize(width, height)
	p.before = p.modes()
	p.program.Env = append(os.Environ(), environment...)
	p.program.Stdin, p.program.Stdout, p.program.Stderr = slave, slave, slave
	p.program.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.program.Process.Kill() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			p.mu.Lock()
			p.shown += string(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *pty) resize(width, height uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		p.t.Fatal(err)
	}
}

// see waits until the program has written text, after what was seen before, and returns what
// it wrote until then.
func (p *pty) see(text string) string {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		fresh := p.shown[p.read:]
		if i := strings.Index(fresh, text); i >= 0 {
			p.read += i + len(text)
			p.mu.Unlock()
			return fresh[:i+len(text)]
		}
		p.mu.Unlock()
	}
	p.t.Fatalf("%q does not come: %q", text, p.shown)
	return ""
}

func (p *pty) press(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pty) modes() unix.Termios {
	p.t.Helper()
	m, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *m
}

// answering starts an agent, whose configuration is returned, and which ends with stop.
func answering(t *testing.T, folder string) (config string, stop func()) {
	t.Helper()
	socket := filepath.Join(folder, "s")
	config = filepath.Join(folder, "agent.toml")
	if err := os.WriteFile(config, []byte("[api]\nsocket = \""+socket+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.NewServer(&fakeAgent{}, -1, nil).Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return config, stop
}

// TestWatchTerminal: the screen is drawn again and again, follows the size of the terminal
// and an agent that goes and comes, and is given back as it was.
func TestWatchTerminal(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	config, stop := answering(t, folder)
	p := onTerminal(t, 80, 24, []string{"TERM=xterm", "NO_COLOR="}, "status", "--watch", "--config", config)
	p.see(takeScreen)
	p.see("\x1b[H")
	first := p.see("\x1b[J")
	if !strings.Contains(first, "\x1b[32mup") || !strings.Contains(first, "\x1b[31mdown") || !strings.Contains(first, "1.5 Mbit/s") || strings.Contains(first, "INTERFACE") {
		t.Errorf("the first screen is %q", first)
	}
	if p.modes().Lflag&unix.ECHO != 0 {
		t.Error("keys are shown")
	}
	p.see("\x1b[H") // again, without being asked
	p.see("\x1b[J")
	p.resize(130, 5)
	p.see("INTERFACE")
	p.see("more lines")
	p.resize(80, 24)
	stop()
	p.see("the agent does not run")
	p.see("below is what it said at")
	_, stop = answering(t, folder)
	defer stop()
	p.see("\x1b[H\x1b[2K")
	for again := p.see("\x1b[J"); strings.Contains(again, "does not run"); again = p.see("\x1b[J") {
	}

	p.press("\x1a") // Ctrl-Z
	p.see(giveScreen)
	p.stopped()
	if p.modes() != p.before {
		t.Error("the modes of the terminal are not as they were")
	}
	if err := p.program.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.see(takeScreen)
	p.see("\x1b[J")

	p.press("x\x03") // Ctrl-C
	p.see(giveScreen)
	if err := p.program.Wait(); err != nil {
		t.Error(err)
	}
	if p.modes() != p.before {
		t.Error("the modes of the terminal are not as they were")
	}
}

// stopped waits until the program is stopped by a signal.
func (p *pty) stopped() {
	p.t.Helper()
	stat := filepath.Join("/proc", strconv.Itoa(p.program.Process.Pid), "stat")
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(stat)
		if err != nil {
			p.t.Fatal(err)
		}
		if bytes.Contains(text, []byte(") T ")) {
			return
		}
	}
	p.t.Fatal("the program does not stop")
}

// TestTerminalPlain: no colours for who wants none, and nothing but text for a terminal that
// understands nothing else.
func TestTerminalPlain(t *testing.T) {
	t.Parallel()
	config, _ := answering(t, t.TempDir())
	for name, test := range map[string]struct {
		environment []string
		args        []string
		colours     bool
		moves       bool
	}{
		"once":               {environment: []string{"TERM=xterm", "NO_COLOR="}, colours: true},
		"once, NO_COLOR":     {environment: []string{"TERM=xterm", "NO_COLOR=0"}},
		"once, dumb":         {environment: []string{"TERM=dumb", "NO_COLOR="}},
		"watching, NO_COLOR": {environment: []string{"TERM=xterm", "NO_COLOR=1"}, args: []string{"--watch"}, moves: true},
		"watching, dumb":     {environment: []string{"TERM=dumb", "NO_COLOR="}, args: []string{"--watch"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := onTerminal(t, 80, 24, test.environment, append([]string{"status", "--config", config}, test.args...)...)
			p.see("lte")
			if len(test.args) > 0 {
				p.see("lte") // the second time, too
				p.press("\x03")
			}
			if err := p.program.Wait(); err != nil {
				t.Error(err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			for code, want := range map[string]bool{"\x1b[32m": test.colours, "\x1b[0m": test.colours, "\x1b[H": test.moves, "\x1b": test.colours || test.moves} {
				if got := strings.Contains(p.shown, code); got != want {
					t.Errorf("%q is there: %v, want %v, in %q", code, got, want, p.shown)
				}
			}
		})
	}
}
