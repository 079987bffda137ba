package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

const (
	testMask  = 0xff000000
	testMark  = 0x01000000
	otherMark = 0x02000000
	foreign   = 0x00abcdef
)

// dialNS returns a Conn in a network namespace of its own, with an empty table.
func dialNS(tb testing.TB) *Conn {
	tb.Helper()
	ns, err := lab.NewNS("conntrack")
	if err != nil {
		tb.Skip(err)
	}
	tb.Cleanup(ns.Close)
	var c *Conn
	if err := ns.Do(func() (err error) {
		c, err = Dial()
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// udpEntry makes the i-th of many different connections of a family.
func udpEntry(family uint8, i int, mark uint32) Entry {
	src, dst := netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), 1}), addr("203.0.113.1")
	if family == FamilyIPv6 {
		src, dst = netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 24), 14: byte(i >> 16), 15: 1}), addr("2001:db8::1")
	}
	port := uint16(i)
	return Entry{
		Family: family, Proto: protoUDP, Mark: mark, Timeout: 3600, Status: StatusConfirmed,
		Orig:  Tuple{Src: src, Dst: dst, SrcPort: port, DstPort: 443},
		Reply: Tuple{Src: dst, Dst: src, SrcPort: 443, DstPort: port},
	}
}

// create inserts connections as if they had been seen; it needs no traffic and no rules.
// Where the machine's nf_conntrack_max is too low the test is skipped.
func create(tb testing.TB, c *Conn, entries []Entry) {
	tb.Helper()
	err := c.do("creating connections", func() error {
		var msgs []netlink.Message
		var failure error
		for i := range entries {
			e := entries[i]
			body := appendKey(nil, e)
			body = appendTuple(body, ctaTupleReply, e.Proto, e.Reply)
			body = appendU32(body, ctaTimeout, e.Timeout)
			body = appendU32(body, ctaStatus, uint32(e.Status))
			if e.Mark != 0 {
				body = appendU32(body, ctaMark, e.Mark)
			}
			msgs = append(msgs, message(msgNew, netlink.Create|netlink.Excl, body))
			if len(msgs) < batchSize && i < len(entries)-1 {
				continue
			}
			msgs[len(msgs)-1].Header.Flags |= netlink.Acknowledge
			if _, err := c.exchange(msgs, func(_ int, err error) { failure = err }); err != nil {
				return err
			}
			if failure != nil {
				return failure
			}
			msgs = msgs[:0]
		}
		return c.extend()
	})
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOSPC) {
		tb.Skipf("nf_conntrack_max is too low for %d connections: %v", len(entries), err)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// many makes n connections, half of each family, with marks in turn.
func many(n int, marks ...uint32) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		family := FamilyIPv4
		if i%2 == 1 {
			family = FamilyIPv6
		}
		entries[i] = udpEntry(family, i/2, marks[(i/2)%len(marks)])
	}
	return entries
}

func list(tb testing.TB, c *Conn, f Filter) []Entry {
	tb.Helper()
	var out []Entry
	if err := c.Each(f, func(e Entry) error {
		out = append(out, e)
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return out
}

func count(tb testing.TB, c *Conn, mask uint32) map[uint32]int {
	tb.Helper()
	counts, err := c.CountByMark(mask)
	if err != nil {
		tb.Fatal(err)
	}
	return counts
}

func TestList(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	want := map[Tuple]Entry{}
	var entries []Entry
	for _, e := range samples() {
		e.Timeout, e.Status = 3600, StatusConfirmed
		e.Orig.Zone, e.Reply.Zone = 0, 0
		e.Sent, e.Received, e.Counted, e.Start, e.TCPState = Counters{}, Counters{}, false, 0, 0
		entries = append(entries, e)
		want[e.Orig] = e
	}
	create(t, c, entries)

	got := map[Tuple]Entry{}
	for _, e := range list(t, c, Filter{}) {
		if e.ID == 0 {
			t.Errorf("no id: %v", e)
		}
		if e.Timeout == 0 || e.Timeout > 3600 {
			t.Errorf("timeout %d: %v", e.Timeout, e)
		}
		e.ID, e.Timeout = want[e.Orig].ID, 3600
		// The kernel completes the status of what it was told to create.
		e.Status &= StatusConfirmed
		got[e.Orig] = e
	}
	if diff := cmp.Diff(want, got, compareAddr); diff != "" {
		t.Errorf("unexpected list (-want +got):\n%s", diff)
	}
}

// TestListCounted: counters and the time of the beginning are there where the kernel is told
// to keep them.
func TestListCounted(t *testing.T) {
	t.Parallel()
	ns, err := lab.NewNS("conntrack")
	if err != nil {
		t.Skip(err)
	}
	defer ns.Close()
	var c *Conn
	if err := ns.Do(func() (err error) {
		c, err = Dial()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := udpEntry(FamilyIPv4, 1, testMark)
	create(t, c, []Entry{before})
	for _, key := range []string{"acct", "timestamp"} {
		if err := ns.Sysctl("net/netfilter/nf_conntrack_"+key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	began := uint64(time.Now().UnixNano())
	create(t, c, []Entry{udpEntry(FamilyIPv6, 1, testMark)})
	for _, e := range list(t, c, Filter{}) {
		if want := e.Family == FamilyIPv6; e.Counted != want || (e.Start != 0) != want {
			t.Errorf("%v: counted %v, started at %d; want %v for both", e, e.Counted, e.Start, want)
		}
		if e.Start != 0 && (e.Start < began-uint64(time.Second) || e.Start > uint64(time.Now().UnixNano())) {
			t.Errorf("%v: started at %d, want about %d", e, e.Start, began)
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	create(t, c, many(400, testMark|foreign, otherMark, 0, foreign))
	for _, tt := range []struct {
		name   string
		filter Filter
		want   int
	}{
		{"all", Filter{}, 400},
		{"one family", Filter{Family: FamilyIPv6}, 200},
		{"mark", Filter{Mark: testMark, Mask: testMask}, 100},
		{"no mark of ours", Filter{Mask: testMask}, 200},
		{"mark and family", Filter{Mark: testMark, Mask: testMask, Family: FamilyIPv4}, 50},
		{"whole mark", Filter{Mark: testMark | foreign, Mask: 0xffffffff}, 100},
		{"nothing", Filter{Mark: 0x55000000, Mask: testMask}, 0},
	} {
		got := list(t, c, tt.filter)
		if len(got) != tt.want {
			t.Errorf("%s: %d connections, want %d", tt.name, len(got), tt.want)
		}
		for _, e := range got {
			if e.Mark&tt.filter.Mask != tt.filter.Mark || tt.filter.Family != 0 && e.Family != tt.filter.Family {
				t.Errorf("%s: listed %v", tt.name, e)
			}
		}
	}
	if diff := cmp.Diff(map[uint32]int{0: 200, testMark: 100, otherMark: 100}, count(t, c, testMask)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[uint32]int{0: 400}, count(t, c, 0)); diff != "" {
		t.Errorf("unexpected counts without a mask (-want +got):\n%s", diff)
	}
}

// TestDeleteByMark: half of 100,000 connections carry the mark, the others survive.
func TestDeleteByMark(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	const n = 100_000
	create(t, c, many(n, testMark|foreign, otherMark|foreign))

	start := time.Now()
	if err := c.DeleteByMark(testMark, testMask, FamilyAny); err != nil {
		t.Fatal(err)
	}
	t.Logf("deleted %d of %d connections by mark in %v", n/2, n, time.Since(start))
	start = time.Now()
	if diff := cmp.Diff(map[uint32]int{otherMark: n / 2}, count(t, c, testMask)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}
	t.Logf("counted %d connections in %v", n/2, time.Since(start))
	if got := count(t, c, 0xffffffff)[otherMark|foreign]; got != n/2 {
		t.Errorf("%d connections have their whole mark, want %d", got, n/2)
	}
}

// TestDeleteByMarkOfOneFamily: the same mark in the other family survives, and so does
// another mark in the same.
func TestDeleteByMarkOfOneFamily(t *testing.T) {
	t.Parallel()
	for _, family := range []uint8{FamilyIPv4, FamilyIPv6} {
		c := dialNS(t)
		create(t, c, many(400, testMark|foreign, otherMark|foreign))
		if err := c.DeleteByMark(testMark, testMask, family); err != nil {
			t.Fatal(err)
		}
		left := map[Filter]int{}
		for _, f := range []uint8{FamilyIPv4, FamilyIPv6} {
			for _, mark := range []uint32{testMark, otherMark} {
				f := Filter{Mark: mark, Mask: testMask, Family: f}
				left[f] = len(list(t, c, f))
			}
		}
		want := map[Filter]int{
			{Mark: testMark, Mask: testMask, Family: FamilyIPv4}: 100, {Mark: otherMark, Mask: testMask, Family: FamilyIPv4}: 100,
			{Mark: testMark, Mask: testMask, Family: FamilyIPv6}: 100, {Mark: otherMark, Mask: testMask, Family: FamilyIPv6}: 100,
		}
		want[Filter{Mark: testMark, Mask: testMask, Family: family}] = 0
		if diff := cmp.Diff(want, left); diff != "" {
			t.Errorf("family %d: what is left (-want +got):\n%s", family, diff)
		}
	}
}

func TestDeleteByMarkZero(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	create(t, c, many(40, testMark, foreign))
	if err := c.DeleteByMark(0, testMask, FamilyAny); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[uint32]int{testMark: 20}, count(t, c, 0xffffffff)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}
}

func TestRefusedMasksTouchNothing(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	entries := many(10, testMark|foreign)
	create(t, c, entries)
	for name, err := range map[string]error{
		"delete, mask 0":     c.DeleteByMark(0, 0, FamilyAny),
		"delete, mark alone": c.DeleteByMark(testMark, 0, FamilyAny),
		"delete, stray bits": c.DeleteByMark(testMark|1, testMask, FamilyAny),
		"set, mask 0":        c.SetMark(entries[0], 0, 0),
		"set, stray bits":    c.SetMark(entries[0], 1, testMask),
		"each, stray bits":   c.Each(Filter{Mark: 1, Mask: testMask}, func(Entry) error { return nil }),
	} {
		if !errors.Is(err, ErrMask) {
			t.Errorf("%s: %v, want %v", name, err, ErrMask)
		}
	}
	if n, err := c.SetMarks([]MarkUpdate{{entries[0], otherMark, testMask}, {entries[1], 1, testMask}}); n != 0 || !errors.Is(err, ErrMask) {
		t.Errorf("a batch with an invalid update: %d, %v", n, err)
	}
	if n, err := c.DeleteAll([]Entry{entries[0], {}}); n != 0 || !errors.Is(err, errEntry) {
		t.Errorf("a batch with an invalid entry: %d, %v", n, err)
	}
	if diff := cmp.Diff(map[uint32]int{testMark | foreign: 10}, count(t, c, 0xffffffff)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}
}

// TestSetMarkKeepsForeignBits: whatever the caller believed the mark to be.
func TestSetMarkKeepsForeignBits(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	e := samples()["tcp6 in a zone"]
	e.Status, e.Mark = StatusConfirmed, testMark|foreign
	create(t, c, []Entry{e})
	stale := e
	stale.Mark = 0
	for _, step := range []struct{ mark, mask, want uint32 }{
		{otherMark, testMask, otherMark | foreign},
		{otherMark, testMask, otherMark | foreign}, // again: not toggled
		{0xff000000, testMask, 0xff000000 | foreign},
		{0, testMask, foreign},
		{0x0f, 0xff, foreign&^0xff | 0x0f},
	} {
		if err := c.SetMark(stale, step.mark, step.mask); err != nil {
			t.Fatal(err)
		}
		got := list(t, c, Filter{})
		if len(got) != 1 || got[0].Mark != step.want {
			t.Errorf("after setting %#x/%#x: %v, want mark %#x", step.mark, step.mask, got, step.want)
		}
	}
}

// TestSetMarks moves half of 100,000 connections while others among them are gone.
func TestSetMarks(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	const n = 100_000
	entries := many(n, testMark|foreign)
	create(t, c, entries[:n-10])
	updates := make([]MarkUpdate, n)
	for i, e := range entries {
		updates[i] = MarkUpdate{Entry: e, Mark: otherMark, Mask: testMask}
	}

	start := time.Now()
	updated, err := c.SetMarks(updates)
	if err != nil || updated != n-10 {
		t.Fatalf("SetMarks = %d, %v; want %d", updated, err, n-10)
	}
	t.Logf("set the marks of %d connections in %v", updated, time.Since(start))
	if diff := cmp.Diff(map[uint32]int{otherMark | foreign: n - 10}, count(t, c, 0xffffffff)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}

	start = time.Now()
	deleted, err := c.DeleteAll(entries[n/2:])
	if err != nil || deleted != n/2-10 {
		t.Fatalf("DeleteAll = %d, %v; want %d", deleted, err, n/2-10)
	}
	t.Logf("deleted %d connections one by one in %v", deleted, time.Since(start))
	if diff := cmp.Diff(map[uint32]int{0: n / 2}, count(t, c, 0)); diff != "" {
		t.Errorf("unexpected counts (-want +got):\n%s", diff)
	}
	if n, err := c.DeleteAll(nil); n != 0 || err != nil {
		t.Errorf("DeleteAll of nothing = %d, %v", n, err)
	}
}

func TestAllGone(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	// Every message of every datagram is answered with an error.
	entries := many(3*batchSize+1, testMark)
	if n, err := c.DeleteAll(entries); n != 0 || err != nil {
		t.Errorf("DeleteAll = %d, %v", n, err)
	}
	if err := c.SetMark(entries[0], otherMark, testMask); err != nil {
		t.Errorf("SetMark = %v", err)
	}
	if err := c.Delete(entries[0]); err != nil {
		t.Errorf("Delete = %v", err)
	}
}

func TestDeleteSparesYounger(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	create(t, c, []Entry{udpEntry(FamilyIPv4, 1, 0)})
	old := list(t, c, Filter{})[0]
	younger := old
	younger.ID++
	if n, err := c.DeleteAll([]Entry{younger}); n != 0 || err != nil {
		t.Errorf("DeleteAll with another id = %d, %v", n, err)
	}
	if n, err := c.DeleteAll([]Entry{old}); n != 1 || err != nil {
		t.Errorf("DeleteAll = %d, %v", n, err)
	}
}

func TestZonesAreTellApart(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	plain, zoned := udpEntry(FamilyIPv4, 1, 0), udpEntry(FamilyIPv4, 1, 0)
	zoned.Zone = 9
	create(t, c, []Entry{plain, zoned})
	if err := c.SetMark(zoned, testMark, testMask); err != nil {
		t.Fatal(err)
	}
	got := list(t, c, Filter{Mark: testMark, Mask: testMask})
	if len(got) != 1 || got[0].Zone != 9 {
		t.Fatalf("marked: %v", got)
	}
	if err := c.Delete(plain); err != nil {
		t.Fatal(err)
	}
	if got := list(t, c, Filter{}); len(got) != 1 || got[0].Zone != 9 {
		t.Errorf("left: %v", got)
	}
}

// TestKernelError: an error about one entry is reported with its text, the rest is done,
// and the socket stays usable.
func TestKernelError(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	entries := many(2*batchSize, testMark)
	create(t, c, entries)
	bad := entries[3]
	bad.Zone, bad.Orig.Zone = 5, 6 // the kernel refuses both at once
	before := c.nl
	n, err := c.DeleteAll(append([]Entry{bad}, entries...))
	if n != len(entries) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("DeleteAll = %d, %v; want %d and %v", n, err, len(entries), unix.EINVAL)
	}
	if c.nl != before {
		t.Error("the socket was given up for an error of one entry")
	}
	if left := count(t, c, 0); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestEachStops: an error of the callback ends the list at once, and the Conn works on.
func TestEachStops(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	// More than the socket buffers: the kernel waits for a reader.
	create(t, c, many(50_000, testMark))
	stop := errors.New("stop")
	seen := 0
	if err := c.Each(Filter{}, func(Entry) error {
		if seen++; seen == 10 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) || seen != 10 {
		t.Errorf("Each = %v after %d entries", err, seen)
	}
	// This dials anew, in the namespace of this thread, which is another one.
	if got := count(t, c, 0); got[0] != 0 {
		t.Errorf("after a stopped list: %v", got)
	}
}

// TestTimeout: the socket is replaced after a timeout and the next call works.
func TestTimeout(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	c.SetTimeout(time.Nanosecond)
	if _, err := c.CountByMark(0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("err = %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if c.nl != nil {
		t.Error("the socket was kept after a timeout")
	}
	c.SetTimeout(0)
	if _, err := c.CountByMark(0); err != nil {
		t.Errorf("after a timeout: %v", err)
	}
}

// TestSlowCallback: a list may take longer than the timeout as long as the kernel answers.
func TestSlowCallback(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	create(t, c, many(2000, testMark))
	const timeout = 100 * time.Millisecond
	c.SetTimeout(timeout)
	seen := 0
	start := time.Now()
	if err := c.Each(Filter{}, func(Entry) error {
		if seen++; seen%1000 == 0 {
			for deadline := time.Now().Add(2 * timeout); time.Now().Before(deadline); {
				runtime.Gosched() // busy, as a slow callback is
			}
		}
		return nil
	}); err != nil || seen != 2000 {
		t.Errorf("Each = %v after %d entries and %v", err, seen, time.Since(start))
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.CountByMark(0)
	for name, err := range map[string]error{
		"delete by mark": c.DeleteByMark(1, 1, FamilyAny),
		"count":          err,
		"each":           c.Each(Filter{}, func(Entry) error { return nil }),
		"set mark":       c.SetMark(udpEntry(FamilyIPv4, 1, 0), 1, 1),
		"delete":         c.Delete(udpEntry(FamilyIPv4, 1, 0)),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	create(t, c, many(1000, testMark))
	done := make(chan error)
	for i := range 8 {
		go func() {
			mark := uint32(i%2+1) << 24
			err := c.SetMark(udpEntry(FamilyIPv4, i, 0), mark, testMask)
			counts, err2 := c.CountByMark(0)
			if err2 == nil && counts[0] != 1000 {
				err2 = fmt.Errorf("counted %d", counts[0])
			}
			done <- errors.Join(err, err2)
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestDialWithoutPrivilege: a thread without CAP_NET_ADMIN is told what it lacks.
func TestDialWithoutPrivilege(t *testing.T) {
	t.Parallel()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends without its privileges
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		c, err := Dial()
		if err == nil {
			err = errors.Join(errors.New("no error without CAP_NET_ADMIN"), c.Close())
		}
		result <- err
	}()
	err := <-result
	const want = "opening ctnetlink: needs CAP_NET_ADMIN (root) in this network namespace"
	if !errors.Is(err, unix.EPERM) || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		t.Errorf("Dial = %v, want %q", err, want)
	}
}

// TestMemory: neither counting nor listing keeps anything per connection.
func TestMemory(t *testing.T) {
	c := dialNS(t)
	create(t, c, many(100_000, testMark))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	counts := count(t, c, testMask)
	runtime.ReadMemStats(&after)
	allocs := after.Mallocs - before.Mallocs
	t.Logf("counting %d connections: %d allocations, %d KiB in all", counts[testMark], allocs, (after.TotalAlloc-before.TotalAlloc)>>10)
	if allocs > 20_000 {
		t.Errorf("%d allocations for 100,000 connections: that is memory per connection", allocs)
	}
}

func BenchmarkCount(b *testing.B) {
	c := dialNS(b)
	create(b, c, many(100_000, testMark))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.CountByMark(testMask); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSetMarks(b *testing.B) {
	c := dialNS(b)
	entries := many(100_000, testMark)
	create(b, c, entries)
	updates := make([]MarkUpdate, len(entries))
	round := uint32(0)
	b.ReportAllocs()
	for b.Loop() {
		round++
		for i, e := range entries {
			updates[i] = MarkUpdate{Entry: e, Mark: round % 2 << 24, Mask: testMask}
		}
		if n, err := c.SetMarks(updates); n != len(entries) || err != nil {
			b.Fatal(n, err)
		}
	}
}
