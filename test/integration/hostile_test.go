//go:build linux

package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

const (
	crowdIdle = 1000 // clients that connect and say nothing, or half of a request
	crowdRude = 50   // that are busy all the time
	crowdSize = 64   // MB that the agent may ever have taken
)

// TestHostileClients: a thousand idle clients and fifty hostile ones on the
// control socket and on HTTP. A failover takes as long as without them, root is
// answered, the agent stays small, and nothing is left of them when they go.
func TestHostileClients(t *testing.T) {
	ctx := deadline(t, 4*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3})
	h.HTTP = "127.0.0.1:9780"
	must(t, os.Chmod(h.Folder, 0o711)) // the way to the socket is free; the socket is the group's
	h.start(ctx, rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n"))
	h.allUp(ctx, 5*time.Second)
	b := h.bystanders(ctx, h.others(h.Uplinks[1])...)
	files, size := h.files(), h.size("VmRSS")

	// There are more rounds where the first ones differ: something else on this
	// machine may have been against the crowd in two of them.
	const rounds, more = 3, 4
	var cables, providers [2][]time.Duration // without and with the crowd
	var root answers
	for i := 0; i < rounds || i < rounds+more && (slower(cables) || slower(providers)); i++ { // in turn: whatever else this machine does, it does to both
		for k := range 2 {
			var c *crowd
			begin, cpu := time.Now(), h.cpu()
			if k == 1 {
				c = h.crowd(ctx)
				root.ask(ctx, h)
			}
			cable, provider := h.twoDeaths(ctx, []string{"alone", "in the crowd"}[k], i == 1)
			cables[k], providers[k] = append(cables[k], cable), append(providers[k], provider)
			if k == 1 {
				root.stop()
				t.Logf("crowd: %s", c.stop())
			}
			t.Logf("CPU: %.0f %%", 100*float64(h.cpu()-cpu)/float64(time.Since(begin)))
			h.carry(ctx, h.Uplinks, 20*time.Second)
		}
	}
	t.Logf("cables: alone %v, in the crowd %v; providers: alone %v, in the crowd %v", cables[0], cables[1], providers[0], providers[1])
	t.Logf("root in the crowd: %d answers, %d refused (%v), the slowest after %v", root.good, root.bad, root.err, root.slowest)
	if slower(cables) || slower(providers) {
		t.Error("a failover takes longer in the crowd")
	}
	if root.good == 0 || root.bad > root.good/20 {
		t.Errorf("root got %d answers and %d refusals: %v", root.good, root.bad, root.err)
	}
	b.check()

	most := h.size("VmHWM")
	t.Logf("memory: %.1f MB before, %.1f MB after, %.1f MB at most", size, h.size("VmRSS"), most)
	if most > crowdSize {
		t.Errorf("the agent took %.1f MB", most)
	}
	h.until(20*time.Second, "a good client is answered", func() bool {
		_, err := h.Get(ctx, "/metrics")
		return err == nil
	})
	h.unchanged()
	h.until(10*time.Second, "all files of clients are closed", func() bool { return h.files() <= files })
	t.Logf("files: %d before, %d after", files, h.files())
	// What it does now, it says when it dies of this.
	must(t, h.End(syscall.SIGQUIT))
	// The last clients have gone just now.
	if n := strings.Count(h.Log(), "net/http.(*conn).serve("); n > 2 || !strings.Contains(h.Log(), "net/http.(*Server).Serve(") {
		t.Errorf("%d connections are still served", n)
	}
}

// twoDeaths lets an uplink die by its cable and by its provider.
func (h *house) twoDeaths(ctx context.Context, what string, v6 bool) (cable, provider time.Duration) {
	h.t.Helper()
	u := h.Uplinks[1]
	longest := func(g gaps) time.Duration { return max(g.stream, g.dials) }
	cable = longest(h.dies(ctx, "cable, "+what, u, v6, func() error { return u.Carrier(false) }))
	must(h.t, u.Carrier(true))
	h.carry(ctx, h.Uplinks, 20*time.Second)
	provider = longest(h.dies(ctx, "provider, "+what, u, v6, func() error { return u.Provider.Blackhole(true) }))
	must(h.t, u.Provider.Blackhole(false))
	return cable, provider
}

// slower compares how long failovers took, without and with the crowd.
func slower(took [2][]time.Duration) bool {
	alone, crowded := slices.Sorted(slices.Values(took[0])), slices.Sorted(slices.Values(took[1]))
	// The clients use the same CPUs as the agent and who measures.
	return crowded[len(crowded)/2] > 2*alone[len(alone)/2]+150*time.Millisecond
}

// files is how many files the agent has open.
func (h *house) files() int {
	h.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.PID()))
	must(h.t, err)
	return len(all)
}

// cpu is how much processor time the agent used, in steps of 10 ms.
func (h *house) cpu() time.Duration {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.PID()))
	must(h.t, err)
	var user, system int
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	must(h.t, err)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

// size is one of the agent's sizes in MB.
func (h *house) size(key string) float64 {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.PID()))
	must(h.t, err)
	_, rest, _ := strings.Cut(string(text), "\n"+key+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		h.t.Fatalf("no %s in %s", key, text)
	}
	kib, err := strconv.Atoi(fields[0])
	must(h.t, err)
	return float64(kib) * 1024 / 1e6
}

// answers are what root gets on the control socket.
type answers struct {
	good, bad int
	err       error
	slowest   time.Duration
	cancel    context.CancelFunc
	wait      sync.WaitGroup
}

func (a *answers) ask(ctx context.Context, h *house) {
	ctx, a.cancel = context.WithCancel(ctx)
	a.wait.Go(func() {
		for ctx.Err() == nil {
			begin := time.Now()
			limited, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := h.Status(limited)
			cancel()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				a.bad, a.err = a.bad+1, err
			default:
				a.good, a.slowest = a.good+1, max(a.slowest, time.Since(begin))
			}
			passes(ctx, 50*time.Millisecond)
		}
	})
}

func (a *answers) stop() {
	a.cancel()
	a.wait.Wait()
}

// crowd are clients that nobody wants.
type crowd struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu    sync.Mutex
	calls map[string]int // connections by what was done on them
}

// entrance is where a crowd comes in.
type entrance struct {
	name            string
	dial            func() (net.Conn, error)
	host            string
	cheap, dear     string // paths
	endless, change string
}

// crowd lets a crowd come: half of it to the socket, as a user who may read.
// Where there is no such user all come to HTTP.
func (h *house) crowd(ctx context.Context) *crowd {
	ctx, cancel := context.WithCancel(ctx)
	c := &crowd{cancel: cancel, calls: map[string]int{}}
	web := entrance{name: "http", host: h.HTTP, cheap: "/metrics", dear: "/explain?from=192.168.0.9&to=1.1.1.1", endless: "/events", change: "/",
		dial: func() (net.Conn, error) {
			return h.Topology.Router.DialTCP(ctx, lab.Socket{}, netip.MustParseAddrPort(h.HTTP))
		}}
	entrances := []entrance{web, web}
	if guests, err := dialAs(ctx, uid, h.Socket()); err != nil {
		h.t.Logf("all clients come to HTTP: %v", err)
	} else {
		entrances[1] = entrance{name: "socket", host: "agent", cheap: "/v1/status", dear: "/v1/plan", endless: "/v1/flows", change: "/v1/reload", dial: guests}
	}
	for i := range crowdIdle {
		from, what := entrances[i%2], ""
		if i%4 > 1 {
			what = "GET " + from.cheap + " HTTP/1.1\r\nHo"
		}
		c.come(ctx, from, "idle", 2*time.Second, func(conn net.Conn) {
			_, _ = io.WriteString(conn, what) // they may not even let it in
			_, _ = io.Copy(io.Discard, conn)  // until it is thrown out
		})
	}
	for i := range crowdRude {
		manner := manners[i/2%len(manners)]
		from := entrances[i%2]
		c.come(ctx, from, manner.name, time.Millisecond, func(conn net.Conn) {
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // else the next call fails
			manner.on(ctx, from, conn)
		})
	}
	return c
}

// come lets one client come again and again.
func (c *crowd) come(ctx context.Context, to entrance, what string, pause time.Duration, behave func(net.Conn)) {
	c.wait.Go(func() {
		for ctx.Err() == nil {
			conn, err := to.dial()
			if err == nil {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				behave(conn)
				if stop() {
					_ = conn.Close()
				}
			} else {
				what = "no place"
			}
			c.mu.Lock()
			c.calls[to.name+" "+what]++
			c.mu.Unlock()
			passes(ctx, pause)
		}
	})
}

// stop sends them away and says what they did.
func (c *crowd) stop() string {
	c.cancel()
	c.wait.Wait()
	return fmt.Sprint(c.calls)
}

// manners are what hostile clients do with a connection.
var manners = []struct {
	name string
	on   func(ctx context.Context, e entrance, c net.Conn)
}{
	{"flood", func(_ context.Context, e entrance, c net.Conn) {
		answers := bufio.NewReader(c)
		for {
			if _, err := io.WriteString(c, get(e, e.cheap)); err != nil {
				return
			}
			r, err := http.ReadResponse(answers, nil)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
		}
	}},
	{"expensive", func(_ context.Context, e entrance, c net.Conn) {
		_, _ = io.WriteString(c, get(e, e.dear))
		_, _ = io.CopyN(io.Discard, c, 100)
	}},
	{"deaf", func(_ context.Context, e entrance, c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, strings.Repeat(get(e, e.cheap), 100))
		}
	}},
	{"wrong", func(_ context.Context, e entrance, c net.Conn) {
		for _, method := range []string{"POST", "DELETE", "\x00\xff", "CONNECT"} {
			_, _ = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000\r\n\r\n%s", method, e.change, e.host, strings.Repeat("x", 1<<10))
		}
		_, _ = io.Copy(io.Discard, c)
	}},
	{"huge", func(_ context.Context, e entrance, c net.Conn) {
		_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n", e.cheap, e.host)
		for range 1000 {
			if _, err := fmt.Fprintf(c, "X-%[1]s: %[1]s\r\n", bytes.Repeat([]byte("x"), 1<<10)); err != nil {
				return
			}
		}
	}},
	{"slow", func(ctx context.Context, e entrance, c net.Conn) {
		for _, b := range []byte(get(e, e.cheap)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			passes(ctx, 50*time.Millisecond)
		}
	}},
	{"drip", func(ctx context.Context, e entrance, c net.Conn) {
		_, err := io.WriteString(c, get(e, e.endless))
		for b := make([]byte, 1); err == nil; {
			_, err = c.Read(b)
			passes(ctx, 20*time.Millisecond)
		}
	}},
	{"gone", func(context.Context, entrance, net.Conn) {}},
}

func get(e entrance, path string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, e.host)
}

// dialAs returns what connects to a unix socket as another user, of root's
// group. The kernel tells the server who the thread was (unix_stream_connect,
// net/unix/af_unix.c), so a thread of its own does it until ctx ends.
func dialAs(ctx context.Context, uid int, path string) (func() (net.Conn, error), error) {
	type result struct {
		conn net.Conn
		err  error
	}
	calls, ready := make(chan chan result), make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		const same = ^uintptr(0)
		// That of package syscall would change all threads.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			ready <- fmt.Errorf("becoming user %d: %w", uid, errno)
			return
		}
		ready <- nil
		for {
			select {
			case <-ctx.Done():
				return
			case answer := <-calls:
				c, err := connect(path)
				answer <- result{c, err}
			}
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return func() (net.Conn, error) {
		answer := make(chan result, 1)
		select {
		case calls <- answer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		r := <-answer
		return r.conn, r.err
	}, nil
}

// connect connects to a unix socket by the calling thread, and does not wait for
// a place.
func connect(path string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}
