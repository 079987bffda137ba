package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// netipEqual lets cmp compare addresses and prefixes.
var netipEqual = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// must parses files named a.toml, b.toml and so on.
func must(t *testing.T, texts ...string) *Config {
	t.Helper()
	cfg, err := Parse(files(texts...))
	if err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, cfg)
	return cfg
}

// mustAll is must, but keys without behaviour are not refused.
func mustAll(t *testing.T, texts ...string) *Config {
	t.Helper()
	cfg, err := parseAll(texts...)
	if err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, cfg)
	return cfg
}

func parseAll(texts ...string) (*Config, error) {
	var sources []source
	for _, f := range files(texts...) {
		sources = append(sources, source{name: f.Name, text: f.Text})
	}
	return parse(sources)
}

func files(texts ...string) []File {
	var fs []File
	for i, text := range texts {
		fs = append(fs, File{string(rune('a'+i)) + ".toml", []byte(text)})
	}
	return fs
}

// wantError parses files that must give exactly these lines.
func wantError(t *testing.T, want string, texts ...string) {
	t.Helper()
	cfg, err := Parse(files(texts...))
	if err == nil {
		t.Fatalf("accepted: %+v", cfg)
	}
	if diff := cmp.Diff(strings.TrimSpace(want), err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got := must(t, "[uplink.dsl]\ninterface = 'eth1'\n")
	want := &Config{
		Router:   Router{MarkMask: 0xff000000, TableBase: 20000, RuleBase: 10000, ManageSysctls: true, Guard: true},
		Uplinks:  []Uplink{{Name: "dsl", Interface: "eth1", Weight: 1, Enabled: true, Health: usual(), Pos: "a.toml:1"}},
		Policies: []Policy{{Name: "default"}},
		Hooks:    Hooks{Timeout: 10 * time.Second},
		API:      API{Socket: "/run/multiroute/agent.sock", Group: "multiroute", HTTP: "127.0.0.1:9780"},
		Files:    []string{"a.toml"},
	}
	if diff := cmp.Diff(want, got, netipEqual...); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	written := must(t, `
[router]
lan = []
mark_mask = "0xff000000"
table_base = 20000
rule_base = 10000
manage_sysctls = true
guard = true
routed = []
[uplink.dsl]
interface = "eth1"
gateway = "auto"
addresses = []
gateway6 = "auto"
ipv6 = "masquerade"
prefix6 = "auto"
weight = 1
dns = []
destinations = []
mtu = 0
metered = false
enabled = true
[policy.default]
tiers = []
weights = {}
balance = "weight"
sticky = "connection"
failback = "new"
fallback = "reject"
[health]
targets = ["icmp://1.1.1.1", "icmp://8.8.8.8", "icmp://9.9.9.9"]
targets6 = ["icmp://[2606:4700:4700::1111]", "icmp://[2001:4860:4860::8888]"]
interval = "500ms"
timeout = "1s"
suspect_interval = "100ms"
down_after = 5
up_after = 5
hold_down = "10s"
degraded_loss = 20
degraded_latency = "0s"
profile = "normal"
[hooks]
on_change = []
[api]
socket = "/run/multiroute/agent.sock"
group = "multiroute"
http = "127.0.0.1:9780"
`)
	written.Uplinks[0].Pos = want.Uplinks[0].Pos
	if diff := cmp.Diff(want, written, netipEqual...); diff != "" {
		t.Errorf("defaults that are written (-want +got)\n%s", diff)
	}
}

func TestEverything(t *testing.T) {
	t.Parallel()
	got := must(t, `
[router]
lan = ["eth0", "br-lan.7"]
mark_mask = "0x00000ff0"
table_base = 256
rule_base = 1
manage_sysctls = false
guard = false
routed = ["198.51.100.0/24", "2001:db8:7::/48"]

[uplink.dsl]
interface = "eth1"
gateway = "192.0.2.1"
addresses = ["192.0.2.2", "2001:db8::2"]
gateway6 = "fe80::1 onlink"
ipv6 = "routed"
weight = 256
dns = ["192.0.2.53", "2001:db8::53"]
destinations = ["10.0.0.0/8", "203.0.113.7", "2001:db8:9::1"]
enabled = false

[uplink.Cable_2]
interface = "eth0"
gateway = "203.0.113.1 onlink"
ipv6 = "off"

[uplink.4g]
interface = "wwan0"
gateway = "none"
gateway6 = "off"
metered = true
health.profile = "normal"

[policy]
default.weights.dsl = 3
default.weights.4g = 2
default.tiers = [["Cable_2", "dsl"], ["4g"]]
default.failback = "all"

[[port_forward]]
name = "web"
protocol = "tcp"
port = 80
to = "192.168.0.10:8080"
uplinks = ["dsl", "4g"]
sources = []
hairpin = false

[[port_forward]]
name = "dns"
protocol = "udp"
port = 53
to = "fd00::10"

[[port_forward]]
name = "dns6"
protocol = "udp"
port = 5353
to = "[fd00::10]:53"

[hooks]
on_change = ["/usr/bin/notify"]
hook_timeout = "30s"

[api]
socket = "/tmp/agent.sock"
group = "root"
`)
	addr, pfx := netip.MustParseAddr, netip.MustParsePrefix
	want := &Config{
		Router: Router{
			LAN: []string{"eth0", "br-lan.7"}, MarkMask: 0xff0, TableBase: 256, RuleBase: 1,
			Routed: []netip.Prefix{pfx("198.51.100.0/24"), pfx("2001:db8:7::/48")},
		},
		Uplinks: []Uplink{{
			Name: "dsl", Interface: "eth1", Weight: 256, Pos: "a.toml:11", Health: usual(),
			Gateway:      Gateway{Mode: GatewayAddress, Addr: addr("192.0.2.1")},
			Gateway6:     Gateway{Mode: GatewayAddress, Addr: addr("fe80::1"), OnLink: true},
			Addresses:    []netip.Addr{addr("192.0.2.2"), addr("2001:db8::2")},
			IPv6:         IPv6Routed,
			DNS:          []netip.Addr{addr("192.0.2.53"), addr("2001:db8::53")},
			Destinations: []netip.Prefix{pfx("10.0.0.0/8"), pfx("203.0.113.7/32"), pfx("2001:db8:9::1/128")},
		}, {
			Name: "Cable_2", Interface: "eth0", Weight: 1, Enabled: true, Pos: "a.toml:22", Health: usual(),
			Gateway:  Gateway{Mode: GatewayAddress, Addr: addr("203.0.113.1"), OnLink: true},
			Gateway6: Gateway{Mode: GatewayOff}, IPv6: IPv6Off,
		}, {
			Name: "4g", Interface: "wwan0", Weight: 1, Enabled: true, Pos: "a.toml:27", Health: usual(), Metered: true,
			Gateway: Gateway{Mode: GatewayNone}, Gateway6: Gateway{Mode: GatewayOff}, IPv6: IPv6Off,
		}},
		Policies: []Policy{{Name: "default", Tiers: [][]string{{"Cable_2", "dsl"}, {"4g"}},
			Weights: map[string]int{"dsl": 3, "4g": 2}, Failback: FailbackAll}},
		PortForwards: []PortForward{
			{Name: "web", Protocol: 6, Ports: PortRange{80, 80}, To: addr("192.168.0.10"), ToPorts: PortRange{8080, 8080}, Uplinks: []string{"dsl", "4g"}},
			{Name: "dns", Protocol: 17, Ports: PortRange{53, 53}, To: addr("fd00::10"), ToPorts: PortRange{53, 53}, Hairpin: true},
			{Name: "dns6", Protocol: 17, Ports: PortRange{5353, 5353}, To: addr("fd00::10"), ToPorts: PortRange{53, 53}, Hairpin: true},
		},
		Hooks: Hooks{OnChange: []string{"/usr/bin/notify"}, Timeout: 30 * time.Second},
		API:   API{Socket: "/tmp/agent.sock", Group: "root", HTTP: "127.0.0.1:9780"},
		Files: []string{"a.toml"},
	}
	if diff := cmp.Diff(want, got, netipEqual...); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	got := must(t, `
[router]
lan = ["eth0", "eth9"]
[uplink.dsl]
interface = "eth1"
weight = 2
dns = ["192.0.2.53"]
[uplink.cable]
interface = "eth2"
[policy.default.weights]
dsl = 3
[[port_forward]]
name = "one"
protocol = "tcp"
port = 1
to = "192.168.0.10"
`, `
uplink.dsl.weight = 5
uplink.dsl.dns = []
[uplink.lte]
interface = "wwan0"
[[port_forward]]
name = "two"
protocol = "tcp"
port = 2
to = "192.168.0.10"
`, `
port_forward = [{ name = "three", protocol = "udp", port = 3, to = "192.168.0.10" }]
[router]
lan = ["eth7"]
[uplink.dsl]
weight = 7
[policy.default.weights]
cable = 4
`)
	if diff := cmp.Diff([]string{"eth7"}, got.Router.LAN); diff != "" {
		t.Errorf("lists are replaced (-want +got)\n%s", diff)
	}
	var names []string
	for _, u := range got.Uplinks {
		names = append(names, u.Name+" "+u.Pos)
	}
	if diff := cmp.Diff([]string{"dsl a.toml:4", "cable a.toml:8", "lte b.toml:4"}, names); diff != "" {
		t.Errorf("uplinks (-want +got)\n%s", diff)
	}
	if u := got.Uplink("dsl"); u.Weight != 7 || u.Interface != "eth1" || u.DNS != nil {
		t.Errorf("later files win key by key: %+v", u)
	}
	if diff := cmp.Diff(map[string]int{"dsl": 3, "cable": 4}, got.Policy("default").Weights); diff != "" {
		t.Errorf("weights (-want +got)\n%s", diff)
	}
	var forwards []string
	for _, f := range got.PortForwards {
		forwards = append(forwards, f.Name)
	}
	if diff := cmp.Diff([]string{"one", "two", "three"}, forwards); diff != "" {
		t.Errorf("port forwards (-want +got)\n%s", diff)
	}
}

// A drop-in may define an uplink in part before another names its interface.
func TestMergeCompletes(t *testing.T) {
	t.Parallel()
	cfg := must(t, "[uplink.dsl]\nweight = 2\n", "[uplink.dsl]\ninterface = 'eth1'\n")
	if u := cfg.Uplink("dsl"); u.Weight != 2 || u.Interface != "eth1" {
		t.Errorf("%+v", u)
	}
}

func TestErrorsAcrossFiles(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, want string
		texts      []string
	}{
		{"a hidden mistake is found too", `
a.toml:3: uplink.dsl.weight: is the string "x", wants a whole number from 1 to 256
`, []string{"[uplink.dsl]\ninterface = 'eth1'\nweight = 'x'\n", "uplink.dsl.weight = 3\n"}},
		{"syntax errors hide nothing elsewhere", `
a.toml:1: a: wrong TOML: expected value but found '\n' instead: write text in quotes, a number, true, false, or a list in [ ]
b.toml:2: uplink.dsl.wieght: unknown key: did you mean weight?
c.toml:2: b: wrong TOML: Key 'b' has already been defined: remove one, or join them
d.toml:1: hooks.on_change: "true" is not an absolute path: begin with /
`, []string{"a = \n", "[uplink.dsl]\nwieght = 2\n", "b = 1\nb = 2\n", "hooks.on_change = ['true']\n"}},
		{"conflicts name the other file", `
b.toml:4: port_forward[1].name: "web" is the name of another one too, at a.toml:4: choose two different names
b.toml:6: port_forward[1].port: port forward "web" at a.toml:6 takes this port too: choose another port, or give the two different uplinks
c.toml:3: uplink.x.gateway: two uplinks with the same gateway and interface: uplink "dsl" at b.toml:1 has them too: correct or remove one
`, []string{
			"[uplink.dsl]\ninterface = 'eth1'\n[[port_forward]]\nname = 'web'\nprotocol = 'tcp'\nport = 80\nto = '192.168.0.10'\n",
			"uplink.dsl.gateway = '192.0.2.1'\n\n[[port_forward]]\nname = 'web'\nprotocol = 'tcp'\nport = 80\nto = '192.168.0.11'\n",
			"[uplink.x]\ninterface = 'eth1'\ngateway = '192.0.2.1'\n",
		}},
		{"entries are counted in their own file", `
b.toml:2: port_forward[1].protocol: "x" is unknown: write "tcp" or "udp"
b.toml:6: port_forward[2].port: is missing, wants a port from 1 to 65535, or a range such as "8000-8010"
`, []string{
			"[uplink.dsl]\ninterface = 'eth1'\n[[port_forward]]\nname = 'web'\nprotocol = 'tcp'\nport = 80\nto = '192.168.0.10'\n",
			"[[port_forward]]\nprotocol = 'x'\nname = 'a'\nport = 1\nto = '192.168.0.10'\n[[port_forward]]\nname = 'b'\nprotocol = 'udp'\nto = '192.168.0.10'\n",
		}},
		{"a table that becomes something else", `
b.toml:1: uplink.dsl: is the number 3, wants a table: write [uplink.dsl] and the keys below it
`, []string{"[uplink.dsl]\ninterface = 'eth1'\n", "uplink.dsl = 3\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantError(t, tt.want, tt.texts...)
		})
	}
}

func TestMinimal(t *testing.T) {
	t.Parallel()
	cfg := must(t, Minimal)
	if n := len(cfg.Uplinks); n < 2 || n > 3 || len(cfg.Router.LAN) != 1 {
		t.Errorf("%d uplinks, LAN %v", n, cfg.Router.LAN)
	}
}

// TestReference checks that reference.toml mentions every key of the contract
// with its default.
func TestReference(t *testing.T) {
	t.Parallel()
	must(t, Reference)

	r := &reader{files: []string{"reference.toml"}}
	root := r.decode(0, source{name: "reference.toml", text: []byte(Reference)})
	r.check(root, contractSpec(), nil)
	for _, k := range contract {
		nodes := find(root, strings.Split(k.path, "."))
		if len(nodes) == 0 {
			t.Errorf("%s is not mentioned", k.path)
			continue
		}
		s := contractSpec()
		for part := range strings.SplitSeq(k.path, ".") {
			switch part {
			case "[]":
				s = s.list
			default:
				s = s.child(part)
			}
		}
		example := strings.Contains(before(Reference, nodes[0].line-1), "xample")
		if s.def == nil || example {
			continue
		}
		if diff := cmp.Diff(s.def, nodes[0].val, netipEqual...); diff != "" {
			t.Errorf("%s is not shown with its default (-want +got)\n%s", k.path, diff)
		}
	}
}

// before returns the paragraph of text that ends with line i, counted from 0.
func before(text string, i int) string {
	lines := strings.Split(text, "\n")
	first := i
	for first > 0 && strings.TrimSpace(lines[first-1]) != "" {
		first--
	}
	return strings.Join(lines[first:i+1], "\n")
}

// find returns the nodes that a path of the contract means.
func find(n *node, parts []string) []*node {
	if n == nil {
		return nil
	}
	if len(parts) == 0 {
		return []*node{n}
	}
	var found []*node
	switch parts[0] {
	case "[]":
		for _, e := range n.entries() {
			found = append(found, find(e, parts[1:])...)
		}
	case "*":
		for _, k := range n.names() {
			found = append(found, find(n.get(k), parts[1:])...)
		}
	default:
		found = find(n.get(parts[0]), parts[1:])
	}
	return found
}

func TestErrors(t *testing.T) {
	t.Parallel()
	_, err := Parse(files("x = 1\n"))
	var one Error
	if !errors.As(err, &one) || one.File != "a.toml" || one.Line != 1 {
		t.Errorf("%#v", err)
	}
	if _, err := Parse(nil); err == nil {
		t.Error("no file is not an error")
	}
}

// A mask of 8 bits holds 255 ids, one of which is the default policy's.
func TestManyUplinks(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 254 {
		fmt.Fprintf(&b, "[uplink.u%d]\ninterface = 'eth%[1]d'\n", i)
	}
	must(t, b.String())
	wantError(t, "b.toml:1: router.mark_mask: has room for 255 uplinks and policies together, and there are 256: remove uplinks, the widest mask can count 255",
		b.String(), "[uplink.last]\ninterface = 'last'\n")
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	wantError(t, "a.toml: "+tooLarge, strings.Repeat("\n", maxSize+1))
}

// checkInvariants checks what holds for every Config.
func checkInvariants(t *testing.T, cfg *Config) {
	t.Helper()
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("invariant: "+format, args...)
	}
	if len(cfg.Uplinks) == 0 {
		bad("no uplink")
	}
	if cfg.Policy("default") == nil {
		bad("no default policy")
	}
	if len(cfg.Files) == 0 || cfg.API.Socket == "" || cfg.API.Group == "" || cfg.Router.MarkMask == 0 {
		bad("%+v", cfg)
	}
	seen := map[string]bool{}
	for _, u := range cfg.Uplinks {
		if seen[u.Name] || checkName(u.Name) != nil {
			bad("name %q", u.Name)
		}
		seen[u.Name] = true
		if u.Interface == "" || len(u.Interface) > 15 || u.Weight < 1 || u.Weight > 256 || u.Pos == "" {
			bad("%+v", u)
		}
		if (u.IPv6 == IPv6Off) != (u.Gateway6.Mode == GatewayOff) || u.Gateway.Mode == GatewayOff {
			bad("IPv6 %+v", u)
		}
		if u.Gateway.Mode == GatewayAddress != u.Gateway.Addr.Is4() || u.Gateway6.Mode == GatewayAddress != u.Gateway6.Addr.Is6() {
			bad("gateways %+v", u)
		}
		if problem := checkHealthInvariants(&u.Health); problem != "" {
			bad("health of %s: %s: %+v", u.Name, problem, u.Health)
		}
		for _, p := range u.Destinations {
			if !p.IsValid() || p != p.Masked() {
				bad("destination %v", p)
			}
		}
	}
	for _, p := range cfg.Policies {
		tiers := slices.Concat(p.Tiers...)
		slices.Sort(tiers)
		if len(slices.Compact(tiers)) != len(slices.Concat(p.Tiers...)) || p.Tiers != nil && len(p.Tiers) == 0 {
			bad("tiers %q", p.Tiers)
		}
		for _, tier := range p.Tiers {
			if len(tier) == 0 {
				bad("tiers %q", p.Tiers)
			}
			for _, name := range tier {
				if cfg.Uplink(name) == nil {
					bad("tiers %q", p.Tiers)
				}
			}
		}
		if (p.Sticky == StickyConnection) != (p.StickyTimeout == 0) || p.Name == "default" && p.Fallback != FallbackReject {
			bad("%+v", p)
		}
		for name, w := range p.Weights {
			if cfg.Uplink(name) == nil || w < 1 || w > 256 {
				bad("weight %s %d", name, w)
			}
		}
	}
	checkRuleInvariants(t, cfg)
	names := map[string]bool{}
	for _, f := range cfg.PortForwards {
		many, toMany := f.Ports.Hi-f.Ports.Lo, f.ToPorts.Hi-f.ToPorts.Lo
		if f.Ports.Hi < f.Ports.Lo || f.ToPorts.Hi < f.ToPorts.Lo || toMany != 0 && toMany != many ||
			slices.ContainsFunc(f.Sources, func(p netip.Prefix) bool { return p.Addr().Is4() != f.To.Is4() }) {
			bad("%+v", f)
		}
		if names[f.Name] || f.Ports.Lo == 0 || f.ToPorts.Lo == 0 || !f.To.IsValid() || f.Protocol != 6 && f.Protocol != 17 {
			bad("%+v", f)
		}
		names[f.Name] = true
		for _, u := range f.Uplinks {
			if cfg.Uplink(u) == nil {
				bad("forward on %s", u)
			}
		}
	}
}
