//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Rules and policies, judged by the packets that reach the internet.

// ruleHouse is a house with two clients, who have two addresses each, and a
// second LAN.
type ruleHouse struct {
	*house
	*witness
	t      *testing.T
	other  *lab.NS // the client in the second LAN
	gained string  // the second LAN's interface
	hosts  byte    // how many addresses of the internet were used for connections without ports
}

// The second LAN.
var (
	otherLAN     = netip.MustParsePrefix("192.168.7.1/24")
	otherLAN6    = netip.MustParsePrefix("fd00:7::1/64")
	otherClient  = netip.MustParsePrefix("192.168.7.9/24")
	otherClient6 = netip.MustParsePrefix("fd00:7::9/64")
)

// situation is a house to build.
type situation struct {
	name     string
	topology func(lab.Options) (*lab.Topology, error)
	options  lab.Options
}

// ruleHouses are the situations in which rules are tried.
var ruleHouses = []situation{
	{"one NIC per uplink", lab.NewRouter, lab.Options{Uplinks: 3, Clients: 2, ClientAddresses: 2}},
	{"one NIC", lab.NewSingleNIC, lab.Options{Clients: 2, ClientAddresses: 2}},
	{"one NIC, LAN on it", lab.NewSingleNIC, lab.Options{Clients: 2, ClientAddresses: 2, LANOnNIC: true}},
}

// inRuleHouses runs a test in each situation.
func inRuleHouses(t *testing.T, test func(context.Context, *ruleHouse)) {
	for _, r := range ruleHouses {
		t.Run(r.name, func(t *testing.T) { test(deadline(t, 2*time.Minute), newRuleHouse(t, r.topology, r.options)) })
	}
}

func newRuleHouse(t *testing.T, topology func(lab.Options) (*lab.Topology, error), o lab.Options) *ruleHouse {
	t.Helper()
	h := &ruleHouse{house: newHouse(t, topology, o), t: t, gained: "lan2"}
	h.witness = watchInternet(t, h.Internet)
	var err error
	h.other, err = lab.NewNS("other")
	must(t, err)
	t.Cleanup(h.other.Close)
	router := h.Topology.Router
	must(t, lab.Veth(h.other, "eth0", router, h.gained))
	for _, end := range []struct {
		ns        *lab.NS
		name      string
		four, six netip.Prefix
		gateways  []netip.Addr
	}{
		{ns: router, name: h.gained, four: otherLAN, six: otherLAN6},
		{ns: h.other, name: "eth0", four: otherClient, six: otherClient6, gateways: []netip.Addr{otherLAN.Addr(), otherLAN6.Addr()}},
	} {
		must(t, end.ns.Up(end.name))
		must(t, end.ns.AddAddr(end.name, end.four))
		must(t, end.ns.AddAddr(end.name, end.six))
		for _, g := range end.gateways {
			must(t, end.ns.AddRoute(lab.Route{Gateway: g, Interface: end.name}))
		}
	}
	must(t, router.WaitRunning(h.gained))
	must(t, h.other.WaitRunning("eth0"))
	return h
}

// text is a configuration: both LANs, the uplinks, and more.
func (h *ruleHouse) text(more ...string) string {
	lan := fmt.Sprintf("lan = [%q]", h.LAN)
	return strings.Replace(rig.Config(h.Topology, nil, more...), lan, fmt.Sprintf("lan = [%q, %q]", h.LAN, h.gained), 1)
}

// first is a default policy of the first uplink only: what comes by another one
// went there by a rule.
func (h *ruleHouse) first() string {
	return fmt.Sprintf("\n[policy.default]\ntiers = [[%q]]\n", h.Uplinks[0].Name)
}

// name of an uplink.
func (h *ruleHouse) name(i int) string { return h.Uplinks[i].Name }

// way sends a packet and returns the uplink by which it reached the internet,
// or refused, or lost.
func (h *ruleHouse) way(p packet) string {
	h.t.Helper()
	a, failed := h.send(p)
	if failed != "" {
		return failed
	}
	if a.dscp != p.dscp {
		h.t.Errorf("%s: arrived with DSCP %d", p, a.dscp)
	}
	for _, u := range h.Uplinks {
		if a.from == u.Address.Addr() || a.from == u.Address6.Addr() {
			return u.Name
		}
	}
	return "as " + a.from.String()
}

// try describes a packet of either family. The zero value is a TCP connection
// of the first client, from its first address, to port 80 of the internet's
// first address.
type try struct {
	address      int // 0, 1: the first client's; 2, 3: the second's
	other        bool
	router       bool
	host         byte // last byte of the internet's address
	proto        uint8
	sport, dport uint16
	dscp         uint8
	uid          int
	only         int // 4 or 6
}

// packets are the packet in each family.
func (h *ruleHouse) packets(x try) []packet {
	var all []packet
	for _, v6 := range []bool{false, true} {
		if x.only == 4 && v6 || x.only == 6 && !v6 {
			continue
		}
		p := packet{ns: h.Clients[x.address/2], proto: x.proto, sport: x.sport, dport: x.dport, dscp: x.dscp, uid: x.uid}
		four, six := lab.ClientAddress(x.address)
		p.from, p.to = four, lab.InternetAddress
		if v6 {
			p.from, p.to = six, lab.InternetAddress6
		}
		if x.host != 0 {
			b := p.to.AsSlice()
			b[len(b)-1] = x.host
			p.to, _ = netip.AddrFromSlice(b)
		}
		switch {
		case x.router:
			p.ns, p.from = h.Topology.Router, netip.Addr{}
		case x.other:
			p.ns, p.from = h.other, otherClient.Addr()
			if v6 {
				p.from = otherClient6.Addr()
			}
		}
		if p.proto == 0 {
			p.proto = unix.IPPROTO_TCP
		}
		switch p.proto {
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
			if p.dport == 0 {
				p.dport = 80
			}
		case unix.IPPROTO_ICMP:
			if v6 {
				p.proto = unix.IPPROTO_ICMPV6
			}
			p.dport = 0
		default: // there may be nothing but the addresses that tells such a connection from another
			h.hosts++
			b := p.to.AsSlice()
			b[len(b)-1] = 100 + h.hosts
			p.to, _ = netip.AddrFromSlice(b)
			if !config.HasPorts(p.proto) {
				p.dport = 0
			}
		}
		all = append(all, p)
	}
	return all
}

// goes asserts where packets go.
func (h *ruleHouse) goes(what, want string, all ...try) {
	h.t.Helper()
	for _, x := range all {
		for _, p := range h.packets(x) {
			if got := h.way(p); got != want {
				h.t.Errorf("%s: %s: went %s, wanted %s", what, p, got, want)
			}
		}
	}
}

// refuses asserts that packets go nowhere, and that senders are told. The kernel
// does not tell all of them: over IPv4 a client gets no more than two errors at a
// time (ip_error, net/ipv4/route.c, and icmpv4_xrlim_allow take turns), and over
// IPv6 redirects count, too, which on a shared NIC are never sent.
func (h *ruleHouse) refuses(what string, all ...try) {
	h.t.Helper()
	told := 0
	for _, x := range all {
		for _, p := range h.packets(x) {
			got := h.way(p)
			if got == refused {
				told++
			} else if got != lost {
				h.t.Errorf("%s: %s: went %s", what, p, got)
			}
		}
	}
	if told < len(all) {
		h.t.Errorf("%s: %d senders were told, wanted at least %d", what, told, len(all))
	}
}

// match is what a rule says, and packets that it matches and does not.
type match struct {
	name, rule string
	yes, no    []try
}

// Protocols beside TCP.
const (
	udp  = unix.IPPROTO_UDP
	icmp = unix.IPPROTO_ICMP
	l2tp = unix.IPPROTO_L2TP
)

// matches are all keys of rules, alone and together.
func (h *ruleHouse) matches(now time.Time) []match {
	mac := func(ns *lab.NS) string { return macOf(h.t, ns).String() }
	clock := func(t time.Time) string { return t.Format("15:04") }
	day := func(t time.Time) string { return strings.ToLower(t.Weekday().String()[:3]) }
	span := func(from, to time.Duration) string {
		return fmt.Sprintf("%q", clock(now.Add(from))+"-"+clock(now.Add(to)))
	}
	var hosts, ports []string
	for i := range 40 {
		hosts = append(hosts, fmt.Sprintf("%q, %q", fmt.Sprintf("198.51.100.%d", 2*i+10), fmt.Sprintf("2001:db8:ffff::%x", 2*i+10)))
		ports = append(ports, fmt.Sprint(1000+2*i))
	}
	everybody := []try{{}, {address: 1}, {address: 2}, {other: true}, {proto: udp}, {proto: icmp}}
	all := []match{
		{"nothing", ``, append(everybody, try{proto: l2tp}), []try{{router: true}, {router: true, proto: udp}}},
		{"from addresses", `from = ["192.168.0.10", "fd00:1::a"]`,
			[]try{{}, {proto: udp}, {proto: icmp}, {proto: l2tp}}, []try{{address: 1}, {address: 2}, {other: true}, {address: 1, proto: icmp}, {router: true}}},
		{"from prefixes", `from = ["192.168.0.12/31", "fd00:1::c/127", "192.168.7.0/24", "fd00:7::/64"]`,
			[]try{{address: 2}, {address: 3}, {other: true}, {address: 3, proto: udp}}, []try{{}, {address: 1}, {router: true}}},
		{"from, one family", `from = ["192.168.0.0/24"]`, []try{{only: 4}, {address: 3, only: 4}}, []try{{only: 6}, {other: true}}},
		{"to addresses", `to = ["198.51.100.7", "2001:db8:ffff::7"]`, []try{{host: 7}, {host: 7, proto: udp}, {host: 7, proto: icmp}}, []try{{host: 6}, {host: 8}, {router: true, host: 7}}},
		{"to prefixes", `to = ["198.51.100.128/25", "2001:db8:ffff::80/121"]`, []try{{host: 128}, {host: 255}}, []try{{host: 127}, {}}},
		{"to, one family", `to = ["2001:db8:ffff::/48"]`, []try{{only: 6}, {host: 200, only: 6}}, []try{{only: 4}}},
		{"to many", `to = [` + strings.Join(hosts, ", ") + `]`, []try{{host: 10}, {host: 88}, {host: 50, proto: udp}}, []try{{host: 11}, {host: 9}, {host: 90}}},
		{"from and to", `from = ["192.168.0.11", "fd00:1::b"]
to = ["198.51.100.7", "2001:db8:ffff::7"]`, []try{{address: 1, host: 7}}, []try{{address: 1}, {host: 7}, {}}},
		{"interfaces", fmt.Sprintf(`interfaces = [%q]`, h.gained), []try{{other: true}, {other: true, proto: icmp}}, []try{{}, {address: 2}, {router: true}}},
		{"both interfaces", fmt.Sprintf(`interfaces = [%q, %q]`, h.gained, h.LAN), everybody, []try{{router: true}}},
		{"macs", fmt.Sprintf(`macs = [%q]`, mac(h.Clients[1])), []try{{address: 2}, {address: 3, proto: udp}}, []try{{}, {other: true}, {router: true}}},
		{"two macs", fmt.Sprintf(`macs = [%q, %q]`, mac(h.Clients[1]), mac(h.other)), []try{{address: 2}, {other: true}}, []try{{}}},
		{"protocol udp", `protocol = "udp"`, []try{{proto: udp}, {proto: udp, dport: 9}}, []try{{}, {proto: icmp}, {proto: l2tp}}},
		{"protocol icmp", `protocol = "icmp"`, []try{{proto: icmp}}, []try{{}, {proto: udp}}},
		{"protocols", `protocol = ["tcp", "l2tp"]`, []try{{}, {proto: l2tp}}, []try{{proto: udp}, {proto: icmp}}},
		{"ports", `ports = [443, "1000-1999"]`, []try{{dport: 443}, {dport: 1000, proto: udp}, {dport: 1999}, {dport: 1500}}, []try{{dport: 442}, {dport: 999}, {dport: 2000, proto: udp}, {proto: icmp}, {proto: l2tp}}},
		{"many ports", `protocol = "tcp"
ports = [` + strings.Join(ports, ", ") + `]`, []try{{dport: 1000}, {dport: 1078}}, []try{{dport: 1001}, {dport: 1080}, {dport: 1000, proto: udp}}},
		{"source ports", `source_ports = ["5000-5009"]`, []try{{sport: 5000}, {sport: 5009, proto: udp}}, []try{{sport: 4999}, {sport: 5010}, {proto: icmp}}},
		{"source and destination ports", `protocol = "udp"
source_ports = [5100]
ports = [443]`, []try{{proto: udp, sport: 5100, dport: 443}}, []try{{proto: udp, sport: 5101, dport: 443}, {proto: udp, sport: 5100, dport: 444}, {sport: 5100, dport: 443}}},
		{"dscp", `dscp = ["ef"]`, []try{{dscp: 46}, {dscp: 46, proto: udp}, {dscp: 46, proto: icmp}}, []try{{}, {dscp: 44}, {dscp: 47}}},
		{"dscps", `dscp = ["af41", "cs1"]`, []try{{dscp: 34}, {dscp: 8}}, []try{{dscp: 46}, {}}},
		{"local", `local = true`, []try{{router: true}, {router: true, proto: udp}, {router: true, proto: icmp}}, everybody},
		{"local to ports", `local = true
protocol = "udp"
ports = [53]`, []try{{router: true, proto: udp, dport: 53}}, []try{{router: true}, {router: true, proto: udp, dport: 54}, {router: true, dport: 53}, {proto: udp, dport: 53}}},
		{"hours now", `hours = ` + span(-time.Hour, time.Hour), everybody, []try{{router: true}}},
		{"hours later", `hours = ` + span(2*time.Hour, 3*time.Hour), nil, everybody},
		{"today", fmt.Sprintf(`days = [%q]`, day(now)), everybody, nil},
		{"other days", fmt.Sprintf(`days = [%q, %q]`, day(now.AddDate(0, 0, 2)), day(now.AddDate(0, 0, 4))), nil, everybody},
		{"hours and day", fmt.Sprintf("hours = %s\ndays = [%q]", span(-time.Hour, time.Hour), day(now.Add(-time.Hour))), everybody, nil},
		{"hours of another day", fmt.Sprintf("hours = %s\ndays = [%q]", span(-time.Hour, time.Hour), day(now.AddDate(0, 0, 3))), nil, everybody},
		{"everything", fmt.Sprintf(`from = ["192.168.0.12", "fd00:1::c"]
to = ["198.51.100.0/25", "2001:db8:ffff::/48"]
interfaces = [%q]
macs = [%q]
protocol = ["tcp", "udp"]
ports = ["440-450"]
source_ports = [5200, 5201, 5202, 5203]
dscp = ["ef", "cs1"]
days = [%q]`, h.LAN, mac(h.Clients[1]), day(now)),
			[]try{{address: 2, dport: 443, sport: 5200, dscp: 46}, {address: 2, dport: 450, sport: 5201, dscp: 8, proto: udp}},
			[]try{{address: 3, dport: 443, sport: 5200, dscp: 46}, {address: 2, dport: 439, sport: 5201, dscp: 46}, {address: 2, dport: 443, sport: 5204, dscp: 46},
				{address: 2, dport: 443, sport: 5202, dscp: 10}, {address: 2, dport: 443, sport: 5203, dscp: 46, host: 128, only: 4}, {dport: 443, sport: 5200, dscp: 46}}},
	}
	if h.isUser(uid) {
		all = append(all,
			match{"uid", fmt.Sprintf("local = true\nuid = [%d, 7]", uid), []try{{router: true, uid: uid}, {router: true, uid: uid, proto: udp}}, []try{{router: true}, {router: true, uid: uid + 1}, {}}},
			match{"uid and port", fmt.Sprintf("local = true\nuid = [%d]\nports = [443]", uid), []try{{router: true, uid: uid, dport: 443}}, []try{{router: true, uid: uid}, {router: true, dport: 443}}})
	}
	return all
}

// uid is a user that is not root.
const uid = 1000

// isUser reports whether a thread of this test can become that user: in a user
// namespace there is root only.
func (h *ruleHouse) isUser(id int) bool {
	is := false
	must(h.t, h.Topology.Router.Do(func() error { // on a thread of its own
		defer unix.Setfsuid(0)
		_ = unix.Setfsuid(id)
		now, err := unix.SetfsuidRetUid(id)
		is = err == nil && now == id
		return nil
	}))
	return is
}

// TestRuleMatches: every match of rules, with traffic of both families.
func TestRuleMatches(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		h.start(ctx, h.text(h.first()))
		for _, m := range h.matches(time.Now()) {
			text := h.text(h.first(), fmt.Sprintf("\n[[rule]]\n%s\nuplink = %q\n", m.rule, h.name(1)))
			if err := h.Reconfigure(ctx, text); err != nil {
				h.t.Errorf("%s: %v", m.name, err)
				continue
			}
			h.goes(m.name+" matches", h.name(1), m.yes...)
			h.goes(m.name+" does not match", h.name(0), m.no...)
		}
		h.unchanged()
	})
}

// TestRuleOrder: of overlapping rules the first wins, and what none matches is
// the default policy's.
func TestRuleOrder(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		one, two, three := h.name(0), h.name(1), h.name(2)
		h.start(ctx, h.text(h.first(), fmt.Sprintf(`
[policy.second]
tiers = [[%[2]q]]
[[rule]]
from = ["192.168.0.10", "fd00:1::a"]
policy = "second"
[[rule]]
from = ["192.168.0.8/29", "fd00:1::8/125"]
uplink = %[3]q
[[rule]]
from = ["192.168.7.0/24", "fd00:7::/64"]
to = ["198.51.100.9", "2001:db8:ffff::9"]
policy = "default"
[[rule]]
to = ["198.51.100.0/28", "2001:db8:ffff::/124"]
ports = ["1-100"]
policy = "second"
[[rule]]
to = ["198.51.100.8/29", "2001:db8:ffff::8/125"]
ports = ["50-200"]
uplink = %[3]q
[[rule]]
local = true
ports = [443]
uplink = %[3]q
[[rule]]
local = true
uplink = %[2]q
`, one, two, three)))
		h.goes("first of two that overlap", two, try{}, try{host: 9}, try{proto: icmp})
		h.goes("second of two that overlap", three, try{address: 1}, try{address: 3, host: 9})
		h.goes("a rule for the default policy", one, try{other: true, host: 9}, try{other: true, host: 9, dport: 150})
		h.goes("ports, first", two, try{other: true, host: 8}, try{other: true, host: 1}, try{other: true, host: 10, dport: 99, proto: udp})
		h.goes("ports, second", three, try{other: true, host: 8, dport: 101}, try{other: true, host: 15, dport: 200, proto: udp})
		h.goes("none", one, try{other: true, host: 8, dport: 201}, try{other: true, host: 7, dport: 101}, try{other: true, host: 16}, try{other: true, host: 9, proto: icmp})
		h.goes("the router's own, first", three, try{router: true, dport: 443})
		h.goes("the router's own, second", two, try{router: true}, try{router: true, dport: 443, proto: icmp})
		h.unchanged()
	})
}

// TestRuleReload: a reload that changes rules moves no connection; new ones
// follow. What the rules say survives a kill.
func TestRuleReload(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		rule := func(i int) string {
			return h.text(h.first(), fmt.Sprintf("\n[[rule]]\nfrom = [\"192.168.0.0/24\", \"fd00:1::/64\"]\nuplink = %q\n", h.name(i)))
		}
		h.start(ctx, rule(1))
		targets := func(i int) (lab.Socket, netip.AddrPort) {
			return lab.Socket{}, netip.AddrPortFrom(internet(i%2 == 1).Addr(), lab.PortTCP)
		}
		streams, err := lab.StartStreams(ctx, h.Client(), 40, targets, lab.StreamOptions{Interval: 10 * time.Millisecond})
		must(h.t, err)
		var flows []flow
		for _, v6 := range []bool{false, true} {
			flows = append(flows, h.flowOn(ctx, h.Uplinks[1], v6))
		}
		for i := range 10 {
			on := 1 + i%2
			must(h.t, h.Reconfigure(ctx, rule(on)))
			h.goes(fmt.Sprintf("reload %d", i), h.name(on), try{}, try{address: 3, proto: udp}, try{proto: icmp})
			h.goes(fmt.Sprintf("reload %d, no rule", i), h.name(0), try{other: true})
		}
		must(h.t, h.Reconfigure(ctx, h.text(h.first())))
		h.goes("without rules", h.name(0), try{}, try{other: true, proto: udp})
		h.unchanged()
		r := streams.Stop()
		if r.Broken > 0 || r.Sources[h.Uplinks[1].Address.Addr()]+r.Sources[h.Uplinks[1].Address6.Addr()] != r.Opened {
			h.t.Errorf("long connections: %s", r)
		}
		for _, f := range flows {
			h.whole("reload", f)
		}
	})
}

// TestRuleUplinkOnly: a rule that names an uplink means that one or nothing.
func TestRuleUplinkOnly(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		h.start(ctx, h.text(fmt.Sprintf(`
[[rule]]
name = "pinned"
from = ["192.168.0.10", "192.168.0.12/31", "fd00:1::a", "fd00:1::c/127"]
uplink = %[1]q
[[rule]]
local = true
ports = [443, %[2]d]
uplink = %[1]q
`, h.name(1), lab.PortDiscard)))
		pinned := []try{{}, {proto: udp}, {address: 2, proto: icmp}, {router: true, proto: udp, dport: 443}}
		h.goes("while it is up", h.name(1), pinned...)
		stream, err := lab.StartOneWay(ctx, h.Clients[1], lab.Socket{Local: netip.MustParseAddrPort("192.168.0.13:0")}, internet(false), 10*time.Millisecond)
		must(h.t, err)
		h.until(5*time.Second, "the stream arrives", func() bool { return len(h.Server.Flow(stream.Flow).Sources) > 0 })
		out, back := func() error { return h.setUplink("disable", h.name(1)) }, func() error { return h.setUplink("enable", h.name(1)) }
		if h.Switch == nil { // a dead cable, which is nobody else's
			out, back = func() error { return h.Uplinks[1].Carrier(false) }, func() error { return h.Uplinks[1].Carrier(true) }
		}
		must(h.t, out())
		// The stream is there to go elsewhere; it does not, however often it tries.
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		stream.Stop()
		if r := h.Server.Flow(stream.Flow); !slices.Equal(r.Addresses(), []netip.Addr{h.Uplinks[1].Address.Addr()}) {
			h.t.Errorf("the stream on %s, which is out, arrived from %v", h.name(1), r.Addresses())
		}
		h.refuses("while it is out", pinned...)
		h.refusesOwn(ctx, netip.AddrPortFrom(lab.InternetAddress, lab.PortDiscard))
		h.refusesOwn(ctx, netip.AddrPortFrom(lab.InternetAddress6, lab.PortDiscard))
		for _, x := range []try{{address: 1}, {other: true}, {router: true}} {
			for _, p := range h.packets(x) {
				if got := h.way(p); got != h.name(0) && got != h.name(2) {
					h.t.Errorf("without a rule, while %s is out: %s went %s", h.name(1), p, got)
				}
			}
		}
		must(h.t, back())
		_, err = h.Wait(ctx, func(s api.Status) bool { return s.Uplinks[1].State == api.Up })
		must(h.t, err)
		h.goes("when it is back", h.name(1), append(pinned, try{router: true, dport: lab.PortDiscard})...)
	})
}

// TestPolicies: tiers, weights and fallbacks of a policy's own.
func TestPolicies(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		one, two, three := h.name(0), h.name(1), h.name(2)
		h.start(ctx, h.text(h.first(), fmt.Sprintf(`
[policy.tiers]
tiers = [[%[3]q], [%[2]q]]
[policy.falls]
tiers = [[%[3]q]]
fallback = "default"
[policy.weights]
tiers = [[%[2]q, %[3]q]]
weights = { %[2]s = 3 }
[[rule]]
from = ["192.168.0.10", "fd00:1::a"]
policy = "tiers"
[[rule]]
from = ["192.168.0.11", "fd00:1::b"]
policy = "falls"
[[rule]]
from = ["192.168.0.12", "fd00:1::c"]
policy = "weights"
[[rule]]
from = ["192.168.0.13", "fd00:1::d"]
uplink = %[3]q
`, one, two, three)))
		h.goes("first tier", three, try{}, try{proto: udp})
		h.goes("its only uplink", three, try{address: 1}, try{address: 3})
		h.goes("no rule", one, try{other: true})
		for _, v6 := range []bool{false, true} {
			four, six := lab.ClientAddress(2)
			from, target := four, lab.Target(lab.Everywhere)
			if v6 {
				from, target = six, lab.Everywhere6
			}
			r := lab.Spread(ctx, h.Clients[1], 400, target.From(from))
			heavy, light := r.Sources[addressOf(h.Uplinks[1], v6)], r.Sources[addressOf(h.Uplinks[2], v6)]
			if r.Errors > 0 || heavy+light != 400 || heavy < 240 || heavy > 350 {
				h.t.Errorf("weights 3 and 1 (IPv6 %v): %s", v6, r)
			}
		}
		must(h.t, h.setUplink("disable", three))
		h.goes("second tier", two, try{}, try{proto: udp})
		h.goes("the only one of the weights that is left", two, try{address: 2})
		h.goes("fallback to the default policy", one, try{address: 1}, try{address: 1, proto: icmp})
		h.refuses("that one or nothing", try{address: 3})
		must(h.t, h.setUplink("disable", two))
		h.refuses("nobody is left", try{}, try{proto: udp}, try{address: 2, proto: icmp})
		h.goes("fallback to the default policy", one, try{address: 1})
		h.unchanged()
	})
}

// TestRuleBypass: what bypasses goes where table main leads.
func TestRuleBypass(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 4, Clients: 2, ClientAddresses: 2})
	// The fourth provider is none of the agent's, and routes the LANs itself.
	foreign := h.Uplinks[3]
	all := []netip.Prefix{lab.LANAddress.Masked(), lab.LANAddress6.Masked(), otherLAN.Masked(), otherLAN6.Masked()}
	must(t, foreign.Provider.Allow(all...))
	router := h.Topology.Router
	h.Uplinks = h.Uplinks[:3]
	h.Topology.Uplinks = h.Uplinks
	text := h.text(h.first(), `
[[rule]]
from = ["192.168.0.10", "fd00:1::a"]
action = "bypass"
[[rule]]
local = true
ports = [443]
action = "bypass"
`)
	h.start(ctx, text)
	bypass := []try{{}, {proto: udp}, {router: true, dport: 443, proto: udp}}
	h.refuses("main has no default", bypass...)
	h.goes("no rule", h.name(0), try{address: 1}, try{router: true})
	main := []lab.Route{{Gateway: foreign.Gateway, Interface: foreign.Interface}, {Gateway: foreign.Gateway6, Interface: foreign.Interface}}
	for _, r := range main {
		must(t, router.AddRoute(r))
	}
	// Neither marked for an uplink nor NATed.
	h.goes("main leads elsewhere, IPv4", "as 192.168.0.10", try{only: 4}, try{only: 4, proto: udp}, try{only: 4, proto: icmp})
	h.goes("main leads elsewhere, IPv6", "as fd00:1::a", try{only: 6}, try{only: 6, proto: udp}, try{only: 6, proto: icmp})
	h.goes("no rule", h.name(0), try{address: 1}, try{router: true}, try{other: true, proto: udp})
	for _, r := range main {
		must(t, router.DelRoute(r))
	}
	main = []lab.Route{{Gateway: h.Uplinks[2].Gateway, Interface: h.Uplinks[2].Interface}, {Gateway: h.Uplinks[2].Gateway6, Interface: h.Uplinks[2].Interface}}
	for _, r := range main {
		must(t, router.AddRoute(r))
	}
	h.goes("main leads to an uplink", h.name(2), append(bypass, try{router: true, dport: 443}, try{proto: icmp})...)
	h.goes("no rule", h.name(0), try{address: 1}, try{router: true})
	h.Uplinks = append(slices.Clip(h.Uplinks), foreign)
}
