package probe

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// books is a DNS of a test.
type books struct {
	addrs []netip.Addr
	err   error
	asked int
	takes time.Duration
}

// resolve looks a name up.
func (b *books) resolve(ctx context.Context, _ string) ([]netip.Addr, error) {
	b.asked++
	select {
	case <-time.After(b.takes):
		return b.addrs, b.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// probe takes the name's address for a probe.
func probeName(t *testing.T, n *name, want netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, err := n.wait(t.Context(), ctx); err != nil || got != want {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
	synctest.Wait()
}

var first, second = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

func TestNameIsKeptForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &books{addrs: []netip.Addr{first, second}}
		n := &name{host: "example.org", resolve: b.resolve}
		start := time.Now()
		for time.Since(start) < freshFor {
			probeName(t, n, first)
			n.answered()
			time.Sleep(500 * time.Millisecond)
		}
		if b.asked != 1 {
			t.Errorf("looked up %d times in a minute", b.asked)
		}
		// The old address serves while the new one is looked up.
		b.addrs, b.takes = []netip.Addr{second}, time.Second
		time.Sleep(time.Second)
		probeName(t, n, first)
		n.answered()
		time.Sleep(2 * time.Second)
		probeName(t, n, second)
		if b.asked != 2 {
			t.Errorf("looked up %d times, want 2", b.asked)
		}
	})
}

func TestAnAddressThatDoesNotAnswerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &books{addrs: []netip.Addr{first, second}}
		n := &name{host: "example.org", resolve: b.resolve}
		start := time.Now()
		for time.Since(start) <= lookAgain {
			probeName(t, n, first)
			time.Sleep(100 * time.Millisecond)
		}
		probeName(t, n, first) // it is looked up meanwhile
		probeName(t, n, second)
		n.answered()
		if b.asked != 2 {
			t.Errorf("looked up %d times, want 2", b.asked)
		}
		// An address that answers stays, wherever it is in the list; also when the DNS has died.
		time.Sleep(2 * freshFor)
		probeName(t, n, second)
		n.answered()
		b.err = errors.New("no")
		for range 1000 {
			time.Sleep(freshFor)
			probeName(t, n, second)
		}
	})
}

func TestNameThatCannotBeResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &books{err: errors.New("no")}
		n := &name{host: "example.org", resolve: b.resolve}
		start := time.Now()
		for time.Since(start) < 10*time.Second {
			if _, err := n.wait(t.Context(), t.Context()); !errors.Is(err, b.err) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if b.asked > 11 {
			t.Errorf("looked up %d times in 10 seconds", b.asked)
		}
		b.err = nil
		time.Sleep(failAgain)
		if _, err := n.wait(t.Context(), t.Context()); err == nil {
			t.Error("no address is no error")
		}
		b.addrs, b.takes = []netip.Addr{first}, 3*time.Second
		time.Sleep(failAgain)
		// A probe waits as long as it wants; the look-up goes on.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.wait(t.Context(), ctx); !timedOut(err) {
			t.Errorf("got %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		probeName(t, n, first)
	})
}
