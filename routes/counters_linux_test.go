package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

func openCounters(tb testing.TB, ns *lab.NS) *Counters {
	tb.Helper()
	var c *Counters
	if err := ns.Do(func() (err error) { c, err = OpenCounters(); return err }); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// TestCounters: packets are counted where and in the direction that they went,
// also after a request that nobody waited for.
func TestCounters(t *testing.T) {
	w := newWorld(t)
	c := openCounters(t, w.ns)
	read := func() map[int]Counter {
		t.Helper()
		m, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		return maps.Clone(m)
	}
	eth0, eth1 := w.index("eth0"), w.index("eth1")
	before := read()
	for _, index := range []int{1, eth0, eth1} {
		if _, ok := before[index]; !ok {
			t.Errorf("no counters of interface %d in %v", index, before)
		}
	}
	send := func(from *lab.NS, local, to string, n int) {
		t.Helper()
		conn, err := from.DialUDP(lab.Socket{Local: netip.AddrPortFrom(addr(local), 0)}, addrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range n {
			if _, err := conn.Write([]byte("x")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
		}
	}
	// Nobody listens and nobody answers: the far end has no such address.
	neighbourOf(t, w.ns, "eth1", "198.18.1.9")
	var err error
	if closed := c.raw.Control(func(fd uintptr) { err = askCounters(int(fd)) }); closed != nil || err != nil {
		t.Fatal(closed, err)
	}
	send(w.ns, "198.18.1.2", "198.18.1.9:9", 1000)
	between := read()
	if out := between[eth1].Out - before[eth1].Out; out < 1000 || out > 1100 {
		t.Errorf("eth1 sent %d packets, want 1000 and a few", out)
	}
	if in := between[eth1].In - before[eth1].In; in > 100 {
		t.Errorf("eth1 received %d packets, nobody sent any", in)
	}
	if out := between[eth0].Out - before[eth0].Out; out > 100 {
		t.Errorf("eth0 sent %d packets, want a few", out)
	}

	if err := w.far.AddAddr("eth1", prefix("198.18.1.1/24")); err != nil {
		t.Fatal(err)
	}
	neighbourOf(t, w.far, "eth1", "198.18.1.9")
	send(w.far, "198.18.1.1", "198.18.1.9:9", 1000)
	for deadline := time.Now().Add(5 * time.Second); read()[eth1].In < between[eth1].In+1000; {
		if time.Now().After(deadline) {
			t.Fatalf("eth1 received %d packets, want 1000", read()[eth1].In-between[eth1].In)
		}
	}
	f, err := w.k.Facts()
	if err != nil {
		t.Fatal(err)
	}
	now := read()[eth1]
	if l := f.Link("eth1"); l.RxPackets < between[eth1].In+1000 || l.RxPackets > now.In || l.TxPackets < before[eth1].Out+1000 || l.TxPackets > now.Out ||
		l.RxBytes < between[eth1].InBytes || l.RxBytes > now.InBytes || l.TxBytes < between[eth1].OutBytes || l.TxBytes > now.OutBytes {
		t.Errorf("facts say %d in, %d out; the counters %+v", l.RxPackets, l.TxPackets, now)
	}

	c.Close()
	if m, err := c.Read(); err == nil {
		t.Errorf("after Close: %v", m)
	}
}

// TestCountersSilence: a kernel that keeps silent is an error, not the end.
func TestCountersSilence(t *testing.T) {
	w := newWorld(t)
	c := openCounters(t, w.ns)
	var m map[int]Counter
	var err error
	if closed := c.raw.Control(func(fd uintptr) { m, err = c.answer(int(fd)) }); closed != nil || !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("%v, %v, %v", m, err, closed)
	}
	if m, err := c.Read(); err != nil || len(m) < 4 {
		t.Errorf("afterwards: %v, %v", m, err)
	}
}

func TestDecodeCounter(t *testing.T) {
	t.Parallel()
	head := func(index uint32) []byte {
		return append(binary.NativeEndian.AppendUint32(make([]byte, 4), index), 0, 0, 0, 0)
	}
	attr := func(typ uint16, n int, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(n))
		return append(binary.NativeEndian.AppendUint16(b, typ), body...)
	}
	var stats []byte
	for _, n := range []uint64{1 << 40, 7, 1 << 50, 700} {
		stats = binary.NativeEndian.AppendUint64(stats, n)
	}
	for _, tt := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"whole", append(head(3), attr(1, 36, stats...)...), true},
		{"with padding and more counters", append(append(head(3), attr(6, 4)...), attr(1, 44, append(stats, 9, 9, 9, 9, 9, 9, 9, 9)...)...), true},
		{"nothing", nil, false},
		{"half a header", head(3)[:11], false},
		{"no attributes", head(3), false},
		{"another attribute", append(head(3), attr(2, 36, stats...)...), false},
		{"too few counters", append(head(3), attr(1, 28, stats[:24]...)...), false},
		{"longer than the message", append(head(3), attr(1, 200, stats...)...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			index, c, err := decodeCounter(tt.b)
			switch {
			case !tt.ok && !errors.Is(err, errCounter):
				t.Errorf("error %v", err)
			case tt.ok && (err != nil || index != 3 || c != Counter{In: 1 << 40, Out: 7, InBytes: 1 << 50, OutBytes: 700}):
				t.Errorf("%d, %+v, %v", index, c, err)
			}
		})
	}
}

// BenchmarkCounters reads the counters of 20 interfaces.
func BenchmarkCounters(b *testing.B) {
	ns, err := lab.NewNS("counters")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(ns.Close)
	for i := range 10 {
		if err := lab.Veth(ns, fmt.Sprintf("a%d", i), ns, fmt.Sprintf("b%d", i)); err != nil {
			b.Fatal(err)
		}
	}
	c := openCounters(b, ns)
	for b.Loop() {
		if m, err := c.Read(); err != nil || len(m) < 20 {
			b.Fatal(m, err)
		}
	}
}
