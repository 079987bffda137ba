package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/nat"
)

// TestDomainsFull: a rule whose domains have more addresses than its set takes has
// what fits, other rules have all of theirs, and the status says so.
func TestDomainsFull(t *testing.T) {
	h := newDomainHouse(t)
	const each = 200
	var names []string
	for i := range nat.MaxListed/each + 5 {
		var all []netip.Addr
		for k := range each {
			all = append(all, netip.AddrFrom4([4]byte{198, 18, byte(i), byte(k)}))
		}
		name := fmt.Sprintf("n%d.example", i)
		names = append(names, name)
		h.Server.Resolve(name, 2*time.Second, all...)
	}
	h.Server.Resolve("small.example", 2*time.Second, hosts(7)...)
	h.start(h.ctx, h.text("[[rule]]\nname = \"crowd\"\ndomains = [\""+strings.Join(names, `", "`)+"\"]\nuplink = \""+h.Uplinks[1].Name+"\"\n", h.rule("", "small.example")))
	const want = `rule "crowd": its domains have more than the 16384 IPv4 addresses`
	s, err := h.Wait(h.ctx, func(s api.Status) bool { return len(s.Warnings) > 0 })
	must(t, err)
	if len(s.Warnings) != 1 || !strings.HasPrefix(s.Warnings[0], want) {
		t.Errorf("the status says %q", s.Warnings)
	}
	client := h.Client()
	h.goes(client, 1, hosts(7)...)
	h.Server.Resolve("small.example", 2*time.Second, hosts(8)...)
	h.goes(client, 1, hosts(8)...)
	h.goes(client, 0, hosts(7)...)
}
