package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/nat"
	"multiroute/routes"
)

const explainConfig = `
[router]
lan = ["eth0"]
[health]
targets = []
[uplink.a]
interface = "eth1"
gateway = "192.0.2.1"
weight = 3
destinations = ["203.0.113.0/24"]
[uplink.b]
interface = "eth2"
gateway = "198.51.100.1"
[policy.only-b]
tiers = [["b"]]
[[rule]]
name = "mail"
from = ["192.168.0.20"]
ports = [25]
policy = "only-b"
[[rule]]
name = "video"
macs = ["02:00:00:00:00:07"]
uplink = "a"
[[rule]]
name = "past"
dscp = ["ef"]
action = "bypass"
[[rule]]
name = "backup"
local = true
uid = [1000]
uplink = "b"
[[port_forward]]
name = "web"
protocol = "tcp"
port = 80
to = "192.168.0.10:8080"
`

// obedient is a kernel that holds what is wanted; of several ways it takes the
// last.
func obedient(e *explainer) func(routes.Query) (routes.Answer, error) {
	return func(q routes.Query) (routes.Answer, error) {
		if e.own(q.To) {
			return routes.Answer{Kind: routes.Local, Table: 255}, nil
		}
		way := e.plan.Routes.Walk(q, e.main)
		switch {
		case way.Kind == "": // no default in table main
			return routes.Answer{Kind: routes.Unreachable}, nil
		case way.Kind != routes.Unicast:
			return routes.Answer{Kind: way.Kind}, nil
		case way.Table == routes.TableMain:
			return routes.Answer{Kind: routes.Unicast, Table: way.Table, Index: e.facts.Link("eth0").Index, Source: netip.MustParseAddr("192.168.0.1")}, nil
		}
		hop := way.Nexthops[len(way.Nexthops)-1]
		return routes.Answer{Kind: routes.Unicast, Table: way.Table, Index: hop.Index, Gateway: hop.Gateway, Source: netip.MustParseAddr("192.168.0.1")}, nil
	}
}

func newExplainer(t *testing.T) *explainer {
	t.Helper()
	r := started(t, explainConfig)
	e := &explainer{plan: r.plan, rules: r.ruleset, facts: withNeighbours(r.k.facts), main: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}}
	e.lookup = obedient(e)
	return e
}

// withNeighbours is f with some clients whose hardware addresses are known.
func withNeighbours(f routes.Facts) routes.Facts {
	f.Neighbours = slices.Clip(f.Neighbours)
	for i, a := range []string{"192.168.0.5", "192.168.0.20", "192.168.0.2"} {
		f.Neighbours = append(f.Neighbours, routes.Neighbour{Index: f.Link("eth0").Index, Addr: netip.MustParseAddr(a), MAC: [6]byte{2, 0, 0, 0, 1, byte(i)}})
	}
	return f
}

// summary is an explanation in a line.
func summary(e api.Explanation) string {
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	source, table := "-", "-"
	if e.Source != nil {
		source = e.Source.String()
	}
	if e.Table != nil {
		table = fmt.Sprint(*e.Table)
	}
	var candidates []string
	for _, m := range e.Candidates {
		candidates = append(candidates, fmt.Sprintf("%s %d", m.Uplink, m.Weight))
	}
	return fmt.Sprintf("rule %s, policy %s, %v, uplink %s by %s as %s, table %s, agrees %v", text(e.Rule), text(e.Policy), candidates, text(e.Uplink), text(e.Interface), source, table, e.Agrees)
}

// TestExplain: what is said of packets of all kinds.
func TestExplain(t *testing.T) {
	e := newExplainer(t)
	for _, c := range []struct {
		from, to, protocol, iface, mac, dscp, uid string
		want, why                                 string
	}{
		{from: "192.168.0.5", to: "9.9.9.9:80", want: "rule -, policy default, [a 3 b 1], uplink b by eth2 as 198.51.100.9, table 20003, agrees true", why: "No rule matches."},
		{from: "192.168.0.20", to: "9.9.9.9:25", want: "rule mail, policy only-b, [b 1], uplink b by eth2 as 198.51.100.9, table 20004, agrees true", why: `Rule "mail" matches: policy only-b.`},
		{from: "192.168.0.20", to: "9.9.9.9:26", want: "rule -, policy default, [a 3 b 1], uplink b by eth2 as 198.51.100.9, table 20003, agrees true", why: "No rule matches."},
		{from: "192.168.0.5", to: "9.9.9.9", mac: "02:00:00:00:00:07", want: "rule video, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20005, agrees true", why: "it wants one uplink or nothing"},
		{from: "192.168.0.5", to: "9.9.9.9", dscp: "46", want: "rule past, policy -, [], uplink - by - as -, table -, agrees true", why: "it leaves routing alone"},
		{from: "192.168.0.5", to: "203.0.113.9", want: "rule -, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20000, agrees true", why: "The table of destinations that belong to one uplink (20000) leads by uplink a."},
		{from: "192.168.0.5", to: "192.168.0.6", want: "rule -, policy -, [], uplink - by eth0 as 192.168.0.5, table 254, agrees true", why: "no default: it goes by eth0"},
		{from: "192.168.0.5", to: "192.168.0.1", want: "rule -, policy -, [], uplink - by - as -, table -, agrees true", why: "It is for the router itself."},
		{from: "local", to: "9.9.9.9:80", want: "rule -, policy default, [a 3 b 1], uplink b by eth2 as 198.51.100.9, table 20003, agrees true", why: "The router itself sends it."},
		{from: "local", to: "9.9.9.9:80", protocol: "udp", want: "rule -, policy default, [a 3 b 1], uplink - by - as -, table 20003, agrees true", why: "does not tell beforehand which one"},
		{from: "local", to: "9.9.9.9:80", uid: "1000", want: "rule backup, policy -, [b 1], uplink b by eth2 as 198.51.100.9, table 20006, agrees true", why: `Rule "backup" matches`},
		{from: "192.0.2.9", to: "9.9.9.9:80", want: "rule -, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20001, agrees true", why: "The table of uplink a (20001) leads by uplink a."},
		{from: "9.9.9.9", to: "192.0.2.9:80", want: "rule -, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20001, agrees true", why: "A port forward leads it on to 192.168.0.10:8080."},
		{from: "9.9.9.9", to: "198.51.100.9:81", want: "rule -, policy -, [b 1], uplink b by eth2 as 198.51.100.9, table 20002, agrees true", why: "Answers leave by uplink b"},
		{from: "9.9.9.9", to: "192.168.0.10:80", iface: "eth2", want: "rule -, policy -, [], uplink - by - as -, table -, agrees true", why: "The guard drops it"},
	} {
		r, err := api.ParseExplain(c.from, c.to, c.protocol, c.iface, c.mac, c.dscp, c.uid)
		if err != nil {
			t.Fatal(err)
		}
		fresh := &explainer{plan: e.plan, rules: e.rules, facts: e.facts, main: e.main, lookup: e.lookup}
		got, err := fresh.explain(r)
		if err != nil || summary(got) != c.want || !slices.ContainsFunc(got.Why, func(s string) bool { return strings.Contains(s, c.why) }) {
			t.Errorf("%+v\ngot  %s, %v\nwant %s\nwhy %q, wanted %q", c, summary(got), err, c.want, got.Why, c.why)
		}
	}
}

// TestExplainUnknownMAC: where nobody knows a hardware address for which rules
// ask, only what does not depend on it is said.
func TestExplainUnknownMAC(t *testing.T) {
	const may = "The hardware address of %s is not known: %s may match; give --mac."
	const unsure = "rule -, policy -, [a 3 b 1 a 1], uplink - by - as -, table -, agrees true"
	const sure = "rule -, policy default, [a 3 b 1], uplink b by eth2 as 198.51.100.9, table 20003, agrees true"
	more := func(macs, key string) string {
		return "[[rule]]\nname = \"more\"\nmacs = [" + macs + "]\n" + key + "\n"
	}
	for _, c := range []struct {
		name, more string
		from, to   string
		mac        string
		want, why  string
		mute       bool // the kernel refuses what the rule leads to
	}{
		{name: "unknown", from: "192.168.0.6", to: "9.9.9.9", want: unsure, why: fmt.Sprintf(may, "192.168.0.6", `rule "video"`)},
		{name: "known", from: "192.168.0.5", to: "9.9.9.9", want: sure, why: "No rule matches."},
		{name: "given", from: "192.168.0.6", to: "9.9.9.9", mac: "02:00:00:00:00:08", want: sure, why: "No rule matches."},
		{name: "behind a router that is known", from: "192.168.9.6", to: "9.9.9.9", want: sure, why: "No rule matches."},
		{name: "behind a router that is not", from: "192.168.10.6", to: "9.9.9.9", want: unsure, why: fmt.Sprintf(may, "192.168.0.3", `rule "video"`)},
		{name: "one uplink's destination", from: "192.168.0.6", to: "203.0.113.9", want: "rule -, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20000, agrees true", why: "It leaves by eth1 with the source 192.0.2.9."},
		{name: "in the LAN", from: "192.168.0.6", to: "192.168.0.7", want: "rule -, policy -, [], uplink - by eth0 as 192.168.0.6, table 254, agrees true", why: "Table main has a route that is no default: it goes by eth0."},
		{name: "the router", from: "192.168.0.6", to: "192.168.0.1", want: "rule -, policy -, [], uplink - by - as -, table -, agrees true", why: "It is for the router itself."},
		{name: "two rules", more: more(`"02:00:00:00:00:07", "02:00:00:00:00:09"`, `action = "bypass"`), from: "192.168.0.6", to: "9.9.9.9", want: unsure, why: fmt.Sprintf(may, "192.168.0.6", `rule "video" or rule "more"`)},
		{name: "never the second", more: more(`"02:00:00:00:00:07"`, `action = "bypass"`), from: "192.168.0.6", to: "9.9.9.9", want: unsure, why: fmt.Sprintf(may, "192.168.0.6", `rule "video"`)},
		{name: "not this port", more: more(`"02:00:00:00:00:09"`, "ports = [25]\naction = \"bypass\""), from: "192.168.0.6", to: "9.9.9.9:26", want: unsure, why: fmt.Sprintf(may, "192.168.0.6", `rule "video"`)},
		{name: "the kernel disagrees", mute: true, from: "192.168.0.6", to: "9.9.9.9", want: "rule -, policy -, [a 3 b 1], uplink - by - as -, table -, agrees false", why: `Rule "video" matches: it wants one uplink or nothing.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := started(t, explainConfig+c.more)
			e := &explainer{plan: r.plan, rules: r.ruleset, facts: withNeighbours(r.k.facts), main: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}
			e.lookup = func(q routes.Query) (routes.Answer, error) {
				a, err := obedient(e)(q)
				switch b := q.To.As4(); {
				case b[2] == 9 && b[0] == 192:
					a.Gateway = netip.MustParseAddr("192.168.0.2")
				case b[2] == 10:
					a.Gateway = netip.MustParseAddr("192.168.0.3")
				case c.mute && a.Table == 20005:
					return routes.Answer{Kind: routes.Unreachable}, nil
				}
				return a, err
			}
			request, err := api.ParseExplain(c.from, c.to, "", "", c.mac, "", "")
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.explain(request)
			if err != nil || summary(got) != c.want || !slices.ContainsFunc(got.Why, func(s string) bool { return strings.Contains(s, c.why) }) {
				t.Errorf("got  %s, %v\nwant %s\nwhy %q, wanted %q", summary(got), err, c.want, got.Why, c.why)
			}
		})
	}
}

// TestExplainSender: who sent the frame, also where clients and uplinks share a
// card.
func TestExplainSender(t *testing.T) {
	for _, c := range []struct{ from, iface, want string }{
		{from: "192.168.0.6", want: "192.168.0.6"},
		{from: "192.168.0.6", iface: "eth0", want: "192.168.0.6"},
		{from: "9.9.9.9", want: "192.0.2.1"},
		{from: "9.9.9.9", iface: "eth0", want: "192.0.2.1"},
	} {
		e := newExplainer(t)
		a := &e.plan.Uplinks[0]
		a.Interface, a.V4.Nexthop.Index = "eth0", e.facts.Link("eth0").Index
		r, err := api.ParseExplain(c.from, "192.0.2.9:80", "", c.iface, "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if e.request = r; e.arrival() != nil || e.in.Name != "eth0" || e.sender.String() != c.want {
			t.Errorf("%+v: sent by %s, in by %v", c, e.sender, e.in)
		}
	}
}

// TestExplainContradictions: what cannot be true of a packet is said, not passed
// over.
func TestExplainContradictions(t *testing.T) {
	e := newExplainer(t)
	for _, c := range []struct{ from, iface, mac, uid, want string }{
		{"local", "eth0", "", "", "leave out --interface"},
		{"192.168.0.1", "eth0", "", "", "leave out --interface"},
		{"local", "", "02:00:00:00:00:07", "", "leave out --mac"},
		{"192.168.0.5", "", "", "1000", `leave out --uid, or write "local" instead of 192.168.0.5`},
	} {
		r, err := api.ParseExplain(c.from, "9.9.9.9:80", "", c.iface, c.mac, "", c.uid)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.explain(r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}

// TestExplainSticky: a client whom the kernel remembers stays where it is.
func TestExplainSticky(t *testing.T) {
	for _, c := range []struct {
		name, kind, from, to string
		set                  string // the set that remembers
		want, why            string
	}{
		{"remembered", "source", "192.168.0.5", "9.9.9.9:80", "sticky-3-1-source4", "rule -, policy default, [a 1], uplink a by eth1 as 192.0.2.9, table 20001, agrees true",
			"Policy default keeps this client on uplink a, where it was last: it began a connection there within 10m0s."},
		{"a pair", "source-destination", "192.168.0.5", "9.9.9.9:80", "sticky-3-1-pair4", "rule -, policy default, [a 1], uplink a by eth1 as 192.0.2.9, table 20001, agrees true",
			"Policy default keeps this client with this destination on uplink a"},
		{"nobody", "source", "192.168.0.5", "9.9.9.9:80", "", "rule -, policy default, [a 3 b 1], uplink b by eth2 as 198.51.100.9, table 20003, agrees true", "No rule matches."},
		{"another destination of its own", "source", "192.168.0.5", "203.0.113.9:80", "sticky-3-2-source4", "rule -, policy -, [a 1], uplink a by eth1 as 192.0.2.9, table 20000, agrees true", "No rule matches."},
		{"in the LAN", "source", "192.168.0.5", "192.168.0.6:80", "sticky-3-2-source4", "rule -, policy -, [], uplink - by eth0 as 192.168.0.5, table 254, agrees true", "No rule matches."},
	} {
		r := started(t, explainConfig+"[policy.default]\nsticky = \""+c.kind+"\"\n")
		e := &explainer{plan: r.plan, rules: r.ruleset, facts: withNeighbours(r.k.facts), main: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}}
		e.lookup = obedient(e)
		e.has = func(d nat.Dynamic, key string) (bool, error) {
			return d.Name == c.set && key == d.Key(netip.MustParseAddr(c.from), netip.MustParseAddrPort(c.to).Addr()), nil
		}
		request, err := api.ParseExplain(c.from, c.to, "", "", "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.explain(request)
		if err != nil || summary(got) != c.want || !slices.ContainsFunc(got.Why, func(s string) bool { return strings.Contains(s, c.why) }) {
			t.Errorf("%s:\ngot  %s, %v\nwant %s\nwhy %q, wanted %q", c.name, summary(got), err, c.want, got.Why, c.why)
		}
		e.has = func(nat.Dynamic, string) (bool, error) { return false, errors.New("no answer") }
		pinned := strings.HasPrefix(c.to, "203.")
		if got, err := e.explain(request); err != nil || got.Agrees && !pinned {
			t.Errorf("%s: the kernel does not answer, and nobody says so: %v", c.name, err)
		}
	}
}

// TestExplainUnanswered: what comes in by an uplink that carries nothing gets no
// answer, and what a provider has delegated and nobody uses leads nowhere.
func TestExplainUnanswered(t *testing.T) {
	r := started(t, strings.Replace(explainConfig, "[uplink.b]\n", "[uplink.b]\nenabled = false\n", 1))
	e := explainer{plan: r.plan, rules: r.ruleset, facts: r.k.facts, main: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("2001:db8:f::/56")}}
	e.facts.Delegated = e.main[1:]
	e.lookup = func(q routes.Query) (routes.Answer, error) {
		if q.In != 0 && q.To.Is4() {
			return routes.Answer{Kind: routes.Blackholed}, nil // as since Linux 6.13
		}
		if q.To == netip.MustParseAddr("2001:db8:f::1") {
			return routes.Answer{Kind: routes.Unreachable}, nil
		}
		return obedient(&e)(q)
	}
	for _, c := range []struct{ from, to, iface, why string }{
		{"9.9.9.9", "198.51.100.9:80", "eth2", "The kernel drops it: it has no way back to who sent it."},
		{"2001:db8:99::1", "[2001:db8:f::1]:80", "eth1", `It is answered with "unreachable".`},
	} {
		request, err := api.ParseExplain(c.from, c.to, "", c.iface, "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		fresh := e
		got, err := fresh.explain(request)
		if err != nil || !got.Agrees || got.Table != nil || got.Uplink != nil || !slices.Contains(got.Why, c.why) {
			t.Errorf("%+v: %s, %v: %q", c, summary(got), err, got.Why)
		}
	}
}

// TestExplainDiffers: it is said when the kernel, or the compiled rules, do
// something else than the configuration wants.
func TestExplainDiffers(t *testing.T) {
	r, err := api.ParseExplain("192.168.0.20", "9.9.9.9:25", "", "", "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	differs := func(what, why string, change func(*explainer)) {
		t.Helper()
		e := newExplainer(t)
		change(e)
		got, err := e.explain(r)
		if err != nil || got.Agrees || !slices.ContainsFunc(got.Why, func(s string) bool { return strings.Contains(s, why) }) {
			t.Errorf("%s: %s, %v: %q", what, summary(got), err, got.Why)
		}
	}
	differs("another gateway", "the kernel says unicast by table 20004 via 192.0.2.1 dev eth1", func(e *explainer) {
		e.lookup = func(q routes.Query) (routes.Answer, error) {
			a, err := obedient(e)(q)
			if a.Table == 20004 {
				a.Index, a.Gateway = e.facts.Link("eth1").Index, netip.MustParseAddr("192.0.2.1")
			}
			return a, err
		}
	})
	differs("refused", "the kernel says unreachable", func(e *explainer) {
		e.lookup = func(q routes.Query) (routes.Answer, error) {
			if q.In != 0 {
				return routes.Answer{Kind: routes.Unreachable}, nil
			}
			return obedient(e)(q)
		}
	})
	differs("another set", "The configuration wants other rules than the kernel has: set rules-1 has nothing for 192.168.0.20, wanted is goto only-b. Somebody else changed them, or the agent has not mended them yet.", func(e *explainer) {
		e.check = func(w *nat.Walk) (string, error) {
			if !slices.ContainsFunc(w.Lookups(), func(a nat.Asked) bool { return a.Chain == "bind" }) {
				return "", nil // it did not leave
			}
			return "set rules-1 has nothing for 192.168.0.20, wanted is goto only-b", nil
		}
	})
	e := newExplainer(t)
	e.check = func(*nat.Walk) (string, error) { return "", fmt.Errorf("set rules-1: %w", unix.EOPNOTSUPP) }
	const untold = "This kernel does not tell all that is in its sets: they may differ from the compiled rules."
	if got, err := e.explain(r); err != nil || !got.Agrees || !slices.Contains(got.Why, untold) {
		t.Errorf("a kernel that does not tell: %s, %v: %q", summary(got), err, got.Why)
	}
	e = newExplainer(t)
	e.check = func(*nat.Walk) (string, error) { return "", errors.New("no answer") }
	if _, err := e.explain(r); err == nil {
		t.Error("no answer is taken for one")
	}
	differs("other compiled rules", "The compiled rules gave it another mark", func(e *explainer) {
		other := e.plan.NAT
		other.Rules = slices.Clone(other.Rules)
		other.Rules[0].Ports = nil
		other.Rules[0].Policy = e.plan.Policies[0].Mark
		e.rules = nat.Compile(other)
	})
}

// TestExplainMistakes: questions that have no answer say what is missing.
func TestExplainMistakes(t *testing.T) {
	for _, c := range [][4]string{
		{"9.9.9.9", "8.8.8.8", "", "9.9.9.9 is in the internet and 8.8.8.8 is no address of an uplink"},
		{"192.168.0.5", "8.8.8.8", "eth7", `there is no interface "eth7": there are eth0, eth1, eth2`},
	} {
		r, err := api.ParseExplain(c[0], c[1], "", c[2], "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newExplainer(t).explain(r); err == nil || !strings.Contains(err.Error(), c[3]) {
			t.Errorf("%q: %v", c, err)
		}
	}
}
