package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestTranslations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, inside, own, taken, want string }{
		{"one", "fd00:1::/64", "2001:db8:0:ff00::/56", "", "fd00:1::/64>2001:db8:0:ff00::/64"},
		{"the number of the subnet stays", "fd00:1:0:42::/64", "2001:db8:0:ff00::/56", "", "fd00:1:0:42::/64>2001:db8:0:ff42::/64"},
		{"as far as there are bits", "fd00:1:0:342::/64", "2001:db8:0:ff00::/60", "", "fd00:1:0:342::/64>2001:db8:0:ff02::/64"},
		{"two with one number", "fd00:1::/64 fd00:2::/64 fd00:3:0:1::/64", "2001:db8::/56", "",
			"fd00:1::/64>2001:db8::/64 fd00:2::/64>2001:db8:0:2::/64 fd00:3:0:1::/64>2001:db8:0:1::/64"},
		{"its own stays, and others give way", "2001:db8:0:5::/64 fd00:1:0:5::/64", "2001:db8::/56", "", "2001:db8:0:5::/64>2001:db8:0:5::/64 fd00:1:0:5::/64>2001:db8::/64"},
		{"taken by others", "fd00:1::/64", "2001:db8::/62", "2001:db8::/64 2001:db8:0:1::1/128", "fd00:1::/64>2001:db8:0:2::/64"},
		{"one LAN alone", "fd00:1:0:9::/64 fd00:2::/64", "2001:db8::/64", "", "fd00:1:0:9::/64>2001:db8::/64 !fd00:2::/64"},
		{"too small", "fd00::/48", "2001:db8::/56", "", "!fd00::/48"},
		{"all taken", "fd00::/64", "2001:db8::/63", "2001:db8::/56", "!fd00::/64"},
		{"odd lengths", "fd00:1:0:2::/63 fd00:2::100/120", "2001:db8::/60", "", "fd00:1:0:2::/63>2001:db8:0:2::/63 fd00:2::100/120>2001:db8::100/120"},
		{"huge, all of the number taken", "fd00:1::/64", "2001:db8::/32", "2001:db8::/64", "fd00:1::/64>2001:db8:0:1::/64"},
	} {
		list := func(text string) (all []netip.Prefix) {
			for _, p := range strings.Fields(text) {
				all = append(all, netip.MustParsePrefix(p))
			}
			return all
		}
		var got []string
		found, without := translations(list(tt.inside), netip.MustParsePrefix(tt.own), list(tt.taken))
		for _, x := range found {
			got = append(got, fmt.Sprintf("%s>%s", x.Inside, x.Outside))
		}
		for _, p := range without {
			got = append(got, "!"+p.String())
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, text, tt.want)
		}
	}
}

// TestProvider: whose a delegated prefix is.
func TestProvider(t *testing.T) {
	t.Parallel()
	const lan = "[router]\nlan = [\"eth0\"]\n"
	uplink := func(name, iface string, keys ...string) string {
		return fmt.Sprintf("[uplink.%s]\ninterface = %q\ngateway6 = \"fe80::1\"\nipv6 = \"prefix\"\n%s\n", name, iface, strings.Join(keys, "\n"))
	}
	a, b := uplink("a", "eth1"), uplink("b", "eth2")
	const links = "link eth0 2\nlink eth1 3\nlink eth2 4\naddr eth0 fd00:1::1/64\n"
	const both = links + "addr eth1 2a01:100:1::7/64\naddr eth2 2a02:200:1::7/64\n"
	for _, tt := range []struct{ name, config, facts, a, b string }{
		{"the provider's block", a + b, both + "delegated 2a02:200:f::/56\ndelegated 2a01:100:f::/56", "2a01:100:f::/64", "2a02:200:f::/64"},
		{"nobody's block", a + b, both + "delegated 2a03:200:f::/56", "", ""},
		{"nobody else has IPv6", a + "[uplink.b]\ninterface = \"eth2\"\nipv6 = \"off\"\n", links + "addr eth1 2a01:100:1::7/64\ndelegated 2a03:200:f::/56", "2a03:200:f::/64", ""},
		{"but it is like that one's", a + "[uplink.b]\ninterface = \"eth2\"\nipv6 = \"off\"\n", both + "delegated 2a02:200:f::/56", "", ""},
		{"who masquerades has it", a + "[uplink.b]\ninterface = \"eth2\"\ngateway6 = \"fe80::1\"\n", both + "delegated 2a02:200:f::/56", "", ""},
		{"written", uplink("a", "eth1", `prefix6 = "2a09::/48"`) + b, both + "delegated 2a09:0:0:ff00::/56\ndelegated 2a01:100:f::/56", "2a09::/64", "2a01:100:f::/64"},
		{"in a block", uplink("a", "eth1", `prefix6 = "in 2a09::/32"`) + b, both + "delegated 2a09:0:0:ff00::/56\ndelegated 2a02:200:f::/56", "2a09:0:0:ff00::/64", "2a02:200:f::/64"},
		{"none in the block", uplink("a", "eth1", `prefix6 = "in 2a09::/32"`) + b, both + "delegated 2a02:200:f::/56", "", "2a02:200:f::/64"},
		{"one provider, two lines", a + b, links + "addr eth1 2a01:100:1::7/64\naddr eth2 2a01:100:2::7/64\ndelegated 2a01:100:8000::/56", "", ""},
		{"the address of the other line has gone", a + b, links + "addr eth2 2a01:100:2::7/64\ndelegated 2a01:100:1:f00::/56\ndelegated 2a01:100:2:f00::/56", "", "2a01:100:2:f00::/64"},
		{"old and new", a + b, both + "delegated 2a01:100:e::/60\ndelegated 2a01:100:f::/56", "2a01:100:f::/64", ""},
	} {
		p := makePlan(t, lan+tt.config, tt.facts)
		for i, want := range []string{tt.a, tt.b} {
			got := ""
			for _, x := range p.Uplinks[i].Translations {
				got = x.Outside.String()
			}
			if got != want {
				t.Errorf("%s: uplink %s has %q, want %q; warnings %q", tt.name, p.Uplinks[i].Name, got, want, p.Warnings)
			}
		}
	}
}
