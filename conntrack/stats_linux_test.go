package conntrack

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestStats: as many entries as there are, and the limit that the kernel has.
func TestStats(t *testing.T) {
	t.Parallel()
	c := dialNS(t)
	before, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	create(t, c, many(50, 1))
	after, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after.Entries != before.Entries+50 || after.Dropped != 0 || after.InsertFailed != 0 {
		t.Errorf("%+v, then %+v after 50 more", before, after)
	}
	if limit, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max"); err == nil && strings.TrimSpace(string(limit)) == "0" != (after.Limit == 0) {
		t.Errorf("limit %d, and nf_conntrack_max is %s", after.Limit, limit)
	}
	if n := count(t, c, ^uint32(0))[1]; n != 50 { // the socket is in order
		t.Errorf("%d of 50 are there", n)
	}
}

func TestDecodeStats(t *testing.T) {
	t.Parallel()
	head := []byte{0, 0, 0, 0}
	value := func(typ, n byte) []byte { return []byte{8, 0, typ, 0, 0, 0, 0, n} }
	if !littleEndian() {
		value = func(typ, n byte) []byte { return []byte{0, 8, 0, typ, 0, 0, 0, n} }
	}
	var s Stats
	for range 2 {
		if err := s.addCPU(join(head, value(9, 1), value(10, 2), value(11, 3), value(12, 4))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.decodeFill(join(head, value(1, 5), value(2, 6), value(3, 7))); err != nil {
		t.Fatal(err)
	}
	if want := (Stats{Entries: 5, Limit: 6, InsertFailed: 2, Dropped: 4, EarlyDropped: 6}); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	for _, b := range [][]byte{nil, head[:3], join(head, value(9, 1)[:7]), join(head, value(9, 1)[:3])} {
		if err := s.addCPU(b); !errors.Is(err, errMalformed) {
			t.Errorf("%v: error %v", b, err)
		}
	}
}
