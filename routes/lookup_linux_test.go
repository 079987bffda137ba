package routes

import (
	"errors"
	"net/netip"
	"testing"
)

// TestLookup: the kernel's answers are those that the Spec wants, for packets of
// all kinds.
func TestLookup(t *testing.T) {
	w := newWorld(t)
	if err := w.ns.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if err := w.ns.Sysctl("net/ipv6/conf/all/forwarding", "1"); err != nil {
		t.Fatal(err)
	}
	const mask = 0xff000000
	two := []Nexthop{w.hop("198.18.1.1", "eth1", 3), w.hop("198.18.2.1", "eth2", 1)}
	two6 := []Nexthop{w.hop("2001:db8:1::1", "eth1", 3), w.hop("2001:db8:2::1", "eth2", 1)}
	var want Spec
	for _, f := range []Family{IPv4, IPv6} {
		hops, own := two, netip.MustParsePrefix("198.18.2.2/32")
		if f == IPv6 {
			hops, own = two6, netip.MustParsePrefix("2001:db8:2::2/128")
		}
		metric := map[Family]uint32{IPv6: Metric6}[f]
		route := func(table int, n ...Nexthop) Route {
			if len(n) == 1 {
				n[0].Weight = 1
			}
			return Route{Family: f, Table: table, Dst: f.Default(), Metric: metric, Nexthops: n}
		}
		want.Rules = append(want.Rules,
			Rule{Family: f, Priority: 10000, Table: TableMain, SuppressDefault: true},
			Rule{Family: f, Priority: 10200, Mark: 1 << 24, Mask: mask, Table: 20001},
			Rule{Family: f, Priority: 10300, From: own, Table: 20002},
			Rule{Family: f, Priority: 10500, Mark: 3 << 24, Mask: mask, Table: 20003},
			Rule{Family: f, Priority: 10500, Mark: 4 << 24, Mask: mask, Table: 20004},
			Rule{Family: f, Priority: 32764, Mark: 5 << 24, Mask: mask, Goto: 32766},
			Rule{Family: f, Priority: 32765, Table: 20003})
		want.Routes = append(want.Routes, route(20001, hops[0]), route(20002, hops[1]), route(20003, hops...),
			Route{Family: f, Table: 20003, Dst: f.Default(), Metric: MetricLast, Unreachable: true},
			Route{Family: f, Table: 20004, Dst: f.Default(), Metric: MetricLast, Unreachable: true})
	}
	w.apply(want)
	var l *Lookups
	if err := w.ns.Do(func() (err error) { l, err = OpenLookups(); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	main, err := w.k.MainPrefixes()
	if err != nil {
		t.Fatal(err)
	}
	client, internet := netip.MustParseAddr("198.18.0.9"), netip.MustParseAddr("203.0.113.1")
	client6, internet6 := netip.MustParseAddr("2001:db8:0::9"), netip.MustParseAddr("2001:db8:ffff::1")
	in := w.index("eth0")
	for _, c := range []struct {
		name  string
		q     Query
		kind  Kind
		table int
	}{
		{"unmarked", Query{From: client, To: internet, In: in, Protocol: 6, SourcePort: 1000, DestPort: 80}, Unicast, 20003},
		{"marked for an uplink", Query{From: client, To: internet, In: in, Mark: 1 << 24, Protocol: 1}, Unicast, 20001},
		{"marked, with foreign bits", Query{From: client, To: internet, In: in, Mark: 1<<24 | 7, Protocol: 132}, Unicast, 20001},
		{"policy without members", Query{From: client, To: internet, In: in, Mark: 4 << 24}, Unreachable, 20004},
		{"past everything", Query{From: client, To: internet, In: in, Mark: 5 << 24}, Unreachable, TableMain},
		{"to a neighbour", Query{From: client, To: netip.MustParseAddr("198.18.1.77"), In: in, Mark: 3 << 24}, Unicast, TableMain},
		{"own, unbound", Query{To: internet, Protocol: 17, DestPort: 53}, Unicast, 20003},
		{"own, bound", Query{From: netip.MustParseAddr("198.18.2.2"), To: internet}, Unicast, 20002},
		{"ICMP, IPv6", Query{From: client6, To: internet6, In: in, Protocol: 58}, Unicast, 20003},
		{"unmarked, IPv6", Query{From: client6, To: internet6, In: in, Protocol: 6, SourcePort: 1000, DestPort: 80}, Unicast, 20003},
		{"policy without members, IPv6", Query{From: client6, To: internet6, In: in, Mark: 4 << 24}, Unreachable, 20004},
		{"past everything, IPv6", Query{From: client6, To: internet6, In: in, Mark: 5 << 24}, Unreachable, TableMain},
		{"own, bound, IPv6", Query{From: netip.MustParseAddr("2001:db8:2::2"), To: internet6}, Unicast, 20002},
	} {
		a, err := l.Lookup(c.q)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		way := want.Walk(c.q, main)
		if way.Table != c.table || a.Kind != c.kind || !way.Agrees(a) {
			t.Errorf("%s: the kernel says %+v, wanted is %+v", c.name, a, way)
		}
		if c.q.In == 0 && !c.q.From.IsValid() && !a.Source.IsValid() {
			t.Errorf("%s: no source in %+v", c.name, a)
		}
	}
	if a, err := l.Lookup(Query{From: client, To: netip.MustParseAddr("198.18.1.2"), In: in}); err != nil || a.Kind != Local {
		t.Errorf("to the router: %+v, %v", a, err)
	}
	// What somebody else does shows.
	if err := w.ns.Do(func() error { return w.k.h.RuleAdd(ruleToKernel(Rule{Family: IPv4, Priority: 500, Table: 20002})) }); err != nil {
		t.Fatal(err)
	}
	q := Query{From: client, To: internet, In: in, Mark: 1 << 24}
	if a, err := l.Lookup(q); err != nil || want.Walk(q, main).Agrees(a) {
		t.Errorf("with somebody else's rule: %+v, %v", a, err)
	}
}

// FuzzAnswer: no answer makes decodeAnswer panic, and what is too short is an
// error.
func FuzzAnswer(f *testing.F) {
	f.Add(make([]byte, sizeofRtmsg))
	f.Add([]byte{2, 32, 0, 0, 254, 2, 0, 1, 0, 0, 0, 0, 8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 198, 18, 1, 1})
	f.Add([]byte{2, 32, 0, 0, 254, 2, 0, 1, 0, 0, 0, 0, 6, 0, 18, 0, 10, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnswer(b)
		if len(b) < sizeofRtmsg && !errors.Is(err, errAnswer) {
			t.Errorf("%x: %+v, %v", b, a, err)
		}
		if err == nil && a.Kind == "" {
			t.Errorf("%x: no kind", b)
		}
	})
}
