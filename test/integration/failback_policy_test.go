//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"multiroute/test/lab"
)

// TestFailbackOfOnePolicy: what a policy has on an uplink that stood in moves
// back, and what others have there stays.
func TestFailbackOfOnePolicy(t *testing.T) {
	inRuleHouses(t, func(ctx context.Context, h *ruleHouse) {
		better, worse := h.Uplinks[0], h.Uplinks[1]
		h.start(ctx, h.text(fmt.Sprintf(`
[policy.default]
tiers = [[%[1]q], [%[2]q]]
failback = "all"
[policy.new]
tiers = [[%[1]q], [%[2]q]]
[[rule]]
name = "pinned"
from = ["192.168.0.11", "fd00:1::b"]
uplink = %[2]q
[[rule]]
name = "waits"
from = ["192.168.0.12", "fd00:1::c"]
protocol = "udp"
policy = "new"
[[rule]]
name = "own"
local = true
uplink = %[2]q
`, better.Name, worse.Name)))
		type stream struct {
			*lab.UDPStream
			name  string
			moves bool
		}
		must(h.t, h.setUplink("disable", better.Name))
		var all []stream
		for _, v6 := range []bool{false, true} {
			for i, moves := range []bool{true, false, false, true} { // the last is nobody's in a rule
				four, from := lab.ClientAddress(i)
				if !v6 {
					from = four
				}
				s, err := lab.StartUDP(ctx, h.Clients[i/2], lab.Socket{Local: netip.AddrPortFrom(from, 0)}, internet(v6), 2*time.Millisecond)
				must(h.t, err)
				all = append(all, stream{s, from.String(), moves})
			}
			s, err := lab.StartUDP(ctx, h.Topology.Router, lab.Socket{}, internet(v6), 2*time.Millisecond)
			must(h.t, err)
			all = append(all, stream{s, fmt.Sprintf("the router (IPv6 %v)", v6), false})
		}
		for _, s := range all {
			h.until(2*time.Second, s.name+" on the lower tier", func() bool { return nowFrom(s.UDPStream, worse, h.others(worse)...) })
		}
		must(h.t, h.setUplink("enable", better.Name))
		for _, s := range all {
			if s.moves {
				h.until(2*time.Second, s.name+" on the better tier", func() bool { return nowFrom(s.UDPStream, better, h.others(better)...) })
			}
		}
		for _, s := range all {
			if !s.moves {
				received := s.Report().Received
				h.until(2*time.Second, s.name+" goes on", func() bool { return s.Report().Received > received+20 })
				if r := s.Stop(); len(r.Addresses()) != 1 || r.Lost() > 1 {
					h.t.Errorf("%s has left %s: %s", s.name, worse.Name, r)
				}
			}
		}
	})
}
