package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
)

func TestPage(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	w := get(t, s, "/")
	body := w.Body.String()
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatal(w.Code, w.Header())
	}
	for id := range s.shownTo(t) { // what is told anew has a place
		if !strings.Contains(body, `id="`+id+`"`) {
			t.Errorf("the page has no %s", id)
		}
	}
	for _, text := range []string{
		"1 of 2 uplinks are up: cable is down", "<b>dsl</b>", "12 ms", "no answer from 1.1.1.1 &lt;for&gt; 1s; back in 8 s at the earliest", "something is &lt;odd&gt;",
		"Nobody carries it", "60 %", "moved within 1s", "<small>#1</small>", "<small>#2</small>", "50 of 65536 connections", ">UTC&#43;00:00<", `data-uplinks="dsl cable"`,
	} {
		if !strings.Contains(body, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
	// What the policy would forbid, and what would be asked of others.
	for _, wrong := range []string{" style=", "<style", " onclick", "javascript:", "://", "<odd>", "<for>"} {
		if strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), wrong) {
			t.Errorf("the page has %q in it", wrong)
		}
	}
	for path := range assets {
		if strings.HasSuffix(path, ".txt") {
			continue
		}
		if !strings.Contains(body, `"`+path+`"`) {
			t.Errorf("nobody loads %s", path)
		}
		w := get(t, s, path)
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("%s: %d", path, w.Code)
		}
		if again := get(t, s, path, "If-None-Match", w.Header().Get("Etag")); again.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.Code)
		}
	}
	if w := get(t, served(t, nil), "/"); w.Code != 200 || !strings.Contains(w.Body.String(), "The agent is starting") {
		t.Errorf("before the first look: %d\n%s", w.Code, w.Body)
	}
}

// shownTo returns what a page that is open is told at first.
func (s *Server) shownTo(t *testing.T) map[string]string {
	t.Helper()
	c, err := s.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer s.streams.leave(c)
	return s.shown.parts
}

func TestExplainForm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query string
		code  int
		text  string
	}{
		{"?from=192.168.0.1&to=1.1.1.1:443&protocol=udp", 200, "It leaves by dsl."},
		{"?from=local&to=1.1.1.1", 200, "It comes in by &lt;eth0&gt;"},
		{"?from=1.1.1.1&to=8.8.8.4", 200, "It may leave by dsl, lte."},
		{"?from=1.1.1.1&to=8.8.8.5", 200, "It leaves by one of dsl, lte."},
		{"?from=%3Cscript%3E&to=1.1.1.1", 400, "&lt;script&gt;"},
		{"?from=1.1.1.1", 400, "Write both"},
		{"?from=1.1.1.1&to=" + strings.Repeat("x", 3000), 400, "is no address"},
		{"?from=1.1.1.1&to=1.1.1.1&protocol=nonsense", 400, "protocol is"},
		{"?from=1.1.1.1&to=8.8.8.1", 400, "say by which interface"},
		{"?from=1.1.1.1&to=8.8.8.2", 503, "the agent is busy"},
		{"?from=1.1.1.1&to=8.8.8.3", 500, "no memory"},
		{"", 400, "Write both"},
	} {
		w := get(t, served(t, sample()), "/explain"+tt.query)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.text) || strings.Contains(w.Body.String(), "<script>") {
			t.Errorf("%s: %d, without %q\n%s", tt.query, w.Code, tt.text, w.Body)
		}
	}
}

// listening serves on a loopback address.
func listening(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// follow opens a stream and returns its messages.
func follow(t *testing.T, address string) (*http.Response, *bufio.Reader) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response, bufio.NewReaderSize(response.Body, 1<<16)
}

type told struct {
	Uplinks string
	Parts   map[string]string
	T       int64
	Points  map[string][]*float64
}

func next(t *testing.T, r *bufio.Reader) told {
	t.Helper()
	var m told
	line, err := r.ReadString('\n')
	text, ok := strings.CutPrefix(line, "data: ")
	if err != nil || !ok || json.Unmarshal([]byte(text), &m) != nil {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return m
}

// A page is told everything at first, and then what has changed.
func TestStream(t *testing.T) {
	t.Parallel()
	n := sample()
	s := served(t, n)
	s.limits.read = 50 * time.Millisecond // a stream outlives it
	response, r := follow(t, listening(t, s))
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(response)
	}
	m := next(t, r)
	if m.Uplinks != "dsl cable" || m.Parts["u-dsl-rtt"] != "12 ms" || !strings.Contains(m.Parts["u-cable-state"], "down") || m.Points != nil {
		t.Errorf("%+v", m)
	}
	if !strings.Contains(m.Parts["log"], "<small>#2</small>") {
		t.Errorf("the log without the numbers of its changes: %s", m.Parts["log"])
	}
	later := *n
	later.Time = n.Time.Add(2 * time.Second)
	later.Status.Uplinks = slices.Clone(n.Status.Uplinks)
	later.Status.Uplinks[0].RTT, later.Status.Uplinks[0].Interface = ptr(20.0), "ppp<0>"
	later.Traffic = map[string]Traffic{"dsl": {InBytes: 1e6 + 250, OutBytes: 2e5 + 125}}
	time.Sleep(100 * time.Millisecond) // longer than a request may take to arrive
	s.Publish(&later)
	m = next(t, r)
	if m.Parts["u-dsl-rtt"] != "20 ms" || m.Parts["u-dsl-interface"] != "ppp&lt;0&gt;" || m.Parts["u-dsl-in"] != "1.0 kbit/s" || m.T != later.Time.Unix() || *m.Points["dsl"][3] != 1000 || *m.Points["dsl"][4] != 500 || m.Points["cable"][0] != nil {
		t.Errorf("%+v", m)
	}
	if _, ok := m.Parts["log"]; ok || len(m.Parts) > 6 {
		t.Errorf("what has not changed is told again: %v", m.Parts)
	}
}

// Before there is anything to tell, a page is told to come back.
func TestStreamTooEarly(t *testing.T) {
	t.Parallel()
	if w := get(t, served(t, nil), "/events"); w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "the agent is starting") {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), w.Body)
	}
}

// There is room for some; who does not listen is dropped, and nobody waits.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	s.limits.streams = 2
	address := listening(t, s)
	_, first := follow(t, address)
	next(t, first)
	follow(t, address)
	if third, _ := follow(t, address); third.StatusCode != http.StatusServiceUnavailable || third.Header.Get("Retry-After") == "" {
		t.Errorf("the third: %d", third.StatusCode)
	} else if text, err := io.ReadAll(third.Body); err != nil || !strings.Contains(string(text), "too many pages") {
		t.Errorf("the third: %s, %v", text, err)
	}
	// The second never reads. Its buffers fill up: then it has to go.
	n := *sample()
	begin := time.Now()
	for i := 0; ; i++ {
		n.Time = n.Time.Add(time.Second)
		n.Status.Warnings = []string{strings.Repeat("x", 100000) + strconv.Itoa(i)}
		c := n
		s.Publish(&c)
		next(t, first)
		s.streams.mu.Lock()
		left := len(s.streams.clients)
		s.streams.mu.Unlock()
		if left == 1 {
			break
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatal("nobody was dropped")
		}
	}
}

// Idle clients keep nobody out.
func TestIdleClients(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	s.limits.connections = 4
	address := listening(t, s)
	for range 40 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	response, err := client.Get("http://" + address + "/")
	if err != nil || response.StatusCode != 200 {
		t.Fatal(response, err)
	}
	_ = response.Body.Close()
}

// A request that never ends is ended, and so is one with long headers.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	s.limits.read = 100 * time.Millisecond
	address := listening(t, s)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: 127", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 20000) + "\r\n\r\n"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			continue // it was shown the door already
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		answer, err := bufio.NewReader(c).ReadString('\n')
		if strings.Contains(answer, "200") || os.IsTimeout(err) {
			t.Errorf("%.30s: %q, %v", text, answer, err)
		}
	}
}

// full returns a history of an hour and more.
func full(uplinks int) (*history, *Snapshot) {
	h := &history{}
	var n *Snapshot
	for i := range historyKept + 100 {
		n = &Snapshot{Time: noon.Add(time.Duration(i) * historyStep), Traffic: map[string]Traffic{}}
		for u := range uplinks {
			name := fmt.Sprintf("uplink%d", u)
			n.Status.Uplinks = append(n.Status.Uplinks, api.UplinkStatus{Name: name, State: api.Up, RTT: ptr(float64(i) + 0.25), Jitter: ptr(1.0), Loss: ptr(0.0), Connections: ptr(i)})
			n.Traffic[name] = Traffic{InBytes: uint64(i) * 25e6, OutBytes: uint64(i) * 25e5}
		}
		h.add(n)
	}
	return h, n
}

func TestHistory(t *testing.T) {
	t.Parallel()
	h, n := full(2)
	if h.add(&Snapshot{Time: n.Time.Add(time.Second)}) {
		t.Error("a point each second")
	}
	var got struct {
		T []int64
		U map[string][6][]*float64
	}
	if err := json.Unmarshal(h.appendJSON(nil), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.T) != historyKept || got.T[0] != noon.Add(100*historyStep).Unix() || got.T[historyKept-1] != n.Time.Unix() || !slices.IsSorted(got.T) {
		t.Errorf("%d times from %d to %d", len(got.T), got.T[0], got.T[len(got.T)-1])
	}
	u := got.U["uplink1"]
	if len(got.U) != 2 || len(u[0]) != historyKept || *u[0][0] != 100.25 || *u[3][5] != 1e8 || *u[4][5] != 1e7 || *u[5][historyKept-1] != historyKept+99 {
		t.Errorf("%d uplinks, %v", len(got.U), u[0][:3])
	}
	// One goes, one comes.
	h.add(&Snapshot{Time: n.Time.Add(historyStep), Status: api.Status{Uplinks: []api.UplinkStatus{{Name: "uplink0"}, {Name: "new", RTT: ptr(1.0)}}}})
	if len(h.points) != 2 || len(h.points["new"]) != historyKept || h.newest("new").rtt != 1 || !math.IsNaN(float64(h.newest("uplink0").rtt)) {
		t.Errorf("%d uplinks", len(h.points))
	}
}

// Where the clock is set back, what is in the future goes: times only grow.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for _, back := range []int{1, 10, historyKept - 1, 2 * historyKept} {
		h, n := full(2)
		for i := range 3 {
			m := *n
			m.Time = n.Time.Add(time.Duration(i-back) * historyStep)
			if !h.add(&m) {
				t.Fatalf("%d steps back: no point", back)
			}
		}
		var got struct {
			T []int64
			U map[string][6][]*float64
		}
		if err := json.Unmarshal(h.appendJSON(nil), &got); err != nil {
			t.Fatal(err)
		}
		want := max(historyKept-back-1, 0) + 3
		if len(got.T) != min(want, historyKept) || got.T[len(got.T)-1] != n.Time.Add(time.Duration(2-back)*historyStep).Unix() {
			t.Errorf("%d steps back: %d points until %d", back, len(got.T), got.T[len(got.T)-1])
		}
		for i, at := range got.T {
			u := got.U["uplink1"][0]
			if i > 0 && at <= got.T[i-1] || len(u) != len(got.T) || i < len(got.T)-3 && *u[i] != float64((at-noon.Unix())/2)+0.25 {
				t.Fatalf("%d steps back: point %d is %v at %d", back, i, *u[i], at)
			}
		}
	}
}

// TestHistoryMemory: an hour of 16 uplinks takes less than a megabyte.
func TestHistoryMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	h, _ := full(16)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes", grown)
	}
	t.Logf("as JSON %d bytes", len(h.appendJSON(nil)))
}

// BenchmarkRefresh is the work of a second while somebody looks: 16 uplinks.
func BenchmarkRefresh(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	h, n := full(16)
	s.history = *h
	b.ReportAllocs()
	for b.Loop() {
		m := *n
		m.Time = m.Time.Add(time.Second)
		if err := s.refresh(&m, true); err != nil {
			b.Fatal(err)
		}
	}
}

var colour = regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`)

// TestContrast: text can be read, in both colour schemes.
func TestContrast(t *testing.T) {
	t.Parallel()
	css, err := files.ReadFile("ui/style.css")
	if err != nil {
		t.Fatal(err)
	}
	schemes := strings.SplitN(string(css), "prefers-color-scheme: dark", 2)
	if len(schemes) != 2 {
		t.Fatal("one colour scheme")
	}
	for i, scheme := range schemes {
		c := map[string]string{}
		for _, m := range colour.FindAllStringSubmatch(scheme, -1) {
			c[m[1]] = m[2]
		}
		pairs := [][2]string{{"card", "accent"}}
		for _, text := range []string{"text", "muted", "accent", "down"} {
			pairs = append(pairs, [2]string{text, "page"}, [2]string{text, "card"})
		}
		for _, state := range api.States() {
			pairs = append(pairs, [2]string{string(state), "soft-" + string(state)})
		}
		pairs = append(pairs, [2]string{"text", "soft-degraded"})
		for _, p := range pairs {
			if r := contrast(t, c[p[0]], c[p[1]]); r < 4.5 {
				t.Errorf("scheme %d: %s on %s has a contrast of %.2f", i, p[0], p[1], r)
			}
		}
		for _, line := range []string{"rtt", "loss", "in", "out", "con"} { // graphics
			if r := contrast(t, c[line], c["card"]); r < 3 {
				t.Errorf("scheme %d: %s has a contrast of %.2f", i, line, r)
			}
		}
	}
}

// contrast is that of WCAG 2.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(c string) float64 {
		if len(c) != 7 {
			t.Fatalf("%q is no colour", c)
		}
		sum := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v, err := strconv.ParseUint(c[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			x := float64(v) / 255
			if x <= 0.03928 {
				x /= 12.92
			} else {
				x = math.Pow((x+0.055)/1.055, 2.4)
			}
			sum += weight * x
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
