package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRules(t *testing.T) {
	t.Parallel()
	cfg := mustAll(t, `
[router]
lan = ["eth0", "br-lan"]
[uplink.dsl]
interface = "eth1"
[uplink.cable]
interface = "eth2"
[policy.voice]
tiers = [["cable"], ["dsl"]]

[[rule]]
name = "everything"
from = ["192.168.0.20", "192.168.7.0/24", "2001:db8::/32"]
to = ["203.0.113.0/24", "0.0.0.0/0"]
domains = ["example.com", "*.example.org"]
interfaces = ["br-lan"]
macs = ["02:00:00:00:00:01", "AA:BB:CC:DD:EE:FF"]
protocol = ["udp", "tcp"]
ports = ["5060-5061", 10000]
source_ports = [1, "1024-65535"]
dscp = ["ef", "cs0", "be", "af41"]
hours = "22:00-06:30"
days = ["sat", "sun", "mon"]
policy = "voice"

[[rule]]
protocol = "icmp"
uplink = "dsl"
`, `
[[rule]]
local = true
uid = [1000, 0, 4294967294]
action = "bypass"
[[rule]]
ports = [443]
policy = "default"
[[rule]]
protocol = ["icmpv6", "icmp", "gre"]
source_ports = []
uplink = "dsl"
[[rule]]
hours = "00:00-24:00"
days = ["sun"]
uplink = "cable"
`)
	pfx := netip.MustParsePrefix
	want := []Rule{{
		Name:        "everything",
		From:        []netip.Prefix{pfx("192.168.0.20/32"), pfx("192.168.7.0/24"), pfx("2001:db8::/32")},
		To:          []netip.Prefix{pfx("203.0.113.0/24"), pfx("0.0.0.0/0")},
		Domains:     []string{"*.example.org", "example.com"},
		Interfaces:  []string{"br-lan"},
		MACs:        [][6]byte{{2, 0, 0, 0, 0, 1}, {0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}},
		Protocols:   []uint8{6, 17},
		Ports:       []PortRange{{5060, 5061}, {10000, 10000}},
		SourcePorts: []PortRange{{1, 1}, {1024, 65535}},
		DSCP:        []uint8{0, 34, 46},
		Hours:       &Hours{22 * time.Hour, 6*time.Hour + 30*time.Minute},
		Days:        []time.Weekday{time.Sunday, time.Monday, time.Saturday},
		Policy:      "voice", Pos: "a.toml:11",
	},
		{Name: "rule 2", Protocols: []uint8{1, 58}, Uplink: "dsl", Pos: "a.toml:26"},
		{Name: "rule 3", Local: true, UIDs: []uint32{1000, 0, 4294967294}, Bypass: true, Pos: "b.toml:2"},
		{Name: "rule 4", Protocols: []uint8{6, 17}, Ports: []PortRange{{443, 443}}, Policy: "default", Pos: "b.toml:6"},
		{Name: "rule 5", Protocols: []uint8{1, 47, 58}, Uplink: "dsl", Pos: "b.toml:9"},
		{Name: "rule 6", Hours: &Hours{0, 24 * time.Hour}, Days: []time.Weekday{time.Sunday}, Uplink: "cable", Pos: "b.toml:13"},
	}
	if diff := cmp.Diff(want, cfg.Rules, netipEqual...); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"dsl", "cable"}, cfg.RuleUplinks()); diff != "" {
		t.Errorf("uplinks that rules name (-want +got)\n%s", diff)
	}
	if !cfg.Bypasses() {
		t.Error("no rule bypasses")
	}
	cfg = mustAll(t, "[uplink.dsl]\ninterface = 'eth1'\n[[rule]]\nlocal = true\npolicy = 'default'\n")
	if names := cfg.RuleUplinks(); names != nil || cfg.Bypasses() {
		t.Errorf("a rule with a policy names %q, bypasses %v", names, cfg.Bypasses())
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	cfg := mustAll(t, `
[uplink.dsl]
interface = "eth1"
mtu = 1400
bandwidth = { down = "1gbit", up = "800kbit" }
[uplink.cable]
interface = "eth2"
bandwidth = { down = "50mbit", up = "10mbit" }

[policy.default]
sticky_timeout = "20m"
[policy.voice]
tiers = [["cable"]]
balance = "latency"
sticky = "source"
fallback = "default"
[policy.bulk]
balance = "capacity"
sticky = "source-destination"
sticky_timeout = "1h"
failback = "all"
fallback = "reject"
`)
	want := []Policy{
		{Name: "default"},
		{Name: "voice", Tiers: [][]string{{"cable"}}, Balance: BalanceLatency, Sticky: StickySource, StickyTimeout: 10 * time.Minute, Fallback: FallbackDefault},
		{Name: "bulk", Balance: BalanceCapacity, Sticky: StickySourceDestination, StickyTimeout: time.Hour, Failback: FailbackAll},
	}
	if diff := cmp.Diff(want, cfg.Policies); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if cfg.Uplinks[0].MTU != 1400 || cfg.Uplinks[1].MTU != 0 {
		t.Errorf("MTU %d and %d", cfg.Uplinks[0].MTU, cfg.Uplinks[1].MTU)
	}
}

func TestForwardRanges(t *testing.T) {
	t.Parallel()
	cfg := mustAll(t, `
[uplink.dsl]
interface = "eth1"
[[port_forward]]
name = "same"
protocol = "tcp"
port = "8000-8010"
to = "192.168.0.10"
[[port_forward]]
name = "shifted"
protocol = "udp"
port = "8000-8010"
to = "[fd00::10]:9000-9010"
sources = ["2001:db8::/32", "2001:db9::1"]
hairpin = false
[[port_forward]]
name = "one"
protocol = "tcp"
port = "9000-9010"
to = "192.168.0.10:80"
`)
	addr, pfx := netip.MustParseAddr, netip.MustParsePrefix
	want := []PortForward{
		{Name: "same", Protocol: 6, Ports: PortRange{8000, 8010}, To: addr("192.168.0.10"), ToPorts: PortRange{8000, 8010}, Hairpin: true},
		{Name: "shifted", Protocol: 17, Ports: PortRange{8000, 8010}, To: addr("fd00::10"), ToPorts: PortRange{9000, 9010},
			Sources: []netip.Prefix{pfx("2001:db8::/32"), pfx("2001:db9::1/128")}},
		{Name: "one", Protocol: 6, Ports: PortRange{9000, 9010}, To: addr("192.168.0.10"), ToPorts: PortRange{80, 80}, Hairpin: true},
	}
	if diff := cmp.Diff(want, cfg.PortForwards, netipEqual...); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What rules name instead of a policy needs ids of its own.
func TestRuleIDs(t *testing.T) {
	t.Parallel()
	text := `
[router]
mark_mask = "0x00070000"
lan = ["eth0"]
[uplink.dsl]
interface = "eth1"
[uplink.cable]
interface = "eth2"
[policy.voice]
[[rule]]
uplink = "dsl"
[[rule]]
local = true
uplink = "dsl"
[[rule]]
action = "bypass"
`
	mustAll(t, text, "[uplink.lte]\ninterface = 'wwan0'\n") // 3 uplinks, 2 policies, dsl, bypass
	_, err := parseAll(text, "[uplink.lte]\ninterface = 'wwan0'\n[[rule]]\nuplink = 'lte'\n")
	const want = "a.toml:3: router.mark_mask: has room for 7 uplinks and policies together, with 3 for what rules name instead of a policy, and there are 8: write a mask of 4 bits or more"
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// Names that each DSCP and protocol has elsewhere are checked here by their numbers.
func TestRuleNumbers(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		if got := dscpNames[fmt.Sprintf("cs%d", i)]; int(got) != 8*i {
			t.Errorf("cs%d is %d", i, got)
		}
	}
	for class := 1; class <= 4; class++ {
		for drop := 1; drop <= 3; drop++ {
			if got := dscpNames[fmt.Sprintf("af%d%d", class, drop)]; int(got) != 8*class+2*drop {
				t.Errorf("af%d%d is %d", class, drop, got)
			}
		}
	}
	seen := map[string]bool{}
	for _, p := range protocols {
		if seen[p.name] || len(p.numbers) == 0 || !slices.IsSorted(p.numbers) {
			t.Errorf("%+v", p)
		}
		seen[p.name] = true
	}
}

// checkRuleInvariants checks what holds for the rules of every Config.
func checkRuleInvariants(t *testing.T, cfg *Config) {
	t.Helper()
	names := map[string]bool{}
	for _, r := range cfg.Rules {
		targets := 0
		for _, is := range []bool{r.Policy != "", r.Uplink != "", r.Bypass} {
			if is {
				targets++
			}
		}
		ports := slices.Concat(r.Ports, r.SourcePorts)
		problem := ""
		switch {
		case r.Name == "" || names[r.Name] || r.Pos == "":
			problem = "name or position"
		case targets != 1, r.Policy != "" && cfg.Policy(r.Policy) == nil, r.Uplink != "" && cfg.Uplink(r.Uplink) == nil:
			problem = "target"
		case r.Local && len(r.Interfaces)+len(r.MACs) > 0, !r.Local && len(r.UIDs) > 0, !r.Local && len(cfg.Router.LAN) == 0:
			problem = "local"
		case slices.ContainsFunc(r.Interfaces, func(name string) bool { return !slices.Contains(cfg.Router.LAN, name) }):
			problem = "interfaces"
		case !slices.IsSorted(r.Protocols) || !slices.IsSorted(r.DSCP) || !slices.IsSorted(r.Days):
			problem = "order"
		case slices.ContainsFunc(slices.Concat(r.From, r.To), func(p netip.Prefix) bool { return !p.IsValid() || p != p.Masked() }):
			problem = "prefixes"
		case slices.ContainsFunc(ports, func(p PortRange) bool { return p.Lo == 0 || p.Hi < p.Lo }):
			problem = "ports"
		case len(ports) > 0 && (len(r.Protocols) == 0 || slices.ContainsFunc(r.Protocols, func(p uint8) bool { return !slices.Contains([]uint8{6, 17, 33, 132, 136}, p) })):
			problem = "protocols without ports"
		case slices.ContainsFunc(r.DSCP, func(d uint8) bool { return d > 63 }):
			problem = "DSCP"
		case r.Hours != nil && (r.Hours.From < 0 || r.Hours.From >= day || r.Hours.To < 0 || r.Hours.To > day || r.Hours.From == r.Hours.To):
			problem = "hours"
		case strings.Contains(r.Name, " ") && !strings.HasPrefix(r.Name, "rule "):
			problem = "name"
		}
		if problem != "" {
			t.Errorf("invariant: %s of %+v", problem, r)
		}
		names[r.Name] = true
	}
}

// TestTooManyDomains: the agent asks for so many names, of all rules; those that
// dnsmasq finds do not count, nor does one that several rules have.
func TestTooManyDomains(t *testing.T) {
	t.Parallel()
	rule := func(from, to int, format string) string {
		var names []string
		for i := from; i < to; i++ {
			names = append(names, fmt.Sprintf(`"`+format+`"`, i))
		}
		return "[[rule]]\nuplink = \"dsl\"\ndomains = [" + strings.Join(names, ", ") + "]\n"
	}
	begin := "[router]\nlan = [\"eth0\"]\n[uplink.dsl]\ninterface = \"eth1\"\n"
	fits := begin + rule(0, maxAsked/2, "n%d.example") + rule(100, maxAsked, "N%d.example") + rule(0, 2*maxAsked, "*.n%d.example")
	mustAll(t, fits)
	_, err := Parse([]File{{"many", []byte(fits + rule(maxAsked, maxAsked+2, "n%d.example"))}})
	if err == nil || err.Error() != `many:16: rule[4].domains: all rules up to this one have 10002 different domains to ask for: write at most 10000, or such as "*.example.org" for all below one, which dnsmasq finds` {
		t.Error(err)
	}
}
