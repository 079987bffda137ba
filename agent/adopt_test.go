package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/plan"
	"multiroute/conntrack"
)

// entry makes a connection from src to dst whose answers come to natted (src
// itself if it is not NATed).
func entry(src, dst, natted string, status conntrack.Status, mark uint32) conntrack.Entry {
	a := netip.MustParseAddr
	if natted == "" {
		natted = src
	}
	return conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 17, Orig: conntrack.Tuple{Src: a(src), Dst: a(dst)},
		Reply: conntrack.Tuple{Src: a(dst), Dst: a(natted)}, Mark: mark, Status: status}
}

// redirected makes a connection whose packets go to another destination than
// they were sent to.
func redirected(src, dst, to, natted string) conntrack.Entry {
	e := entry(src, to, natted, conntrack.StatusDstNAT, 0)
	if natted != src {
		e.Status |= conntrack.StatusSrcNAT
	}
	e.Orig.Dst = netip.MustParseAddr(dst)
	return e
}

// testEntries are one that is to be bound and one that is to be deleted.
func testEntries() []conntrack.Entry {
	return []conntrack.Entry{
		entry("192.168.0.5", "9.9.9.9", "192.0.2.9", conntrack.StatusNAT, 0),
		entry("192.168.0.6", "9.9.9.9", "", 0, 0),
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	const bindA, bindB, end = "bind to a", "bind to b", "delete"
	tests := []struct {
		name string
		e    conntrack.Entry
		want string
	}{
		{"NATed to a's address", entry("192.168.0.5", "9.9.9.9", "192.0.2.9", conntrack.StatusNAT, 0), bindA},
		{"NATed to b's address", entry("192.168.0.5", "9.9.9.9", "198.51.100.9", conntrack.StatusNAT, 0), bindB},
		{"NATed to a's address, with foreign bits", entry("192.168.0.5", "9.9.9.9", "192.0.2.9", conntrack.StatusNAT, 0x123), bindA},
		{"the router's own, from b's address", entry("198.51.100.9", "9.9.9.9", "", 0, 0), bindB},
		{"from outside to the router", entry("9.9.9.9", "192.0.2.9", "", 0, 0), bindA},
		{"port forward", conntrack.Entry{Orig: conntrack.Tuple{Src: netip.MustParseAddr("9.9.9.9"), Dst: netip.MustParseAddr("198.51.100.9")},
			Reply: conntrack.Tuple{Src: netip.MustParseAddr("192.168.0.5"), Dst: netip.MustParseAddr("9.9.9.9")}, Status: conntrack.StatusNAT}, bindB},
		{"un-NATed to the internet", entry("192.168.0.5", "9.9.9.9", "", 0, 0), end},
		{"un-NATed to another LAN", entry("192.168.0.5", "10.1.2.3", "", 0, 0), ""},
		{"un-NATed to the LAN itself", entry("192.168.0.1", "192.168.0.5", "", 0, 0), ""},
		{"from a routed prefix", entry("203.0.113.5", "9.9.9.9", "", 0, 0), ""},
		{"un-NATed to the internet, but bound", entry("192.168.0.5", "9.9.9.9", "", 0, markB), end},
		{"from a routed prefix, bound", entry("203.0.113.5", "9.9.9.9", "", 0, markB), ""},
		{"the router's own, bound", entry("198.51.100.9", "9.9.9.9", "", 0, markB), ""},
		{"to the LAN itself, bound by a rule", entry("192.168.0.1", "192.168.0.5", "", 0, markA), ""},
		{"somebody else changed where it goes, not where it comes from", redirected("192.168.0.5", "192.168.0.1", "9.9.9.9", "192.168.0.5"), end},
		{"somebody else changed where it goes, into the LAN", redirected("192.168.0.5", "9.9.9.9", "10.0.0.53", "192.168.0.5"), ""},
		{"somebody else changed both ends", redirected("192.168.0.5", "192.168.0.1", "9.9.9.9", "172.16.0.1"), ""},
		{"somebody else changed where it goes, and masqueraded it", redirected("192.168.0.5", "192.168.0.1", "9.9.9.9", "192.0.2.9"), bindA},
		{"a port forward of somebody else", redirected("9.9.9.9", "203.0.113.77", "192.168.0.5", "9.9.9.9"), ""},
		{"somebody else's NAT", entry("192.168.0.5", "9.9.9.9", "172.16.0.1", conntrack.StatusNAT, 0), ""},
		{"multicast", entry("192.168.0.5", "224.0.0.251", "", 0, 0), ""},
		{"broadcast", entry("192.168.0.5", "255.255.255.255", "", 0, 0), ""},
		{"to the host itself", entry("127.0.0.1", "127.0.0.1", "", 0, 0), ""},
		{"bound already", entry("192.168.0.5", "9.9.9.9", "192.0.2.9", conntrack.StatusNAT, markB), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := started(t, strings.Replace(twoUplinks, "[router]", "[router]\nrouted = [\"203.0.113.0/24\"]", 1))
			r.k.inside = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
			r.k.entries = []conntrack.Entry{tt.e}
			r.fresh = true
			if err := r.adopt(r.plan); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, u := range r.k.bound {
				got += map[uint32]string{markA: bindA, markB: bindB}[u.Mark]
				if diff := cmp.Diff(tt.e, u.Entry, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || u.Mask != 0xff000000 {
					t.Errorf("mask %#x, (-want +got)\n%s", u.Mask, diff)
				}
			}
			for range r.k.ended {
				got += end
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// It is done once for each time that the table was not there, and again if it
// failed.
func TestAdoptOnce(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.k.entries = testEntries()
	if err := r.adopt(r.plan); err != nil || len(r.k.calls) > 0 {
		t.Errorf("the rules were there all the time: %q, %v", r.k.calls, err)
	}
	r.fresh, r.k.failAt = true, 4
	if err := r.adopt(r.plan); err == nil {
		t.Error("no error")
	}
	if err := r.adopt(r.plan); err != nil || len(r.k.ended) != 1 {
		t.Errorf("it is not tried again: %d, %v", len(r.k.ended), err)
	}
}

// Nothing is bound to an uplink that is switched off.
func TestAdoptDisabled(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.k.entries, r.fresh = testEntries(), true
	p := r.plan
	p.Uplinks = slices.Clone(p.Uplinks)
	p.Uplinks[0].State = plan.Disabled
	if err := r.adopt(p); err != nil || len(r.k.bound) > 0 {
		t.Errorf("bound %v, %v", r.k.bound, err)
	}
}

// Connections may begin without NAT not only while the table is away.
func TestAdoptAfterRepair(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.k.entries = testEntries()
	r.k.state.Dormant = true
	r.mustPass(time.Second)
	r.holds()
	if len(r.k.bound) == 0 || len(r.k.ended) == 0 {
		t.Errorf("bound %d, ended %d", len(r.k.bound), len(r.k.ended))
	}
}

// While a link has another name than its uplink's rules say, what begins leaves
// without NAT, until no route leads there.
func TestAdoptAfterRename(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.k.entries = testEntries()
	r.k.facts.Link("eth1").Name = "eth9"
	r.mustPass(time.Second)
	last := func(what string) int {
		for i, call := range slices.Backward(r.k.calls) {
			if strings.Contains(call, what) {
				return i
			}
		}
		return -1
	}
	if r.k.facts.Link("eth9") == nil || len(r.k.ended) != 2 || last("list connections") < last("route ") {
		t.Errorf("ended %d; asked: %q", len(r.k.ended), r.k.calls)
	}
	r.forget()
	r.mustPass(time.Second)
	if len(r.k.ended) > 0 {
		t.Errorf("ended again: %v", r.k.ended)
	}
}
