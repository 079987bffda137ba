package routes

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestForeignRules: what wg-quick and Tailscale write, the kernel's own rules,
// and none of ours.
func TestForeignRules(t *testing.T) {
	w := newWorld(t)
	h := w.ns.Handle()
	add := func(priority, table int, change func(*netlink.Rule)) {
		t.Helper()
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table = int(IPv4), priority, table
		change(r)
		if err := h.RuleAdd(r); err != nil {
			t.Fatal(err)
		}
	}
	all := uint32(0xffffffff)
	add(9999, 51820, func(r *netlink.Rule) { r.Mark, r.Mask, r.Invert = 51820, &all, true })
	add(9998, TableMain, func(r *netlink.Rule) { r.SuppressPrefixlen = 0 })
	add(5270, 52, func(*netlink.Rule) {})
	add(5000, 52, func(r *netlink.Rule) { r.IifName = "eth1" })
	w.apply(Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001)}, Routes: []Route{defaultVia(20001, w.hop("198.18.1.1", "eth1", 1))}})
	if err := h.RouteAdd(&netlink.Route{Table: 51820, Dst: ipNet(IPv4.Default()), LinkIndex: w.index("eth2"), Scope: unix.RT_SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	found, err := w.k.ForeignRules()
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(r ForeignRule) bool { return r.Family == IPv6 })
	for i := range found {
		found[i].Protocol = 0 // the kernel's own have one since 4.17
	}
	want := []ForeignRule{
		{Family: IPv4, Priority: 0, Table: 255},
		{Family: IPv4, Priority: 5000, Table: 52, Narrow: true},
		{Family: IPv4, Priority: 5270, Table: 52},
		{Family: IPv4, Priority: 9998, Table: TableMain, NoDefault: true},
		{Family: IPv4, Priority: 9999, Table: 51820, Mark: 51820, Mask: all, Not: true, Default: true},
		{Family: IPv4, Priority: 32766, Table: TableMain},
		{Family: IPv4, Priority: 32767, Table: 253},
	}
	if !slices.Equal(found, want) {
		t.Errorf("found  %+v\nwanted %+v", found, want)
	}
}

// TestProbe: this kernel has everything.
func TestProbe(t *testing.T) {
	w := newWorld(t)
	var missing []Feature
	if err := w.ns.Do(func() (err error) { missing, err = w.k.Probe(); return err }); err != nil || len(missing) > 0 {
		t.Errorf("missing: %v, %v", missing, err)
	}
	if s := w.read(); len(s.Rules) != 4 || len(s.Routes) != 1 {
		t.Errorf("it did not write what it was to try:\n%s", s)
	}
}

// TestLargeReceive: a card without it is told from one that is not there.
func TestLargeReceive(t *testing.T) {
	w := newWorld(t)
	err := w.ns.Do(func() error {
		if on, err := LargeReceive("eth0"); err != nil || on {
			t.Errorf("veth: %v, %v", on, err)
		}
		if on, err := LargeReceive("eth9"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("no interface: %v, %v", on, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
