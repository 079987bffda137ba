package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/config"
	"multiroute/routes"
)

// compareAddrs lets cmp compare values of netip.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// TestLeg asks what one uplink on eth1 makes of what the kernel says.
func TestLeg(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, uplink, facts string
		family              routes.Family
		want                string // next hop; or, if not usable, the reason
		addresses           []netip.Addr
		source              string
	}{
		{"static", `gateway = "192.0.2.1"`, "addr eth1 192.0.2.9/24", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"none on Ethernet", `gateway = "none"`, "addr eth1 192.0.2.9/24", routes.IPv4,
			"dev eth1", addrs("192.0.2.9"), ""},
		{"auto: lowest metric", ``, "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.2 metric 200\ndefault eth1 via 192.0.2.1 metric 100", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"auto: same metric, the order does not matter", ``, "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.2 metric 100\ndefault eth1 via 192.0.2.1 metric 100", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"auto: another interface's", ``, "addr eth1 192.0.2.9/24\ndefault eth0 via 192.0.2.1 metric 100", routes.IPv4,
			"no IPv4 gateway known on eth1: nobody (DHCP, PPP, RA) has put a default route into table main yet", nil, ""},
		{"auto: without gateway on Ethernet counts for nothing", ``, "addr eth1 192.0.2.9/24\ndefault eth1", routes.IPv4,
			"no IPv4 gateway known on eth1: nobody (DHCP, PPP, RA) has put a default route into table main yet", nil, ""},
		{"auto: on-link is kept", ``, "addr eth1 192.0.2.9/32\ndefault eth1 via 10.0.0.1 onlink", routes.IPv4,
			"via 10.0.0.1 dev eth1 onlink", addrs("192.0.2.9"), ""},
		{"auto: with chosen addresses, their gateway before a lower metric", `addresses = ["198.51.100.9"]`,
			"addr eth1 192.0.2.9/24\naddr eth1 198.51.100.9/24\ndefault eth1 via 192.0.2.1 metric 100\ndefault eth1 via 198.51.100.1 metric 200", routes.IPv4,
			"via 198.51.100.1 dev eth1", addrs("198.51.100.9"), ""},
		{"only the addresses of the gateway's subnet", `gateway = "192.0.2.1"`, "addr eth1 198.51.100.9/24\naddr eth1 192.0.2.9/24\naddr eth1 192.0.2.8/24 secondary", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9", "192.0.2.8"), ""},
		{"a peer's subnet", `gateway = "10.1.0.1"`, "addr eth1 192.0.2.9/32 peer 10.1.0.0/24", routes.IPv4,
			"via 10.1.0.1 dev eth1", addrs("192.0.2.9"), ""},
		{"chosen: what masquerade takes anyway", `gateway = "192.0.2.1"` + "\n" + `addresses = ["192.0.2.9"]`, "addr eth1 192.0.2.9/24\naddr eth1 192.0.2.8/24 secondary", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"chosen: another one than masquerade takes", `gateway = "192.0.2.1"` + "\n" + `addresses = ["192.0.2.8"]`, "addr eth1 192.0.2.9/24\naddr eth1 192.0.2.8/24 secondary", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.8"), "192.0.2.8"},
		{"chosen: outside the gateway's subnet", `gateway = "192.0.2.1"` + "\n" + `addresses = ["203.0.113.5"]`, "addr eth1 192.0.2.9/24\naddr eth1 203.0.113.5/29", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("203.0.113.5"), "203.0.113.5"},
		{"chosen: one of two is there", `gateway = "192.0.2.1"` + "\n" + `addresses = ["192.0.2.7", "192.0.2.9"]`, "addr eth1 192.0.2.9/24", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"chosen for the other family only", `gateway = "192.0.2.1"` + "\n" + `addresses = ["2001:db8::9"]`, "addr eth1 192.0.2.9/24", routes.IPv4,
			"via 192.0.2.1 dev eth1", addrs("192.0.2.9"), ""},
		{"not this link's or host's", `gateway = "192.0.2.1"`, "addr eth1 192.0.2.9/24 scope-link", routes.IPv4,
			"eth1 has no IPv4 address (yet)", nil, ""},

		{"IPv6: learned from an advertisement", ``, "addr eth1 2001:db8::9/64\ndefault eth1 via fe80::1 metric 1024", routes.IPv6,
			"via fe80::1 dev eth1", addrs("2001:db8::9"), ""},
		{"IPv6: only a link-local address", ``, "addr eth1 fe80::9/64 scope-link\ndefault eth1 via fe80::1 metric 1024", routes.IPv6,
			"eth1 has no IPv6 address (yet)", nil, ""},
		{"IPv6: static and link-local", `gateway6 = "fe80::1"`, "addr eth1 2001:db8::9/64", routes.IPv6,
			"via fe80::1 dev eth1", addrs("2001:db8::9"), ""},
		{"IPv6: static, another interface has the same link-local address", `gateway6 = "fe80::1"`, "addr eth1 2001:db8::9/64\naddr eth0 fe80::1/64 scope-link", routes.IPv6,
			"via fe80::1 dev eth1", addrs("2001:db8::9"), ""},
		{"IPv6: static, our own link-local address", `gateway6 = "fe80::1"`, "addr eth1 2001:db8::9/64\naddr eth1 fe80::1/64 scope-link", routes.IPv6,
			"gateway fe80::1 is this router's own address: write the provider's router", nil, ""},
		{"IPv6: in no subnet", `gateway6 = "2001:db8:1::1"`, "addr eth1 2001:db8::9/64", routes.IPv6,
			`gateway 2001:db8:1::1 is in no subnet of eth1: correct it, or if the provider really has it outside, write "2001:db8:1::1 onlink"`, nil, ""},
		{"IPv6: all addresses behind a link-local gateway", `gateway6 = "fe80::1"`, "addr eth1 2001:db8::9/64\naddr eth1 fd00::9/64", routes.IPv6,
			"via fe80::1 dev eth1", addrs("2001:db8::9", "fd00::9"), ""},
		{"IPv6: chosen is fixed", `gateway6 = "fe80::1"` + "\n" + `addresses = ["2001:db8::8"]`, "addr eth1 2001:db8::9/64\naddr eth1 2001:db8::8/64", routes.IPv6,
			"via fe80::1 dev eth1", addrs("2001:db8::8"), "2001:db8::8"},
		{"IPv6: off", `gateway6 = "off"`, "addr eth1 2001:db8::9/64\ndefault eth1 via fe80::1", routes.IPv6, "IPv6 is off here", nil, ""},
		{"IPv6: off in the kernel", ``, "noipv6", routes.IPv6, "IPv6 is off here", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := makePlan(t, "[uplink.x]\ninterface = \"eth1\"\n"+tt.uplink, "link eth0 2\nlink eth1 3\n"+tt.facts)
			leg := p.Uplinks[0].Leg(tt.family)
			got := leg.Reason
			if leg.Usable {
				got = leg.Nexthop.String()
			}
			if got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if !leg.Usable {
				return
			}
			if !slices.Equal(leg.Addresses, tt.addresses) {
				t.Errorf("addresses %s, want %s", leg.Addresses, tt.addresses)
			}
			source := ""
			if leg.Source.IsValid() {
				source = leg.Source.String()
			}
			if source != tt.source {
				t.Errorf("source %q, want %q", source, tt.source)
			}
		})
	}
}

// Of several uplinks with one next hop one stays: what is enabled, then what
// is written down, then the lower id, wherever it stands in the configuration.
func TestTwins(t *testing.T) {
	t.Parallel()
	const facts = "link eth1 3\naddr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.1\nnoipv6"
	tests := []struct {
		name   string
		ids    map[string]int
		change func(a, b *config.Uplink)
		out    map[string]string
		want   string
	}{
		{"what is written down", map[string]int{"a": 1, "b": 2}, func(a, _ *config.Uplink) { a.Gateway = config.Gateway{} }, nil, "b"},
		{"lower id", map[string]int{"a": 2, "b": 1}, func(a, b *config.Uplink) { a.Gateway, b.Gateway = config.Gateway{}, config.Gateway{} }, nil, "b"},
		{"what is enabled", map[string]int{"a": 1, "b": 2}, func(a, _ *config.Uplink) { a.Enabled = false }, nil, "b"},
		{"what nobody took out", map[string]int{"a": 1, "b": 2}, func(_, _ *config.Uplink) {}, map[string]string{"a": "by hand"}, "b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 2 {
				uplink := func(name string) config.Uplink {
					return config.Uplink{Name: name, Interface: "eth1", Weight: 1, Enabled: true,
						Gateway: config.Gateway{Mode: config.GatewayAddress, Addr: netip.MustParseAddr("192.0.2.1")}}
				}
				a, b := uplink("a"), uplink("b")
				tt.change(&a, &b)
				c := &config.Config{Router: config.Router{MarkMask: 0xff000000, TableBase: 20000, RuleBase: 10000},
					Uplinks: []config.Uplink{a, b}, Policies: []config.Policy{{Name: "default"}}}
				for range 2 {
					p := Make(Input{Config: c, Facts: mustFacts(t, facts), IDs: IDs{tt.ids, map[string]int{"default": 3}}, Disabled: tt.out})
					if m := p.Policies[0].Either().Members; len(m) != 1 || m[0].Uplink != tt.want {
						t.Errorf("members %v, want %s alone", m, tt.want)
					}
					slices.Reverse(c.Uplinks)
				}
			}
		})
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, uplink, facts string
		want                State
		reason              string
	}{
		{"both families", ``, "addr eth1 192.0.2.9/24\naddr eth1 2001:db8::9/64\ndefault eth1 via 192.0.2.1\ndefault eth1 via fe80::1", Up, ""},
		{"IPv4 of two", ``, "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.1", Up, "IPv4 only: eth1 has no IPv6 address (yet)"},
		{"IPv4, and that is all there should be", `ipv6 = "off"`, "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.1", Up, ""},
		{"IPv6 of two", ``, "addr eth1 2001:db8::9/64\ndefault eth1 via fe80::1", Up, "IPv6 only: eth1 has no IPv4 address (yet)"},
		{"neither", ``, "", Down, "eth1 has no IPv4 address (yet)"},
		{"disabled, though everything is there", `enabled = false`, "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.1", Disabled, "enabled = false in the configuration"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := makePlan(t, "[uplink.x]\ninterface = \"eth1\"\n"+tt.uplink, "link eth1 3\n"+tt.facts).Uplinks[0]
			if u.State != tt.want || u.Reason != tt.reason {
				t.Errorf("%s (%s), want %s (%s)", u.State, u.Reason, tt.want, tt.reason)
			}
			if u.Usable() != (u.State == Up) {
				t.Errorf("%s, but usable: %t", u.State, u.Usable())
			}
		})
	}
}

func TestSubnetAddresses(t *testing.T) {
	t.Parallel()
	own := mustFacts(t, "link e 1\naddr e 192.0.2.9/24\naddr e 198.51.100.9/24\naddr e 198.51.100.8/24\naddr e 10.9.9.9/32 peer 10.1.1.1/32").Addrs
	all := addrs("192.0.2.9", "198.51.100.9", "198.51.100.8", "10.9.9.9")
	tests := []struct {
		name, gateway string
		want          []netip.Addr
	}{
		{"first subnet", "192.0.2.1", addrs("192.0.2.9")},
		{"second subnet", "198.51.100.1", addrs("198.51.100.9", "198.51.100.8")},
		{"the far end", "10.1.1.1", addrs("10.9.9.9")},
		{"none of them", "203.0.113.1", all},
		{"no gateway", "", all},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var g netip.Addr
			if tt.gateway != "" {
				g = netip.MustParseAddr(tt.gateway)
			}
			if diff := cmp.Diff(tt.want, subnetAddresses(own, g), compareAddrs); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
