//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestRuleHoursStrike: a rule's hours begin and end while the agent runs and
// nothing else happens. New connections follow the rule within seconds; a busy
// computer may be late.
func TestRuleHoursStrike(t *testing.T) {
	t.Parallel() // mostly waiting
	const late = 5 * time.Second
	ctx := deadline(t, 4*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
	begin := time.Now().Add(2 * late).Truncate(time.Minute).Add(time.Minute)
	end := begin.Add(time.Minute)
	first, second := h.Uplinks[0], h.Uplinks[1]
	h.start(ctx, rig.Config(h.Topology, nil)+fmt.Sprintf("\n[policy.default]\ntiers = [[%q]]\n\n[[rule]]\nuplink = %q\nhours = \"%s-%s\"\n",
		first.Name, second.Name, begin.Format("15:04"), end.Format("15:04")))
	seen := map[netip.Addr]int{}
	var struck []time.Duration // how long after each stroke the first connection followed
	for now := time.Now(); now.Before(end.Add(late + time.Second)); now = time.Now() {
		c, err := lab.Connect(ctx, h.Client(), lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		by := c.Seen.Addr()
		if !now.Before(begin) && len(struck) == 0 && by == second.Address.Addr() {
			struck = append(struck, now.Sub(begin))
		}
		if !now.Before(end) && len(struck) == 1 && by == first.Address.Addr() {
			struck = append(struck, now.Sub(end))
		}
		switch done := time.Now(); {
		case done.Before(begin), !now.Before(end.Add(late)):
			if by != first.Address.Addr() {
				t.Fatalf("%v from the beginning: seen as %s", now.Sub(begin), by)
			}
		case !now.Before(begin.Add(late)) && done.Before(end):
			if by != second.Address.Addr() {
				t.Fatalf("%v from the beginning: seen as %s", now.Sub(begin), by)
			}
		}
		seen[by]++
		passes(ctx, 100*time.Millisecond)
	}
	t.Logf("%v after begin and end, %v", struck, seen)
	if len(struck) != 2 {
		t.Errorf("the rule was followed %v after its beginning and its end", struck)
	}
}
