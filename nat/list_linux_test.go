package nat

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fillLists fills testLists with all that listed says of the addresses which
// random packets have.
func fillLists(t *testing.T, k *kernel) {
	t.Helper()
	var all []Listed
	for i := range byte(16) {
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, i}), netip.AddrFrom16([16]byte{0xfd, 15: i})} {
			for _, list := range testLists {
				if inList(list, a, listed) {
					all = append(all, Listed{list, a, time.Hour})
				}
			}
		}
	}
	k.fill(all)
}

func (k *kernel) fill(all []Listed) {
	k.t.Helper()
	if err := k.ns.Do(func() error { return k.table.Fill(all) }); err != nil {
		k.t.Fatal(err)
	}
}

// TestFill: an address stays for the newest timeout that it was given, also if
// another program added it in between, and many fit in.
func TestFill(t *testing.T) {
	k := newKernel(t)
	spec := ruleSpec()
	spec.Lists = testLists
	k.write(Compile(spec))
	one, six := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
	has := func(a netip.Addr) bool { return k.has(listSet("domain-x", a.Is6()), string(a.AsSlice())) }
	k.fill([]Listed{{"domain-x", one, 30 * time.Millisecond}, {"domain-x", six, time.Hour}, {"domain-y", six, time.Hour}})
	if !has(one) || !has(six) {
		t.Fatal("what was filled in is not there")
	}
	k.fill([]Listed{{"domain-x", one, time.Hour}, {"domain-x", six, 50 * time.Millisecond}})
	k.nft("", "add", "element", "inet", TableName, "domain-y4", "{ 203.0.113.1 }")
	k.fill([]Listed{{"domain-y", one, 50 * time.Millisecond}})
	gone := func(list string, a netip.Addr) bool { return !k.has(listSet(list, a.Is6()), string(a.AsSlice())) }
	for deadline := time.Now().Add(5 * time.Second); !gone("domain-x", six) || !gone("domain-y", one); {
		if time.Now().After(deadline) {
			t.Fatal("a shorter timeout was not taken")
		}
	}
	if !has(one) {
		t.Error("a longer timeout was not taken")
	}

	var many []Listed
	for i := range 3 * maxFilled {
		many = append(many, Listed{"domain-z", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), time.Hour})
	}
	k.fill(many)
	if n := strings.Count(k.nft("", "list", "set", "inet", TableName, "domain-z4"), "expires"); n != len(many) {
		t.Errorf("%d elements, wanted %d", n, len(many))
	}
	if err := k.ns.Do(func() error { return k.table.Empty([]string{"domain-z", "domain-x"}) }); err != nil {
		t.Fatal(err)
	}
	if has(one) || !gone("domain-z", many[0].Addr) {
		t.Error("emptied lists are not empty")
	}
	if err := k.ns.Do(func() error { return k.table.Fill([]Listed{{"domain-none", one, time.Hour}}) }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a list that does not exist: %v", err)
	}
}

// TestAddresses: a list tells what is in it, in many messages, and what came to
// stay does.
func TestAddresses(t *testing.T) {
	k := newKernel(t)
	spec := ruleSpec()
	spec.Lists = testLists
	k.write(Compile(spec))
	want := []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	for i := range 5000 {
		want = append(want, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	all := []Listed{{"domain-y", want[0], time.Hour}}
	for _, a := range want {
		all = append(all, Listed{"domain-x", a, Forever})
	}
	k.fill(all)
	slices.SortFunc(want, netip.Addr.Compare)
	// While the kernel makes room for many, some are told twice and others not (rhashtable_walk_start, lib/rhashtable.c).
	for deadline := time.Now().Add(10 * time.Second); ; {
		var got []netip.Addr
		if err := k.ns.Do(func() (err error) { got, err = k.table.Addresses("domain-x"); return err }); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d addresses, wanted %d", len(got), len(want))
		}
	}
	if text := k.nft("", "list", "set", "inet", TableName, "domain-x6"); strings.Contains(text, "expires") {
		t.Errorf("it has a timeout:\n%s", text)
	}
	if err := k.ns.Do(func() error { _, err := k.table.Addresses("domain-none"); return err }); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a list that does not exist: %v", err)
	}
}

// TestFillFull: a list that is full leaves the others alone, and its other
// family; what it has can be renewed, and comes into what is free again.
func TestFillFull(t *testing.T) {
	k := newKernel(t)
	spec := ruleSpec()
	spec.Lists = testLists
	k.write(Compile(spec))
	var many []Listed
	for i := range MaxListed {
		many = append(many, Listed{"domain-x", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), time.Hour})
	}
	one, six := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
	rest := []Listed{{"domain-x", one, time.Hour}, {"domain-x", six, time.Hour}, {"domain-y", one, time.Hour}, {"domain-z", one, time.Hour}}
	has := func(list string, a netip.Addr) bool { return k.has(listSet(list, a.Is6()), string(a.AsSlice())) }
	k.fill(many)
	err := k.ns.Do(func() error { return k.table.Fill(rest) })
	if !errors.Is(err, unix.ENFILE) || !strings.Contains(err.Error(), "filling set domain-x4: ") || !strings.Contains(err.Error(), "(the set is full)") {
		t.Errorf("one more than fits: %v", err)
	}
	if has("domain-x", one) || !has("domain-x", six) || !has("domain-y", one) || !has("domain-z", one) {
		t.Error("one list that is full took others with it")
	}
	k.fill(many)
	many[0].Timeout = 0
	k.fill(many[:1])
	again := time.NewTicker(100 * time.Millisecond) // each attempt keeps the kernel from clearing away
	defer again.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-again.C {
		if err = k.ns.Do(func() error { return k.table.Fill(rest[:1]) }); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("where one went, there is no room: %v", err)
		}
	}
	if !has("domain-x", one) || !has("domain-x", many[MaxListed-1].Addr) {
		t.Error("what fits is not there")
	}
}
