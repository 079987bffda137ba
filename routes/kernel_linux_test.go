package routes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// world is a router with three Ethernet interfaces in a namespace.
type world struct {
	t   *testing.T
	ns  *lab.NS
	k   *Kernel
	far *lab.NS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	w := &world{t: t}
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.ns, err = lab.NewNS("router")
	must(err)
	w.far, err = lab.NewNS("far")
	must(err)
	for i, name := range []string{"eth0", "eth1", "eth2"} {
		must(lab.Veth(w.ns, name, w.far, name))
		must(w.ns.Up(name))
		must(w.far.Up(name))
		must(w.ns.AddAddr(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 2}), 24)))
		must(w.ns.AddAddr(name, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(i), 15: 2}), 64)))
	}
	must(w.ns.WaitRunning("eth0", "eth1", "eth2"))
	must(w.ns.Do(func() error { w.k, err = Open(); return err }))
	t.Cleanup(func() {
		w.k.Close()
		w.ns.Close()
		w.far.Close()
	})
	return w
}

func (w *world) index(name string) int {
	w.t.Helper()
	l, err := w.ns.Link(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Attrs().Index
}

func (w *world) hop(gateway, iface string, weight int) Nexthop {
	w.t.Helper()
	return hop(gateway, iface, w.index(iface), weight)
}

func (w *world) read() Spec {
	w.t.Helper()
	s, err := w.k.Read()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// apply makes the kernel hold want, and checks that it then does: what is
// written is read back as the same.
func (w *world) apply(want Spec) {
	w.t.Helper()
	ops := Diff(w.read(), want)
	if err := w.k.Apply(ops); err != nil {
		w.t.Fatalf("%v\nall: %q", err, texts(ops))
	}
	have := w.read()
	if left := Diff(have, want); len(left) > 0 {
		w.t.Fatalf("after writing, there is still to do:\n%s\nhave:\n%s", strings.Join(texts(left), "\n"), have)
	}
	if len(have.Routes) != len(want.Routes) || len(have.Rules) != len(want.Rules) {
		w.t.Fatalf("have %d routes and %d rules, wanted %d and %d:\n%s", len(have.Routes), len(have.Rules), len(want.Routes), len(want.Rules), have)
	}
}

func six(r Route) Route {
	r.Family = IPv6
	if r.Dst == IPv4.Default() {
		r.Dst = IPv6.Default()
	}
	if r.Metric == 0 {
		r.Metric = Metric6
	}
	return r
}

// TestFixedPoint: every kind of route and rule is read back as it was written.
func TestFixedPoint(t *testing.T) {
	w := newWorld(t)
	onlink := w.hop("10.99.0.1", "eth1", 1)
	onlink.OnLink = true
	onlink6 := w.hop("2001:db8:99::1", "eth1", 1)
	onlink6.OnLink = true
	last := Route{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}
	kinds := []struct {
		name string
		spec Spec
	}{
		{"single", Spec{Routes: []Route{defaultVia(20001, w.hop("198.18.1.1", "eth1", 1))}}},
		{"single, IPv6", Spec{Routes: []Route{six(defaultVia(20001, w.hop("2001:db8:1::1", "eth1", 1)))}}},
		{"link-local gateway", Spec{Routes: []Route{six(defaultVia(20001, w.hop("fe80::1", "eth1", 1)))}}},
		{"no gateway", Spec{Routes: []Route{defaultVia(20001, w.hop("", "eth1", 1)), six(defaultVia(20001, w.hop("", "eth1", 1)))}}},
		{"multipath", Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.1.1", "eth1", 3), w.hop("198.18.2.1", "eth2", 1))}}},
		{"multipath, IPv6", Spec{Routes: []Route{six(defaultVia(20009, w.hop("2001:db8:1::1", "eth1", 3), w.hop("2001:db8:2::1", "eth2", 1)))}}},
		{"multipath, link-local", Spec{Routes: []Route{six(defaultVia(20009, w.hop("fe80::1", "eth1", 3), w.hop("fe80::1", "eth2", 1)))}}},
		{"multipath on one interface", Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.1.1", "eth1", 2), w.hop("198.18.1.254", "eth1", 5)),
			six(defaultVia(20009, w.hop("fe80::1", "eth1", 2), w.hop("fe80::2", "eth1", 5)))}}},
		{"multipath without a gateway", Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.1.1", "eth1", 3), w.hop("", "eth2", 1))}}},
		{"multipath, onlink", Spec{Routes: []Route{defaultVia(20009, onlink, w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, onlink6, w.hop("fe80::1", "eth2", 1)))}}},
		{"weight 256", Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.1.1", "eth1", 256), w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, w.hop("fe80::1", "eth1", 256), w.hop("fe80::1", "eth2", 1)))}}},
		{"unreachable", Spec{Routes: []Route{last, six(last)}}},
		{"multipath before unreachable", Spec{Routes: []Route{last, six(last), defaultVia(20009, w.hop("198.18.1.1", "eth1", 3), w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, w.hop("fe80::1", "eth1", 3), w.hop("fe80::1", "eth2", 1)))}}},
		{"blackhole", Spec{Routes: []Route{{Family: IPv4, Table: 20001, Dst: IPv4.Default(), Blackhole: true}, six(Route{Table: 20001, Dst: IPv4.Default(), Blackhole: true})}}},
		{"onlink", Spec{Routes: []Route{defaultVia(20001, onlink), six(defaultVia(20001, onlink6))}}},
		{"prefsrc", Spec{Routes: []Route{{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Source: addr("198.18.0.2"), Nexthops: []Nexthop{w.hop("198.18.1.1", "eth1", 1)}},
			{Family: IPv6, Table: 20009, Dst: IPv6.Default(), Metric: Metric6, Source: addr("2001:db8:0::2"), Nexthops: []Nexthop{w.hop("fe80::1", "eth1", 1)}}}}},
		{"prefsrc, multipath", Spec{Routes: []Route{{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Source: addr("198.18.0.2"), Nexthops: []Nexthop{w.hop("198.18.1.1", "eth1", 2), w.hop("198.18.2.1", "eth2", 1)}},
			{Family: IPv6, Table: 20009, Dst: IPv6.Default(), Metric: Metric6, Source: addr("2001:db8:0::2"), Nexthops: []Nexthop{w.hop("fe80::1", "eth1", 2), w.hop("fe80::1", "eth2", 1)}}}}},
		{"destinations", Spec{Routes: []Route{{Family: IPv4, Table: 20000, Dst: prefix("9.9.9.9/32"), Nexthops: []Nexthop{w.hop("198.18.1.1", "eth1", 1)}},
			{Family: IPv4, Table: 20000, Dst: prefix("9.9.9.9/32"), Metric: MetricLast, Unreachable: true},
			{Family: IPv6, Table: 20000, Dst: prefix("2620:fe::/48"), Metric: Metric6, Nexthops: []Nexthop{w.hop("fe80::1", "eth1", 1)}},
			{Family: IPv6, Table: 20000, Dst: prefix("2620:fe::/48"), Metric: MetricLast, Unreachable: true}}}},
		{"rules", Spec{Rules: []Rule{
			{Family: IPv4, Priority: 10000, Table: TableMain, SuppressDefault: true}, {Family: IPv6, Priority: 10000, Table: TableMain, SuppressDefault: true},
			fwmark(10200, 1<<24, 20001), fwmark(10200, 2<<24, 20002), {Family: IPv6, Priority: 10200, Mark: 255 << 24, Mask: 0xff000000, Table: 20255},
			{Family: IPv4, Priority: 10300, From: prefix("198.18.1.2/32"), Table: 20001}, {Family: IPv6, Priority: 10300, From: prefix("2001:db8:1::2/128"), Table: 20001},
			{Family: IPv4, Priority: 10300, From: prefix("198.18.2.0/24"), Table: 20002},
			{Family: IPv4, Priority: 10400, Table: 20000}, {Family: IPv4, Priority: 32765, Table: 20009}, {Family: IPv6, Priority: 32765, Table: 20009}}}},
		{"nothing", Spec{}},
	}
	for _, c := range kinds {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.apply(c.spec)
			w.apply(c.spec) // nothing to do
			w.apply(Spec{})
		})
	}
	// From each kind to each other: replacing leaves exactly what is wanted.
	for _, from := range kinds {
		for _, to := range kinds {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				w.t = t
				w.apply(from.spec)
				w.apply(to.spec)
			})
		}
	}
}

// TestPointToPoint: TUN as PPP, alone and in multipath.
func TestPointToPoint(t *testing.T) {
	w := newWorld(t)
	wire, err := lab.NewWire(lab.TUN, w.ns, "ppp0", w.far, "ppp0")
	if err != nil {
		t.Skip(err)
	}
	defer wire.Close()
	if err := w.ns.AddPeerAddr("ppp0", addr("100.64.0.2"), addr("100.64.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.Up("ppp0"); err != nil {
		t.Fatal(err)
	}
	w.apply(Spec{Routes: []Route{defaultVia(20001, w.hop("", "ppp0", 1)), six(defaultVia(20001, w.hop("", "ppp0", 1))),
		defaultVia(20009, w.hop("", "ppp0", 2), w.hop("198.18.1.1", "eth1", 1)), six(defaultVia(20009, w.hop("fe80::1", "ppp0", 2), w.hop("fe80::1", "eth1", 1)))}})
	f, err := w.k.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if l := f.Link("ppp0"); l == nil || !l.PointToPoint || !l.Up {
		t.Errorf("ppp0: %+v", l)
	}
	i := slices.IndexFunc(f.Addrs, func(a Addr) bool { return a.Prefix.Addr() == addr("100.64.0.2") })
	if i < 0 || f.Addrs[i].Peer != prefix("100.64.0.1/32") || !f.Addrs[i].Global || !f.Addrs[i].Usable {
		t.Errorf("the address with a peer: %+v", f.Addrs)
	}
}

// TestLinkDown: what dies with a device is seen, and comes back.
func TestLinkDown(t *testing.T) {
	w := newWorld(t)
	want := Spec{Routes: []Route{defaultVia(20001, w.hop("198.18.1.1", "eth1", 1)), six(defaultVia(20001, w.hop("fe80::1", "eth1", 1))),
		defaultVia(20009, w.hop("198.18.1.1", "eth1", 3), w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, w.hop("fe80::1", "eth1", 3), w.hop("fe80::1", "eth2", 1)))}}
	w.apply(want)
	if err := w.ns.Down("eth1"); err != nil {
		t.Fatal(err)
	}
	if lost := Missing(w.read(), want); len(lost) != 4 {
		t.Errorf("lost with eth1: %q", lost)
	}
	// The rest can be written while it is down.
	w.apply(Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, w.hop("fe80::1", "eth2", 1)))}})
	if err := w.ns.Up("eth1"); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.WaitRunning("eth1"); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.AddAddr("eth1", prefix("2001:db8:1::2/64")); err != nil && !strings.Contains(err.Error(), "exists") {
		t.Fatal(err)
	}
	w.apply(want)
}

// TestCarrier: a cable that is pulled leaves routes in place: linkdown is not
// dead, unless the sysctl says so, and nothing is to be written.
func TestCarrier(t *testing.T) {
	for _, ignore := range []string{"0", "1"} {
		w := newWorld(t)
		for _, key := range []string{"net/ipv4/conf/all/ignore_routes_with_linkdown", "net/ipv6/conf/all/ignore_routes_with_linkdown"} {
			if err := w.ns.Sysctl(key, ignore); err != nil {
				t.Fatal(err)
			}
		}
		want := Spec{Routes: []Route{defaultVia(20009, w.hop("198.18.1.1", "eth1", 3), w.hop("198.18.2.1", "eth2", 1)), six(defaultVia(20009, w.hop("fe80::1", "eth1", 3), w.hop("fe80::1", "eth2", 1)))}}
		w.apply(want)
		if err := w.far.Down("eth1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		t.Logf("ignore_routes_with_linkdown=%s, no carrier: %q", ignore, Missing(w.read(), want))
		if lost := Missing(w.read(), want); len(lost) > 0 && ignore == "0" {
			t.Errorf("lost: %q", lost)
		}
	}
}

// TestForeign: what carries another protocol number is neither listed nor
// touched, wherever it is.
func TestForeign(t *testing.T) {
	w := newWorld(t)
	h := w.ns.Handle()
	var rules []*netlink.Rule
	for _, f := range []Family{IPv4, IPv6} {
		for _, protocol := range []uint8{0, unix.RTPROT_STATIC, Protocol + 1} {
			r := netlink.NewRule()
			r.Family, r.Priority, r.Table, r.Protocol = int(f), 10200, 20001, protocol
			mask := uint32(0xff000000)
			r.Mark, r.Mask = uint32(protocol+1)<<24, &mask
			if err := h.RuleAdd(r); err != nil {
				t.Fatal(err)
			}
			rules = append(rules, r)
		}
	}
	for _, protocol := range []netlink.RouteProtocol{unix.RTPROT_STATIC, unix.RTPROT_DHCP, Protocol + 1} {
		for _, gw := range []string{"198.18.1.1", "fe80::1"} {
			f := FamilyOf(addr(gw))
			r := &netlink.Route{Family: int(f), Table: 20001, Dst: ipNet(f.Default()), Priority: int(protocol) + 5, Protocol: protocol, Gw: addr(gw).AsSlice(), LinkIndex: w.index("eth1")}
			if err := h.RouteAdd(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() (int, int) {
		list, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: 20001}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		all, err := h.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		return len(list), len(all)
	}
	routesBefore, rulesBefore := count()
	if s := w.read(); len(s.Rules)+len(s.Routes) > 0 {
		t.Errorf("foreign objects pass for ours:\n%s", s)
	}
	w.apply(Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001)}, Routes: []Route{defaultVia(20001, w.hop("198.18.1.1", "eth1", 1)), six(defaultVia(20001, w.hop("fe80::1", "eth1", 1)))}})
	w.apply(Spec{})
	if a, b := count(); a != routesBefore || b != rulesBefore {
		t.Errorf("%d routes and %d rules, before %d and %d", a, b, routesBefore, rulesBefore)
	}
	f, err := w.k.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Marks) != len(rules) {
		t.Errorf("foreign marks: %+v, wanted %d", f.Marks, len(rules))
	}
}

// TestNoMain: the kernel's rule for table main is missed in its family, whatever
// else leads there: ours, and those that leave the default route out.
func TestNoMain(t *testing.T) {
	w := newWorld(t)
	h := w.ns.Handle()
	missed := func() []Family {
		f, err := w.k.Facts()
		if err != nil {
			t.Fatal(err)
		}
		return f.NoMain
	}
	if got := missed(); len(got) > 0 {
		t.Errorf("at first: %v", got)
	}
	var want []Family
	for _, f := range []Family{IPv4, IPv6} {
		main := netlink.NewRule()
		main.Family, main.Priority, main.Table = int(f), 32766, TableMain
		part := netlink.NewRule()
		part.Family, part.Priority, part.Table, part.SuppressPrefixlen = int(f), 500, TableMain, 0
		if err := errors.Join(h.RuleDel(main), h.RuleAdd(part)); err != nil {
			t.Fatal(err)
		}
		w.apply(Spec{Rules: []Rule{{Family: f, Priority: 32766, Mark: 1 << 24, Mask: 0xff000000, Table: TableMain}}})
		if want = append(want, f); !slices.Equal(missed(), want) {
			t.Errorf("%v, wanted %v", missed(), want)
		}
	}
	main := netlink.NewRule()
	main.Family, main.Priority, main.Table = unix.AF_INET, 900, TableMain
	if err := h.RuleAdd(main); err != nil {
		t.Fatal(err)
	}
	if got := missed(); !slices.Equal(got, []Family{IPv6}) {
		t.Errorf("somebody leads there again: %v", got)
	}
}

// TestSameKey: a foreign route with our table, destination and metric is not
// replaced in silence; one of ours with the same key as a foreign one in
// another table is ours alone.
func TestDeleteLeavesForeignTwin(t *testing.T) {
	w := newWorld(t)
	h := w.ns.Handle()
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol = unix.AF_INET, 32765, 20009, unix.RTPROT_STATIC
	if err := h.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	ours := Rule{Family: IPv4, Priority: 32765, Table: 20009}
	w.apply(Spec{Rules: []Rule{ours}})
	w.apply(Spec{})
	all, err := h.RuleList(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(r netlink.Rule) bool { return r.Priority == 32765 && r.Protocol == unix.RTPROT_STATIC }) {
		t.Error("the foreign rule that looks like ours is gone")
	}
}

// TestFacts: addresses and default routes, as plan needs them.
func TestFacts(t *testing.T) {
	w := newWorld(t)
	h := w.ns.Handle()
	link, err := w.ns.Link("eth1")
	if err != nil {
		t.Fatal(err)
	}
	add := func(a *netlink.Addr) {
		t.Helper()
		if err := h.AddrAdd(link, a); err != nil {
			t.Fatal(err)
		}
	}
	hostBits := func(text string) *net.IPNet {
		p := prefix(text)
		return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	}
	add(&netlink.Addr{IPNet: hostBits("198.18.1.3/24")})                                                                // secondary
	add(&netlink.Addr{IPNet: hostBits("10.5.5.5/32"), Peer: hostBits("10.5.5.1/32")})                                   // peer
	add(&netlink.Addr{IPNet: hostBits("169.254.7.7/16"), Scope: unix.RT_SCOPE_LINK})                                    // not global
	add(&netlink.Addr{IPNet: hostBits("2001:db8:dead::1/64"), Flags: unix.IFA_F_NODAD, PreferedLft: 0, ValidLft: 1000}) // deprecated
	if err := w.ns.Sysctl("net/ipv6/conf/eth2/accept_dad", "1"); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.Sysctl("net/ipv6/conf/eth2/dad_transmits", "20"); err != nil {
		t.Fatal(err)
	}
	link2, err := w.ns.Link("eth2")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.AddrAdd(link2, &netlink.Addr{IPNet: hostBits("2001:db8:77::1/64")}); err != nil { // tentative
		t.Fatal(err)
	}
	main := func(r netlink.Route) {
		t.Helper()
		r.Table = TableMain
		if err := h.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	four, any6 := ipNet(IPv4.Default()), ipNet(IPv6.Default())
	main(netlink.Route{Dst: four, Priority: 100, Protocol: unix.RTPROT_DHCP, Gw: addr("198.18.1.1").AsSlice(), LinkIndex: w.index("eth1")})
	main(netlink.Route{Dst: four, Priority: 200, MultiPath: []*netlink.NexthopInfo{{LinkIndex: w.index("eth1"), Gw: addr("198.18.1.9").AsSlice()}, {LinkIndex: w.index("eth2"), Gw: addr("198.18.2.9").AsSlice()}}})
	main(netlink.Route{Dst: four, Priority: 300, Protocol: Protocol, Gw: addr("198.18.1.1").AsSlice(), LinkIndex: w.index("eth1")}) // ours: does not count
	main(netlink.Route{Dst: four, Priority: 400, Type: unix.RTN_UNREACHABLE})
	main(netlink.Route{Dst: any6, Family: unix.AF_INET6, Priority: 1024, Protocol: unix.RTPROT_RA, Gw: addr("fe80::1").AsSlice(), LinkIndex: w.index("eth2")})
	main(netlink.Route{Dst: hostBits("10.0.0.0/8"), Gw: addr("198.18.0.9").AsSlice(), LinkIndex: w.index("eth0")})

	main(netlink.Route{Dst: ipNet(prefix("2001:db8:1:ff00::/56")), Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_DHCP})
	main(netlink.Route{Dst: ipNet(prefix("2001:db8:2:ff00::/60")), Type: unix.RTN_BLACKHOLE})
	main(netlink.Route{Dst: ipNet(prefix("fd00::/48")), Type: unix.RTN_UNREACHABLE})         // nobody delegates this
	main(netlink.Route{Dst: ipNet(prefix("2001:db8:3::1/128")), Type: unix.RTN_UNREACHABLE}) // one host
	main(netlink.Route{Dst: ipNet(prefix("2001:db8:4::/56")), LinkIndex: w.index("eth0")})   // leads somewhere
	main(netlink.Route{Dst: ipNet(prefix("198.51.100.0/24")), Type: unix.RTN_UNREACHABLE})   // IPv4

	f, err := w.k.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.Delegated); got != "[2001:db8:1:ff00::/56 2001:db8:2:ff00::/60]" {
		t.Errorf("delegated prefixes: %s", got)
	}
	got := map[string]Addr{}
	for _, a := range f.Addrs {
		got[a.Prefix.String()] = a
	}
	for text, want := range map[string]Addr{
		"198.18.1.2/24":       {Global: true, Usable: true},
		"198.18.1.3/24":       {Global: true, Usable: true, Secondary: true},
		"10.5.5.5/32":         {Global: true, Usable: true, Peer: prefix("10.5.5.1/32")},
		"169.254.7.7/16":      {Usable: true},
		"2001:db8:1::2/64":    {Global: true, Usable: true},
		"2001:db8:dead::1/64": {Global: true},
	} {
		want.Index, want.Prefix = w.index("eth1"), prefix(text)
		a := got[text]
		if a != want {
			t.Errorf("%s: %+v, wanted %+v", text, a, want)
		}
	}
	if a := got["2001:db8:77::1/64"]; a.Usable || !a.Global {
		t.Errorf("tentative: %+v", a)
	}
	want := []DefaultRoute{
		{Family: IPv4, Index: w.index("eth1"), Gateway: addr("198.18.1.1"), Metric: 100},
		{Family: IPv4, Index: w.index("eth1"), Gateway: addr("198.18.1.9"), Metric: 200},
		{Family: IPv4, Index: w.index("eth2"), Gateway: addr("198.18.2.9"), Metric: 200},
		{Family: IPv6, Index: w.index("eth2"), Gateway: addr("fe80::1"), Metric: 1024},
	}
	if diff := cmp.Diff(want, f.Defaults, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("default routes (-want +got):\n%s", diff)
	}
	prefixes, err := w.k.MainPrefixes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"10.0.0.0/8", "198.18.1.0/24", "2001:db8:1::/64", "10.5.5.5/32", "198.18.1.3/32", "2001:db8:dead::1/128"} {
		if !slices.Contains(prefixes, prefix(p)) {
			t.Errorf("%s is not among the prefixes of main: %v", p, prefixes)
		}
	}
}

// TestWatch: changes that matter are reported at once, others are not.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan struct{}, 10000)
	done := make(chan error, 1)
	asked := addr("198.18.1.1")
	go func() {
		done <- w.ns.Do(func() error {
			return Watch(ctx, func(a netip.Addr) bool { return a == asked }, func(int, netip.Addr) {}, func() { events <- struct{}{} })
		})
	}()
	<-events // the start
	h := w.ns.Handle()
	quiet := func() {
		for {
			select {
			case <-events:
			case <-time.After(60 * time.Millisecond):
				return
			}
		}
	}
	neighbour := func(ip string) error {
		return h.NeighSet(&netlink.Neigh{LinkIndex: w.index("eth1"), State: unix.NUD_PERMANENT, IP: addr(ip).AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
	}
	route := func(dst string, table int, protocol netlink.RouteProtocol) func() error {
		return func() error {
			return h.RouteReplace(&netlink.Route{Dst: ipNet(prefix(dst)), Table: table, Protocol: protocol, Gw: asked.AsSlice(), LinkIndex: w.index("eth1")})
		}
	}
	unreachable := func(f func(*netlink.Route) error) error {
		return f(&netlink.Route{Dst: ipNet(prefix("2001:db8:1:ff00::/56")), Table: TableMain, Protocol: unix.RTPROT_DHCP, Type: unix.RTN_UNREACHABLE})
	}
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = unix.AF_INET, 500, 77
	for _, c := range []struct {
		name    string
		do      func() error
		matters bool
	}{
		{"an address", func() error { return w.ns.AddAddr("eth1", prefix("10.7.7.7/24")) }, true},
		{"an address goes", func() error { return w.ns.DelAddr("eth1", prefix("10.7.7.7/24")) }, true},
		{"an IPv6 address", func() error { return w.ns.AddAddr("eth1", prefix("2001:db8:55::1/64")) }, true},
		{"a rule", func() error { return h.RuleAdd(rule) }, true},
		{"a rule goes", func() error { return h.RuleDel(rule) }, true},
		{"a default route", route("0.0.0.0/0", TableMain, unix.RTPROT_DHCP), true},
		{"a route of ours", route("9.9.9.9/32", 20000, Protocol), true},
		{"another route", route("10.1.0.0/16", TableMain, unix.RTPROT_BGP), false},
		{"a delegated prefix", func() error { return unreachable(h.RouteReplace) }, true},
		{"a delegated prefix goes", func() error { return unreachable(h.RouteDel) }, true},
		{"a neighbour that was asked for", func() error { return neighbour("198.18.1.1") }, true},
		{"another neighbour", func() error { return neighbour("198.18.1.77") }, false},
		{"a link down", func() error { return w.ns.Down("eth2") }, true},
		{"a link up", func() error { return w.ns.Up("eth2") }, true},
		{"a cable pulled", func() error { return w.far.Down("eth2") }, true},
	} {
		quiet()
		wait := 100 * time.Millisecond
		if c.matters { // it takes a few milliseconds, and the test's computer what it takes
			wait = 2 * time.Second
		}
		start := time.Now()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		select {
		case <-events:
			if !c.matters {
				t.Errorf("%s: reported", c.name)
			}
			t.Logf("%s: after %v", c.name, time.Since(start))
		case <-time.After(wait):
			if c.matters {
				t.Errorf("%s: not reported within %v", c.name, wait)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWatchOverflow: a flood that overflows the monitor is reported as well,
// and the monitor lives on.
func TestWatchOverflow(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	events := make(chan struct{}, 1<<20)
	done := make(chan error, 1)
	go func() {
		first := true
		done <- w.ns.Do(func() error {
			return Watch(ctx, func(netip.Addr) bool { return false }, func(int, netip.Addr) {}, func() {
				events <- struct{}{}
				if first { // stands still while the flood comes
					first = false
					<-release
				}
			})
		})
	}()
	<-events
	h := w.ns.Handle()
	r := &netlink.Route{Table: TableMain, Protocol: unix.RTPROT_BGP, Gw: addr("198.18.1.1").AsSlice(), LinkIndex: w.index("eth1")}
	for i := range 60000 {
		r.Dst = &net.IPNet{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).To4(), Mask: net.CIDRMask(32, 32)}
		if err := h.RouteReplace(r); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	select {
	case <-events:
	case <-time.After(5 * time.Second):
		t.Log("60000 routes did not overflow the buffer")
	}
	for len(events) > 0 {
		<-events
	}
	if err := w.ns.AddAddr("eth1", prefix("10.7.7.7/24")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-events:
	case <-time.After(2 * time.Second):
		t.Error("after the flood the monitor is deaf")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestApplyGoesOn: a gateway that the kernel refuses keeps neither the other
// uplinks from being written nor the next change from being made.
func TestApplyGoesOn(t *testing.T) {
	w := newWorld(t)
	good, bad := w.hop("198.18.1.1", "eth1", 1), w.hop("203.0.113.1", "eth2", 1)
	good6, bad6 := w.hop("2001:db8:1::1", "eth1", 1), w.hop("2001:db8:bad::1", "eth2", 1)
	spec := func(good, bad Nexthop, wrap func(Route) Route, f Family) Spec {
		s := Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001), fwmark(10200, 2<<24, 20002), {Family: f, Priority: 32765, Table: 20009}},
			Routes: []Route{wrap(defaultVia(20002, bad)), wrap(defaultVia(20001, good)), wrap(defaultVia(20009, good, bad))}}
		for i := range s.Rules {
			s.Rules[i].Family = f
		}
		return s
	}
	four, both := spec(good, bad, func(r Route) Route { return r }, IPv4), spec(good6, bad6, six, IPv6)
	both.Rules, both.Routes = append(both.Rules, four.Rules...), append(both.Routes, four.Routes...)
	for range 2 {
		err := w.k.Apply(Diff(w.read(), both))
		for _, want := range []string{"via 203.0.113.1 dev eth2 table 20002", "via 2001:db8:bad::1 dev eth2 table 20002", "is in no subnet", "ip -4 rule add pref 10200 fwmark 0x2000000"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in the error\n%v", want, err)
			}
		}
		want := Spec{Rules: []Rule{both.Rules[0], both.Rules[2], both.Rules[3], both.Rules[5]},
			Routes: []Route{six(defaultVia(20001, good6)), six(defaultVia(20009, good6)), defaultVia(20001, good), defaultVia(20009, good)}}
		if diff := cmp.Diff(want.String(), strings.ReplaceAll(w.read().String(), "if"+strconv.Itoa(good.Index), "eth1")); diff != "" {
			t.Errorf("in the kernel (-want +got):\n%s", diff)
		}
	}
	w.apply(spec(good, w.hop("198.18.2.1", "eth2", 1), func(r Route) Route { return r }, IPv4))
}
