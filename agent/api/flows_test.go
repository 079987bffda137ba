package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// flowsHandler lists what it was told to.
type flowsHandler struct {
	fakeHandler
	flows func(ctx context.Context, uplink string, each func(Flow) error) error
}

func (h *flowsHandler) Flows(ctx context.Context, uplink string, each func(Flow) error) error {
	return h.flows(ctx, uplink, each)
}

// Flows lists nothing.
func (*fakeHandler) Flows(context.Context, string, func(Flow) error) error { return nil }

var compareFlows = cmpopts.EquateComparable(netip.Addr{})

func testFlows() []Flow {
	return []Flow{
		{Uplink: new("dsl"), Protocol: "tcp",
			Source:      Endpoint{Address: netip.MustParseAddr("192.168.0.10"), Port: new(uint16(40000))},
			Destination: Endpoint{Address: netip.MustParseAddr("203.0.113.9"), Port: new(uint16(443))},
			NAT:         &Endpoint{Address: netip.MustParseAddr("198.51.100.7"), Port: new(uint16(40001))},
			Inbound:     &Endpoint{Address: netip.MustParseAddr("192.168.0.20"), Port: new(uint16(8443))},
			State:       "established", SentPackets: new(uint64(1)), SentBytes: new(uint64(1<<64 - 1)), ReceivedPackets: new(uint64(2)), ReceivedBytes: new(uint64(0)),
			Age: new(int64(0)), Timeout: new(uint32(9))},
		{Protocol: "icmpv6", Source: Endpoint{Address: netip.MustParseAddr("2001:db8::1"), ID: new(uint16(7))},
			Destination: Endpoint{Address: netip.MustParseAddr("2001:db8::2")}, State: "unreplied"},
	}
}

// send hands over n flows.
func send(n int, each func(Flow) error) error {
	f := testFlows()[0]
	for range n {
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

func TestFlows(t *testing.T) {
	t.Parallel()
	h := &flowsHandler{flows: func(_ context.Context, uplink string, each func(Flow) error) error {
		if uplink != "" && uplink != "a&b" {
			return UnknownUplink(uplink, []string{"a&b", "lte"})
		}
		for _, f := range testFlows() {
			if uplink == "" {
				f.Uplink = nil
			}
			if err := each(f); err != nil {
				return err
			}
		}
		return nil
	}}
	ts := startServer(t, h, nil)
	for _, uplink := range []string{"", "a&b"} {
		want := testFlows()
		if uplink == "" {
			want[0].Uplink = nil
		}
		var got []Flow
		if err := ts.client("member").Flows(t.Context(), uplink, func(f Flow) error { got = append(got, f); return nil }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareFlows); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", uplink, diff)
		}
	}

	c := ts.client("member")
	none := func(Flow) error { t.Error("a flow came"); return nil }
	if err := c.Flows(t.Context(), "dls", none); !errors.Is(err, ErrUnknown) || err.Error() != `unknown uplink "dls": known are a&b, lte` {
		t.Errorf("unknown uplink: %v", err)
	}
	if err := ts.client("nogroup").Flows(t.Context(), "", none); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a stranger: %v", err)
	}
	enough := errors.New("enough")
	if err := c.Flows(t.Context(), "", func(Flow) error { return enough }); err != enough {
		t.Errorf("error of the reader: %v", err)
	}
	for query, want := range map[string]string{
		"?uplink=":           "the parameter uplink is empty: write the name of an uplink, or leave it out",
		"?uplink=a&uplink=b": `the parameter "uplink" stands there twice: remove one`,
		"?uplnik=a":          `unknown parameter "uplnik": known is uplink`,
	} {
		_, err := c.do(t.Context(), http.MethodGet, pathFlows+query)
		var e *Error
		if !errors.As(err, &e) || e.Code != http.StatusBadRequest || e.Text != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}

// TestFlowsFail: what goes wrong in the middle of a list does not look like its end.
func TestFlowsFail(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 1000} {
		h := &flowsHandler{flows: func(_ context.Context, _ string, each func(Flow) error) error {
			return errors.Join(send(n, each), errors.New("the kernel said no"))
		}}
		got := 0
		err := startServer(t, h, nil).client("root").Flows(t.Context(), "", func(Flow) error { got++; return nil })
		var e *Error
		if !errors.As(err, &e) || e.Text != "the kernel said no" || got != n && got != 0 {
			t.Errorf("%d flows: %v after %d", n, err, got)
		}
		if cut := strings.HasPrefix(err.Error(), "the list is cut off after 1000 connections: "); cut != (n == 1000) {
			t.Errorf("%d flows: %v", n, err)
		}
	}
}

// TestFlowsAreStreamed: the client has the first while the last is not there yet, and
// neither side keeps what went by.
func TestFlowsAreStreamed(t *testing.T) {
	const n = 100_000
	var before, during runtime.MemStats
	arrived := make(chan struct{})
	h := &flowsHandler{flows: func(ctx context.Context, _ string, each func(Flow) error) error {
		if err := send(n, each); err != nil {
			return err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return errors.New("nothing arrived before the list was at its end")
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		return nil
	}}
	ts := startServer(t, h, func(s *Server) { s.limits.write = 10 * never }) // with the race detector, on a busy computer, it takes about a minute
	runtime.GC()
	runtime.ReadMemStats(&before)
	got := 0
	if err := ts.client("root").Flows(t.Context(), "", func(Flow) error {
		if got++; got == 1 {
			close(arrived)
		}
		return nil
	}); err != nil || got != n {
		t.Fatalf("%d flows: %v", got, err)
	}
	grown := int64(during.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("with %d flows the heap grew by %d KiB", n, grown>>10)
	if grown > 2<<20 {
		t.Errorf("with %d flows the heap grew by %d KiB: that is memory per flow", n, grown>>10)
	}
}

// TestFlowsToSleeper: a client that does not read is cut off, and the source let go.
func TestFlowsToSleeper(t *testing.T) {
	t.Parallel()
	over := make(chan error, 1)
	h := &flowsHandler{flows: func(_ context.Context, _ string, each func(Flow) error) error {
		err := send(1<<30, each)
		over <- err
		return err
	}}
	ts := startServer(t, h, func(s *Server) { s.limits.write = 100 * time.Millisecond })
	c := ts.dial(t, "member")
	if _, err := io.WriteString(c, "GET /v1/flows HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		if err == nil {
			t.Error("all of it was sent to nobody")
		}
	case <-time.After(never / 4):
		t.Fatal("the source is still held")
	}
	// What comes at last is not the end of a whole list.
	if err := c.SetReadDeadline(time.Now().Add(never)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err == nil && strings.HasSuffix(string(got), "\r\n0\r\n\r\n") && !strings.Contains(string(got), `{"error":`) {
		t.Error("it looks like the end of the list")
	}
}

// TestFlowsToSlowReader: a reader that takes too long is told that its list is not whole.
func TestFlowsToSlowReader(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	h := &flowsHandler{flows: func(_ context.Context, _ string, each func(Flow) error) error {
		defer close(over)
		return send(1<<30, each)
	}}
	ts := startServer(t, h, func(s *Server) { s.limits.write = 100 * time.Millisecond })
	got := 0
	err := ts.client("root").Flows(t.Context(), "", func(Flow) error {
		if got++; got == 1 {
			<-over
		}
		return nil
	})
	if err == nil || got < 10 || !strings.Contains(err.Error(), fmt.Sprintf("cut off after %d connections", got)) {
		t.Errorf("after %d flows: %v", got, err)
	}
}

// TestFlowsReaderLeaves: the source is let go when the client goes away.
func TestFlowsReaderLeaves(t *testing.T) {
	t.Parallel()
	over := make(chan error, 1)
	h := &flowsHandler{flows: func(_ context.Context, _ string, each func(Flow) error) error {
		err := send(1<<30, each)
		over <- err
		return err
	}}
	enough := errors.New("enough")
	if err := startServer(t, h, nil).client("member").Flows(t.Context(), "", func(Flow) error { return enough }); err != enough {
		t.Error(err)
	}
	select {
	case <-over:
	case <-time.After(never / 4):
		t.Error("the source is still held")
	}
}

// TestFlowsCrowd: only a few lists are sent at once, and root always finds room.
func TestFlowsCrowd(t *testing.T) {
	t.Parallel()
	var inside atomic.Int64
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	h := &flowsHandler{flows: func(ctx context.Context, _ string, each func(Flow) error) error {
		inside.Add(1)
		defer inside.Add(-1)
		entered <- struct{}{}
		select {
		case <-leave:
		case <-ctx.Done():
		}
		return nil
	}}
	ts := startServer(t, h, nil)
	done := make(chan error, 100)
	begin := func(name string) {
		go func() { done <- ts.client(name).Flows(t.Context(), "", func(Flow) error { return nil }) }()
	}
	ask := func(name string) error {
		return ts.client(name).Flows(t.Context(), "", func(Flow) error { return nil })
	}
	for range 3 {
		begin("member")
		<-entered
	}
	if err := ask("member"); !errors.Is(err, ErrBusy) || !strings.Contains(fmt.Sprint(err), "try again") {
		t.Errorf("one more member: %v, want %v", err, ErrBusy)
	}
	begin("root")
	<-entered
	if err := ask("root"); !errors.Is(err, ErrBusy) {
		t.Errorf("one more root: %v, want %v", err, ErrBusy)
	}
	if n := inside.Load(); n != 4 {
		t.Errorf("%d lists at once", n)
	}
	if _, err := ts.client("member").Status(t.Context()); err != nil {
		t.Errorf("another question meanwhile: %v", err)
	}
	close(leave)
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := ask("member"); err != nil {
		t.Errorf("after that: %v", err)
	}
}
