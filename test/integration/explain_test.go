//go:build linux

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/test/lab"
)

// request asks about a packet.
func (h *ruleHouse) request(p packet) api.ExplainRequest {
	r := api.ExplainRequest{From: p.from, To: p.to, Protocol: p.proto, FromPort: p.sport, ToPort: p.dport, DSCP: p.dscp, UID: uint32(p.uid)}
	if !config.HasPorts(p.proto) {
		r.FromPort = 0 // it has none
	}
	if p.ns != h.Topology.Router {
		r.UID = 0 // nor has that a user
	}
	return r
}

// explain asks the agent about a packet. The kernel agrees.
func (h *ruleHouse) explain(ctx context.Context, p packet) api.Explanation {
	h.t.Helper()
	e, err := api.Dial(h.Socket()).Explain(ctx, h.request(p))
	if err != nil {
		h.t.Fatalf("%s: %v", p, err)
	}
	if !e.Agrees {
		h.t.Errorf("%s: the kernel does not agree: %q", p, e.Why)
	}
	return e
}

// TestExplainPackets: single packets, and what is said of them.
func TestExplainPackets(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 3, Clients: 2, ClientAddresses: 2})
	h.start(ctx, h.text(h.first(), fmt.Sprintf(`
[policy.both]
tiers = [[%[1]q, %[2]q]]
weights = { %[2]s = 3 }
[[rule]]
name = "web"
from = ["192.168.0.10", "fd00:1::a"]
ports = [443]
policy = "both"
[[rule]]
name = "only"
from = ["192.168.0.11", "fd00:1::b"]
uplink = %[3]q
[[rule]]
name = "past"
from = ["192.168.0.12", "fd00:1::c"]
action = "bypass"
[[rule]]
name = "own"
local = true
uid = [1000]
uplink = %[2]q
[[port_forward]]
name = "server"
protocol = "tcp"
port = 8000
to = "192.168.0.10:80"
`, h.name(0), h.name(1), h.name(2))))
	one, two, three := h.name(0), h.name(1), h.name(2)
	for _, c := range []struct {
		args                         []string
		rule, policy, uplink, source string // "": null
		candidates                   int
		why                          string // one sentence of it
	}{
		{[]string{"192.168.0.10", "198.51.100.1:443"}, "web", "both", "?", "?", 2, `Rule "web" matches: policy both.`},
		{[]string{"fd00:1::a", "[2001:db8:ffff::1]:443"}, "web", "both", "", "", 2, `Rule "web" matches: policy both.`},
		{[]string{"192.168.0.10", "198.51.100.1:444"}, "", "default", one, h.Uplinks[0].Address.Addr().String(), 1, "No rule matches."},
		{[]string{"192.168.0.11", "198.51.100.1", "--protocol", "icmp"}, "only", "", three, h.Uplinks[2].Address.Addr().String(), 1, `Rule "only" matches: it wants one uplink or nothing.`},
		{[]string{"192.168.0.12", "198.51.100.1"}, "past", "", "", "", 0, `It is answered with "unreachable".`},
		{[]string{"192.168.0.10", "192.168.7.9"}, "", "", "", "192.168.0.10", 0, "Table main has a route that is no default: it goes by lan2."},
		{[]string{"192.168.0.10", "192.168.0.1"}, "", "", "", "", 0, "It is for the router itself."},
		{[]string{"local", "198.51.100.1"}, "", "default", one, h.Uplinks[0].Address.Addr().String(), 1, "The router itself sends it."},
		{[]string{"local", "198.51.100.1:80", "--uid", "1000"}, "own", "", two, h.Uplinks[1].Address.Addr().String(), 1, `Rule "own" matches: it wants one uplink or nothing.`},
		{[]string{h.Uplinks[2].Address.Addr().String(), "198.51.100.1"}, "", "", three, h.Uplinks[2].Address.Addr().String(), 1, "The router itself sends it."},
		{[]string{"198.51.100.1", h.Uplinks[1].Address.Addr().String() + ":8000"}, "", "", two, h.Uplinks[1].Address.Addr().String(), 1, "A port forward leads it on to 192.168.0.10:80."},
		{[]string{"198.51.100.1", h.Uplinks[1].Address.Addr().String() + ":8001"}, "", "", two, h.Uplinks[1].Address.Addr().String(), 1, "It is for the router itself."},
		{[]string{"2001:db8:ffff::1", "fd00:1::a", "--interface", h.Uplinks[1].Interface}, "", "", "", "", 0, "The guard drops it"},
		{[]string{"198.51.100.1", "192.168.0.10", "--interface", h.Uplinks[1].Interface}, "", "", "", "", 0, "The guard drops it"},
	} {
		var e api.Explanation
		if err := h.JSON(&e, append([]string{"explain", "--json"}, c.args...)...); err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		null := func(s *string) string {
			if s == nil {
				return ""
			}
			return *s
		}
		source := ""
		if e.Source != nil {
			source = e.Source.String()
		}
		if c.uplink == "?" && e.Uplink != nil && (*e.Uplink == one || *e.Uplink == two) {
			c.uplink, c.source = *e.Uplink, source
		}
		if null(e.Rule) != c.rule || null(e.Policy) != c.policy || null(e.Uplink) != c.uplink || source != c.source || len(e.Candidates) != c.candidates || !e.Agrees ||
			!slices.ContainsFunc(e.Why, func(s string) bool { return strings.HasPrefix(s, c.why) }) {
			t.Errorf("%q: rule %q, policy %q, uplink %q, source %q, %v, agrees %v: %q", c.args, null(e.Rule), null(e.Policy), null(e.Uplink), source, e.Candidates, e.Agrees, e.Why)
		}
	}
	for args, want := range map[string]string{
		"198.51.100.1 198.51.100.2":                  "say by which interface it comes in",
		"fd00:1::a ff02::1":                          "ff02::1 is many, in one network",
		"192.168.0.10 127.0.0.1":                     "127.0.0.1 never leaves a computer",
		"fe80::1 2001:db8:ffff::1":                   "fe80::1 is known on its own link only",
		"192.168.0.10 198.51.100.1 --interface eth7": `there is no interface "eth7": there are lo, `,
	} {
		_, errOut, code, err := h.Command(append([]string{"explain"}, strings.Fields(args)...)...)
		if err != nil || code != 2 || !strings.Contains(errOut, want) {
			t.Errorf("explain %s: exit %d, %v: %s", args, code, err, errOut)
		}
	}
	for uplink, want := range map[string]string{one: `Policy default (table 20004) leads nowhere now: none of its uplinks is usable (` + one + `).`, three: "leads nowhere now: none of its uplinks is usable (" + three + ")."} {
		from := map[string]string{one: "192.168.0.13", three: "192.168.0.11"}[uplink]
		must(t, h.setUplink("disable", uplink))
		if out, errOut, code, err := h.Command("explain", from, "198.51.100.1:443"); err != nil || code != 0 || !strings.Contains(out, want) {
			t.Errorf("explain from %s without %s: exit %d, %v: %s%s", from, uplink, code, err, out, errOut)
		}
		must(t, h.setUplink("enable", uplink))
	}
	// Somebody else's route gets in the way: explain says so.
	must(t, h.Topology.Router.AddRoute(lab.Route{Dst: netip.MustParsePrefix("198.51.100.77/32"), Gateway: h.Uplinks[2].Gateway, Interface: h.Uplinks[2].Interface, Table: 777}))
	handle := h.Topology.Router.Handle()
	must(t, handle.RuleAdd(foreignRule(500, 777)))
	out, errOut, code, err := h.Command("explain", "192.168.0.10", "198.51.100.77:443")
	if err != nil || code != 1 || !strings.Contains(out, "the kernel says unicast by table 777") {
		t.Errorf("explain with somebody else's rule: exit %d, %v: %s%s", code, err, out, errOut)
	}
	if a, failed := h.send(packet{ns: h.Client(), from: netip.MustParseAddr("192.168.0.10"), to: netip.MustParseAddr("198.51.100.77"), proto: unix.IPPROTO_TCP, dport: 443}); failed != "" || a.from != h.Uplinks[2].Address.Addr() {
		t.Errorf("it went %v %s", a, failed)
	}
}

// TestExplainUnknownMAC: a rule asks for a hardware address, and the router has
// not heard of the client lately.
func TestExplainUnknownMAC(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 2, Clients: 2, ClientAddresses: 2})
	h.start(ctx, h.text(h.first(), fmt.Sprintf("\n[[rule]]\nname = \"hers\"\nmacs = [\"%s\"]\nuplink = %q\n", macOf(t, h.Clients[1]), h.name(1))))
	unknown := func(a netip.Addr) string {
		return fmt.Sprintf(`The hardware address of %s is not known: rule "hers" may match; give --mac.`, a)
	}
	for client := range h.Clients {
		for _, p := range h.packets(try{address: 2 * client}) {
			h.forgetClient(h.Clients[client])
			if e := h.explain(ctx, p); e.Rule != nil || e.Uplink != nil || e.Source != nil || len(e.Candidates) != 2 || !slices.Contains(e.Why, unknown(p.from)) {
				t.Errorf("%s, unknown: %s: %q", p, kindOf(e), e.Why)
			}
			r := h.request(p)
			r.MAC = [6]byte(macOf(t, h.Clients[client]))
			given, err := api.Dial(h.Socket()).Explain(ctx, r)
			must(t, err)
			a, failed := h.send(p)
			for how, e := range map[string]api.Explanation{"given": given, "known": h.explain(ctx, p)} {
				if (e.Rule != nil) != (client == 1) || e.Uplink == nil || *e.Uplink != h.name(client) || e.Source == nil || *e.Source != a.from || failed != "" {
					t.Errorf("%s, %s: %s: %q; it went as %s %s", p, how, kindOf(e), e.Why, a.from, failed)
				}
			}
		}
	}
}

// macOf is the hardware address of a client.
func macOf(t *testing.T, ns *lab.NS) net.HardwareAddr {
	t.Helper()
	l, err := ns.Link("eth0")
	must(t, err)
	return l.Attrs().HardwareAddr
}

// forgetClient takes a client out of the router's table of neighbours.
func (h *ruleHouse) forgetClient(ns *lab.NS) {
	h.t.Helper()
	handle, mac := h.Topology.Router.Handle(), macOf(h.t, ns)
	all, err := handle.NeighList(0, 0)
	must(h.t, err)
	for _, n := range all {
		if !bytes.Equal(n.HardwareAddr, mac) {
			continue
		}
		if err := handle.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			h.t.Fatalf("forgetting %s: %v", n.IP, err)
		}
	}
}

// TestExplainInbound: what comes in by any uplink, to a port forward, to the
// router itself, and unasked.
func TestExplainInbound(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		client4, client6 := lab.ClientAddress(0)
		behind, err := lab.NewServer(h.Client())
		must(h.t, err)
		defer behind.Close()
		own, err := lab.NewServer(h.Topology.Router)
		must(h.t, err)
		defer own.Close()
		forward := "\n[[port_forward]]\nname = %q\nprotocol = \"tcp\"\nport = 8000\nto = %q\n"
		h.start(ctx, h.text(h.first(), fmt.Sprintf(forward, "web", netip.AddrPortFrom(client4, 80)), fmt.Sprintf(forward, "web6", netip.AddrPortFrom(client6, 80))))
		for _, u := range h.Uplinks {
			for _, a := range []netip.Addr{u.Address.Addr(), u.Address6.Addr()} {
				from, to := internet(a.Is6()).Addr(), netip.AddrPortFrom(client4, 80)
				if a.Is6() {
					to = netip.AddrPortFrom(client6, 80)
				}
				only(ctx, h.t, "port forward at "+a.String(), h.Internet, bound(from, netip.AddrPortFrom(a, 8000)), 5, from) // and the neighbours are known
				for port, why := range map[uint16]string{8000: "A port forward leads it on to " + to.String() + ".", lab.PortTCP: "It is for the router itself."} {
					e, err := api.Dial(h.Socket()).Explain(ctx, api.ExplainRequest{From: from, To: a, Protocol: unix.IPPROTO_TCP, FromPort: 5000, ToPort: port})
					must(h.t, err)
					if e.Uplink == nil || *e.Uplink != u.Name || e.Source == nil || *e.Source != a || !e.Agrees || !slices.Contains(e.Why, why) {
						h.t.Errorf("from the internet to %s port %d: %s: %q", a, port, kindOf(e), e.Why)
					}
				}
			}
			e, err := api.Dial(h.Socket()).Explain(ctx, api.ExplainRequest{From: lab.InternetAddress, To: client4, Interface: u.Interface, Protocol: unix.IPPROTO_TCP, ToPort: 80})
			must(h.t, err)
			if e.Uplink != nil || !e.Agrees || !slices.ContainsFunc(e.Why, func(s string) bool { return strings.HasPrefix(s, "The guard drops it") }) {
				h.t.Errorf("unasked by %s: %q", u.Name, e.Why)
			}
		}
	})
}

// TestExplainTampered: it is said when somebody has taken rules away by which a
// packet would go.
func TestExplainTampered(t *testing.T) {
	needPrograms(t, "nft")
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 2})
	h.start(ctx, h.text(h.first()))
	ask := func() api.Explanation {
		e, err := api.Dial(h.Socket()).Explain(ctx, api.ExplainRequest{From: netip.MustParseAddr("192.168.0.10"), To: lab.InternetAddress, Protocol: unix.IPPROTO_TCP, ToPort: 80})
		must(t, err)
		return e
	}
	const want = "The configuration wants other rules than the kernel has: chain bind has no rules. Somebody else changed them, or the agent has not mended them yet."
	h.until(20*time.Second, "explain has seen a chain without rules", func() bool { // before the agent mends it
		out, errOut, code, err := h.Exec("nft", "flush chain inet multiroute bind")
		if err != nil || code != 0 {
			t.Fatalf("nft: exit %d, %v: %s%s", code, err, out, errOut)
		}
		e := ask()
		return !e.Agrees && slices.Contains(e.Why, want)
	})
	h.until(20*time.Second, "the agent has mended it", func() bool { return ask().Agrees })
}

// TestExplainWhileWriting: what the agent itself changes meanwhile is no
// difference.
func TestExplainWhileWriting(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newRuleHouse(t, lab.NewRouter, lab.Options{Uplinks: 2})
	configs := []string{h.text(h.first()), h.text(h.first(), fmt.Sprintf(`
[[rule]]
name = "web"
ports = [80, 443, 8080]
uplink = %[1]q
[[rule]]
name = "mail"
ports = [25, 465, 587]
uplink = %[2]q
[[port_forward]]
name = "server"
protocol = "tcp"
port = 8000
to = "192.168.0.10:80"
`, h.name(1), h.name(0)))}
	h.start(ctx, configs[0])
	done, asked := make(chan struct{}), 0
	go func() {
		defer close(done)
		for i := range 30 {
			if err := h.Reconfigure(ctx, configs[(i+1)%2]); err != nil {
				t.Error(err)
			}
		}
	}()
	for writing := true; writing; asked++ {
		select {
		case <-done:
			writing = false
		default:
		}
		for _, r := range []api.ExplainRequest{{From: netip.MustParseAddr("192.168.0.10"), To: lab.InternetAddress, Protocol: unix.IPPROTO_TCP, ToPort: 80},
			{From: lab.InternetAddress, To: h.Uplinks[1].Address.Addr(), Protocol: unix.IPPROTO_TCP, ToPort: 8000}} {
			e, err := api.Dial(h.Socket()).Explain(ctx, r)
			must(t, err)
			if !e.Agrees {
				t.Errorf("%s to %s: %q", r.From, r.To, e.Why)
			}
		}
	}
	t.Logf("asked %d times", asked)
}

// foreignRule leads everything to a table.
func foreignRule(priority, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = unix.AF_INET, priority, table
	return r
}
