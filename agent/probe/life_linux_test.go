package probe

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
	"multiroute/test/lab"
)

// Not parallel: it counts this process's goroutines and descriptors.
func TestProbesAreBoundedAndEndWithClose(t *testing.T) {
	w := newWorld(t, lab.NewRouter, lab.Options{})
	u := w.Uplinks[1]
	if err := u.Provider.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	addr, host := lab.InternetAddress, lab.InternetAddress.String()
	targets := []config.Target{
		icmpTarget(addr),
		tcpTarget(addr, 80),
		dnsTarget(addr, "www.example.org"),
		webTarget(config.HTTP, host, 80, "/", 0, ""),
		webTarget(config.HTTPS, host, 443, "/", 0, ""),
		named(config.ICMP, "target.example.org", 0),
		named(config.TCP, "target.example.org", 80),
	}
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	p := w.open(t, u, routes.IPv4, targets...)
	start := time.Now()
	for range 200 {
		for i := range targets {
			p.send(i, time.Hour)
		}
	}
	took := time.Since(start)
	const each = 4 // goroutines of an HTTP probe
	eventually(t, func() error {
		if n := runtime.NumGoroutine() - goroutines; n > each*maxOutstanding {
			return fmt.Errorf("%d goroutines more", n)
		}
		return nil
	})
	t.Logf("%d probes sent in %s; %d goroutines, %d descriptors more", p.token, took, runtime.NumGoroutine()-goroutines, descriptors(t)-files)

	start = time.Now()
	p.Close()
	if took := time.Since(start); took > time.Second {
		t.Errorf("closing took %s", took)
	}
	p.Close()
	p.send(0, time.Second)
	eventually(t, func() error {
		if g, f := runtime.NumGoroutine()-goroutines, descriptors(t)-files; g > 0 || f > 0 {
			return fmt.Errorf("%d goroutines and %d descriptors are left", g, f)
		}
		return nil
	})
	p.quiet(t)
}

// descriptors counts the files of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A clock that is set makes no wrong round trip times.
func TestReceived(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		stamp time.Time
		want  time.Duration // before now
	}{
		{now.Round(0).Add(-time.Millisecond), time.Millisecond},
		{now.Round(0), 0},
		{now.Round(0).Add(time.Hour), 0},
		{now.Round(0).Add(-time.Hour), 0},
	} {
		if got := now.Sub(received(now, c.stamp)); got != c.want {
			t.Errorf("stamp %s: %s ago, want %s", c.stamp, got, c.want)
		}
	}
}

// BenchmarkEcho is what one ICMP probe costs, with its answer: the processor time
// is that of both ends and everything between them.
func BenchmarkEcho(b *testing.B) {
	for _, family := range families {
		b.Run(family.String(), func(b *testing.B) {
			w := newWorld(b, lab.NewRouter, lab.Options{})
			answered := make(chan health.Result, 1)
			opener := Opener(Options{Random: rand.Reader, enter: w.Router.Do})
			p, err := opener(health.Leg{Uplink: "cable", Family: family}, w.path(b, w.Uplinks[1], family),
				[]config.Target{icmpTarget(internet(family))}, func(r health.Result) { answered <- r })
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			answer := func() health.Result {
				for {
					p.Collect()
					select {
					case r := <-answered:
						return r
					default:
					}
				}
			}
			p.Send(0, 0, patience) // neighbours are found
			answer()
			b.ReportAllocs()
			before := processor(b)
			for b.Loop() {
				p.Send(0, 1, patience)
				if r := answer(); r.Err != nil {
					b.Fatal(r.Err)
				}
			}
			b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// processor is the processor time this process has had.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What a gateway said before it was asked answers nothing.
func TestEarlyGateway(t *testing.T) {
	t.Parallel()
	gateway, now := netip.MustParseAddr("fe80::1"), time.Now()
	var results []health.Result
	p := &prober{
		leg:    health.Leg{Family: routes.IPv6},
		path:   health.Path{Gateway: gateway, Index: fuzzIndex},
		ctx:    t.Context(),
		result: func(r health.Result) { results = append(results, r) },
	}
	p.outstanding.add(sent{target: &target{Target: gatewayTarget}, token: 9, at: now, timeout: time.Second})
	for _, after := range []time.Duration{-time.Millisecond, 2 * time.Second, time.Millisecond, time.Millisecond} {
		p.heardGateway(message{
			data:  append([]byte{neighbourReply6, 0, 0, 0, 0xe0, 0, 0, 0}, gateway.AsSlice()...),
			to:    netip.MustParseAddr("fe80::2"),
			index: fuzzIndex,
			hops:  hopsND,
			at:    now.Add(after),
		})
	}
	if len(results) != 1 || results[0] != (health.Result{Token: 9, RTT: time.Millisecond}) || p.Ignored() != 3 {
		t.Errorf("results %v, %d ignored; want one, 3 ignored", results, p.Ignored())
	}
}

// Who may not open the sockets is told what is missing.
func TestNoRight(t *testing.T) {
	t.Parallel()
	open := Opener(Options{Random: rand.Reader, enter: func(func() error) error { return unix.EPERM }})
	path := health.Path{Interface: "eth1", Index: 1, Mark: 1, Source: netip.MustParseAddr("192.0.2.1")}
	_, err := open(health.Leg{Uplink: "dsl", Family: routes.IPv4}, path, []config.Target{icmpTarget(lab.InternetAddress)}, func(health.Result) {})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("error %v", err)
	}
}

// The probes of some rounds of all the targets that a leg may have wait together.
func TestManyProbesWait(t *testing.T) {
	t.Parallel()
	const targets, wait, pause = 8, 500 * time.Millisecond, 40 * time.Millisecond // of profile "fast"
	var o outstanding
	first := o.add(sent{token: 1})
	for range targets * (wait/pause + 1) {
		o.add(sent{})
	}
	if s, ok := o.take(first, anyProbe); !ok || s.token != 1 {
		t.Error("a probe is forgotten before its time is over")
	}
}
