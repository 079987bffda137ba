package alarm

import (
	"sync"
	"testing"
	"time"
)

// waits begins to wait and says when that ended.
func waits(a *Alarm) <-chan error {
	c := make(chan error, 1)
	go func() { c <- a.Wait() }()
	return c
}

func open(t *testing.T) *Alarm {
	t.Helper()
	a, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	a := open(t)
	for _, d := range []time.Duration{20 * time.Millisecond, 0, -time.Second} {
		began := time.Now()
		a.Set(d)
		if err := a.Wait(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < d || took > d+5*time.Second {
			t.Errorf("set to %v, it went off after %v", d, took)
		}
	}
	done := waits(a)
	select {
	case err := <-done:
		t.Fatalf("it went off again: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	a.Set(time.Hour)
	a.Set(0) // and not in an hour
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.Set(0)
	a.Set(time.Hour) // and not when it was set to before
	done = waits(a)
	select {
	case err := <-done:
		t.Fatalf("it went off by what it was set to before: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	a.Close()
	if err := <-done; err == nil {
		t.Error("it went off although it is closed")
	}
	a.Set(0)
	if err := a.Wait(); err == nil {
		t.Error("it can be set although it is closed")
	}
}

// TestTogether sets an alarm from many goroutines while one waits.
func TestTogether(t *testing.T) {
	t.Parallel()
	a := open(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				a.Set(0)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for a.Wait() == nil {
		}
	}()
	all.Wait()
	a.Close()
	<-done
}
