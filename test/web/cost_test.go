//go:build linux

package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// house is a topology with an agent that serves HTTP.
func house(ctx context.Context, t *testing.T, o lab.Options, config func(*lab.Topology) string) (*lab.Topology, *rig.Agent) {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	folder, err := os.MkdirTemp("/run", "w") // the lab's own; short
	must(t, err)
	program, err := rig.Build(folder)
	must(t, err)
	top, err := lab.NewRouter(o)
	must(t, err)
	t.Cleanup(top.Close)
	a := rig.New(program, folder, top.Router)
	a.HTTP = "127.0.0.1:9780"
	must(t, a.Configure(config(top)))
	must(t, a.Run(ctx))
	t.Cleanup(func() {
		must(t, a.Close())
		if t.Failed() {
			t.Log(a.Log())
		}
	})
	return top, a
}

// transport connects from the router itself.
func transport(a *rig.Agent) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return a.Router.DialTCP(ctx, lab.Socket{}, to)
	}}
}

// usage returns the CPU time that a process has used, and its memory in bytes.
func usage(t *testing.T, pid int) (time.Duration, int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		must(t, err)
		ticks += n
	}
	pages, err := strconv.Atoi(fields[21]) // rss
	must(t, err)
	return time.Duration(ticks) * 10 * time.Millisecond, pages * os.Getpagesize()
}

// TestCost: what 16 uplinks, their probes and an open page take. The bounds are
// several times what is promised, as the machine may be busy.
func TestCost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, a := house(ctx, t, lab.Options{Uplinks: 16}, func(top *lab.Topology) string { return rig.Probing(top, nil) })
	_, err := a.Wait(ctx, func(s api.Status) bool { return s.Uplinks[15].State == api.Up && s.Uplinks[15].RTT != nil })
	must(t, err)
	client := &http.Client{Transport: transport(a)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.HTTP+"/events", nil)
	must(t, err)
	var received atomic.Int64
	response, err := client.Do(request)
	must(t, err)
	defer response.Body.Close()
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := response.Body.Read(b)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	if _, err := a.Get(ctx, "/history"); err != nil {
		t.Fatal(err)
	}
	select { // the start is over
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
	}
	length := 10 * time.Second
	before, _ := usage(t, a.PID())
	bytes := received.Load()
	select {
	case <-time.After(length):
	case <-ctx.Done():
	}
	after, memory := usage(t, a.PID())
	share := float64(after-before) / float64(length)
	t.Logf("%.2f %% of a CPU, %.1f MB, %d bytes/s to the page", 100*share, float64(memory)/1e6, (received.Load()-bytes)/10)
	if share > 0.05 || memory > 60e6 || received.Load() == bytes {
		t.Error("that is too much")
	}
}

// TestHostileClients: crowds at the door of the page and of the metrics keep
// neither a failover nor an honest client waiting.
func TestHostileClients(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	top, a := house(ctx, t, lab.Options{}, func(top *lab.Topology) string { return rig.Probing(top, nil, "[health]\nhold_down = \"0s\"\n") })
	up := func(s api.Status) bool { return s.Uplinks[0].State == api.Up && s.Uplinks[0].RTT != nil }
	fail := func() time.Duration {
		_, err := a.Wait(ctx, up)
		must(t, err)
		begin := time.Now()
		must(t, top.Uplinks[0].Provider.Blackhole(true))
		_, err = a.Wait(ctx, func(s api.Status) bool { return s.Uplinks[0].State == api.Down })
		must(t, err)
		d := time.Since(begin)
		must(t, top.Uplinks[0].Provider.Blackhole(false))
		return d
	}
	calm := fail()
	to := netip.MustParseAddrPort(a.HTTP)
	for range 1000 { // idle; the agent may show them the door
		c, err := a.Router.DialTCP(ctx, lab.Socket{}, to)
		must(t, err)
		defer c.Close()
	}
	ctxCrowd, stop := context.WithCancel(ctx)
	defer stop()
	var answers, refusals atomic.Int64
	for i := range 50 {
		path := []string{"/", "/metrics", "/history", "/explain?from=192.168.0.10&to=1.1.1.1", "/events"}[i%5]
		go func() {
			client := &http.Client{Transport: transport(a)}
			for ctxCrowd.Err() == nil {
				r, err := http.NewRequestWithContext(ctxCrowd, http.MethodGet, "http://"+a.HTTP+path, nil)
				if err != nil {
					return
				}
				response, err := client.Do(r)
				if err != nil {
					continue
				}
				if response.StatusCode == http.StatusOK {
					answers.Add(1)
				} else {
					refusals.Add(1)
				}
				_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
				_ = response.Body.Close()
			}
		}()
	}
	for refusals.Load() == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond) // a condition with a deadline
	}
	crowded := fail()
	t.Logf("a failover took %v, with hostile clients %v; %d answers, %d refusals", calm, crowded, answers.Load(), refusals.Load())
	if crowded > calm+2*time.Second {
		t.Error("the failover waited for them")
	}
	stop()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if text, err := a.Get(ctx, "/metrics"); err == nil && strings.Contains(text, "multiroute_ready 1") {
			break
		} else if time.Now().After(end) {
			t.Fatal("nobody is let in afterwards: ", err)
		}
	}
}
