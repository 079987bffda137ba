//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"multiroute/test/lab"
)

// TestReaderSets: nft(8) reads sets that packets and the agent fill, what refuses
// and what translates as "agent show" tells it, and finds in the sets who was
// there and what DNS answered.
func TestReaderSets(t *testing.T) {
	needPrograms(t, "ip", "nft")
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			for _, u := range h.Uplinks {
				must(t, h.Topology.Router.AddRoute(leased(u)))
			}
			one, two := h.Uplinks[0], h.Uplinks[1]
			h.Server.Resolve("video.example", time.Hour, hosts(7)...)
			h.start(ctx, uplinkTablesWith(h, []int{0, 1}, []int{1, 1}, func(i int) string {
				return fmt.Sprintf("dns = [%q]\ndestinations = [\"192.0.2.%d\"]\nipv6 = \"prefix\"\nbandwidth = { down = \"100mbit\", up = \"50mbit\" }\n", h.Uplinks[i].DNS, i)
			}, fmt.Sprintf(`
[policy.default]
sticky = "source"
balance = "capacity"
[policy.pairs]
tiers = [[%[1]q], [%[2]q]]
sticky = "source-destination"
sticky_timeout = "90s"
[policy.only]
tiers = [[%[1]q]]
[[rule]]
domains = ["video.example", "*.example.org"]
uplink = %[2]q
[[rule]]
domains = ["video.example", "*.example.org"]
ports = [443, "8000-9000"]
to = ["198.51.100.0/24", "2001:db8:ffff::/48"]
policy = "pairs"
[[rule]]
local = true
domains = ["other.example"]
policy = "only"
[[rule]]
local = true
ports = [1]
policy = "only"
`, one.Name, two.Name)))
			h.readersAgree(t)
			chains := h.nftChains(t)
			count := func(part string) (n int) {
				for _, lines := range chains {
					for _, line := range lines {
						if strings.Contains(line, part) {
							n++
						}
					}
				}
				return n
			}
			for _, part := range []string{"update @sticky-", "snat ip6 prefix to", "counter name", "ip daddr @domain-", "ip6 daddr @domain-"} {
				if shared := h.Switch != nil; count(part) == 0 && (shared || part != "counter name") { // else interfaces count
					t.Errorf("no rule has %q", part)
				}
			}

			// Who was where, and what is at a name, is in the sets.
			client4, client6 := lab.ClientAddress(0)
			for _, c := range []struct {
				from, to netip.Addr
				suffix   string
			}{{client4, lab.InternetAddress, "-source4"}, {client6, lab.InternetAddress6, "-source6"}} {
				r := lab.Spread(ctx, h.Client(), 1, bound(c.from, netip.AddrPortFrom(c.to, lab.PortTCP)))
				for i, u := range h.Uplinks[:2] {
					want := []string{}
					for a := range r.Sources {
						if a == addressOf(u, c.from.Is6()) || u.Delegated.Contains(a) {
							want = append(want, c.from.String())
						}
					}
					if got := h.elements(t, fmt.Sprintf("-%d%s", i+1, c.suffix)); !slices.Equal(got, want) {
						t.Errorf("%s: %s; nft reads %q, wanted %q", u.Name, r, got, want)
					}
				}
			}
			for i, suffix := range []string{"4", "6"} {
				h.until(10*time.Second, "what DNS answered is in the set", func() bool { return slices.Contains(h.elements(t, suffix), hosts(7)[i].String()) })
			}

			// Nobody carries a policy any more, and others have fewer members.
			h.do("uplink", "disable", one.Name)
			h.readersAgree(t)
			chains = h.nftChains(t)
			for _, part := range []string{"delete @sticky-", "reject with tcp reset"} {
				if count(part) == 0 {
					t.Errorf("%s is disabled, and no rule has %q", one.Name, part)
				}
			}
			h.do("uplink", "enable", one.Name)
			h.readersAgree(t)
		})
	}
}

// elements lists, sorted, what nft reads in the sets whose names end so.
func (h *house) elements(t *testing.T, suffix string) []string {
	t.Helper()
	var list struct {
		NFTables []struct{ Set *setJSON } `json:"nftables"`
	}
	decode(t, h.run("nft", "-j", "list", "table", "inet", "multiroute"), &list)
	all := []string{}
	for _, o := range list.NFTables {
		if o.Set == nil || !strings.HasSuffix(o.Set.Name, suffix) {
			continue
		}
		for _, e := range o.Set.Elem {
			if m, ok := e.(map[string]any); ok { // with a timeout
				e = m["elem"].(map[string]any)["val"]
			}
			all = append(all, expression(e))
		}
	}
	slices.Sort(all)
	return all
}
