package probe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"multiroute/routes"
	"multiroute/test/lab"
)

// A gateway that does not answer when it alone is asked (some do not) is not
// given up by the kernel while targets answer through it.
func TestEchoesKeepTheGateway(t *testing.T) {
	t.Parallel()
	for name, family := range map[string]routes.Family{"ipv4": routes.IPv4, "ipv6": routes.IPv6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, lab.NewRouter, lab.Options{})
			u := w.Uplinks[1]
			// The kernel doubts a neighbour soon, and asks nobody alone.
			for key, value := range map[string]string{"base_reachable_time_ms": "300", "delay_first_probe_time": "1", "retrans_time_ms": "200", "ucast_solicit": "0"} {
				if err := w.Router.Sysctl("net/"+name+"/neigh/"+u.Interface+"/"+key, value); err != nil {
					t.Fatal(err)
				}
			}
			p := w.open(t, u, family, icmpTarget(internet(family)))
			failed, rounds := 0, 0
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); rounds++ {
				p.answered(t, 0)
				for range 20 {
					<-time.After(5 * time.Millisecond)
					list, err := w.Router.Handle().NeighList(p.path.Index, int(family))
					if err != nil {
						t.Fatal(err)
					}
					for _, n := range list {
						if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == p.path.Gateway && n.State == netlink.NUD_FAILED {
							failed++
						}
					}
				}
			}
			if failed > 0 || rounds < 10 {
				t.Errorf("given up %d times while %d probes were answered", failed, rounds)
			}
		})
	}
}
