package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"multiroute/routes"
)

const tierConfig = twoConfig + `
[policy.default]
tiers = [["a"], ["b"]]
`

// TestEndedByHealth asks what moves when probes, people and tiers decide.
func TestEndedByHealth(t *testing.T) {
	t.Parallel()
	const (
		both   = links + aUp + bUp
		six    = links + aUp + bUp + a6 + b6
		aDead  = "health a 4 down no answer\n"
		bDead  = "health b 4 down no answer\n"
		a6Dead = "health a 6 down no answer\n"
		aIll   = "health a 4 degraded loss\n"
		all    = tierConfig + "failback = \"all\"\n"
	)
	meteredB := `
[uplink.a]
interface = "eth1"
[uplink.b]
interface = "eth2"
metered = true
[policy.default]
tiers = [["a"], ["b"]]
`
	tests := []struct {
		name     string
		config   string
		from, to string
		want     []End
	}{
		{"a dies", twoConfig, both, both + aDead, []End{{Mark: markA}}},
		{"a dies in one family", twoConfig, six, six + aDead, []End{{Mark: markA, Family: routes.IPv4}}},
		{"a dies in both families", twoConfig, six, six + aDead + a6Dead, []End{{Mark: markA}}},
		{"a is dead still", twoConfig, both + aDead, both + aDead, nil},
		{"a returns", twoConfig, both + aDead, both, nil},
		{"both die: nobody can take over", twoConfig, both, both + aDead + bDead, nil},
		{"after both died b returns: a's connections go to it", twoConfig, both + aDead + bDead, both + aDead, []End{{Mark: markA}}},
		{"a is degraded: what it has stays", twoConfig, both, both + aIll, nil},
		{"a is taken out", twoConfig, both, both + "disabled a by hand\n", []End{{Mark: markA}}},
		{"a dies and stays linked, then loses its link", twoConfig, both + aDead, links + bUp, nil},
		{"the better tier dies", tierConfig, both, both + aDead, []End{{Mark: markA}}},
		{"the lower tier dies unused", tierConfig, both, both + bDead, []End{{Mark: markB}}},
		{"the better tier returns: only new connections", tierConfig, both + aDead, both, nil},
		{"the better tier returns: all", all, both + aDead, both, []End{{Mark: markB, Family: routes.IPv4, Outgoing: true}}},
		{"the better tier returns in one family: all of it", all, six + aDead + a6Dead, six + aDead, []End{{Mark: markB, Family: routes.IPv6, Outgoing: true}}},
		{"the better tier returns: what another policy has on the lower one stays", all + "[policy.other]\ntiers = [[\"b\"]]\n", both + aDead, both,
			[]End{{Mark: markB, Family: routes.IPv4, Outgoing: true, Of: PolicySet{}.with(3)}}},
		{"the better tier returns: what is to wait there stays", all + "[policy.other]\ntiers = [[\"a\"], [\"b\"]]\n", both + aDead, both,
			[]End{{Mark: markB, Family: routes.IPv4, Outgoing: true, Of: PolicySet{}.with(3)}}},
		{"the better tier was there: nothing moves", all, both, both, nil},
		{"the better tier returns degraded: not yet", all, both + aDead, both + aIll, nil},
		{"the better tier is well again", all, both + aIll, both, []End{{Mark: markB, Family: routes.IPv4, Outgoing: true}}},
		{"the better tier returns: the metered line is left", meteredB, both + aDead, both, []End{{Mark: markB, Family: routes.IPv4, Outgoing: true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Ended(makePlan(t, tt.config, tt.from), makePlan(t, tt.config, tt.to))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestChoice: who carries new connections.
func TestChoice(t *testing.T) {
	t.Parallel()
	three := `
[uplink.a]
interface = "eth1"
[uplink.b]
interface = "eth2"
[uplink.c]
interface = "eth3"
[policy.default]
`
	facts := "link eth1 3\nlink eth2 4\nlink eth3 5\n" + aUp + bUp + "addr eth3 203.0.113.5/24\ndefault eth3 via 203.0.113.1\n"
	tests := []struct {
		name, tiers, health string
		tier                int
		want                []string
	}{
		{"no tiers: all", "", "", 0, []string{"a", "b", "c"}},
		{"no tiers: those that are well", "", "health b 4 degraded loss\nhealth c 4 down dead", 0, []string{"a"}},
		{"no tiers: the last one, degraded", "", "health a 4 down dead\nhealth b 4 degraded loss\nhealth c 4 down dead", 0, []string{"b"}},
		{"first tier", `tiers = [["a", "b"], ["c"]]`, "", 0, []string{"a", "b"}},
		{"first tier with one", `tiers = [["a", "b"], ["c"]]`, "health a 4 down dead", 0, []string{"b"}},
		{"second tier", `tiers = [["a", "b"], ["c"]]`, "health a 4 down dead\nhealth b 4 down dead", 1, []string{"c"}},
		{"second tier rather than degraded", `tiers = [["a", "b"], ["c"]]`, "health a 4 down dead\nhealth b 4 degraded loss", 1, []string{"c"}},
		{"all degraded: the first tier again", `tiers = [["a", "b"], ["c"]]`, "health a 4 down dead\nhealth b 4 degraded loss\nhealth c 4 degraded loss", 0, []string{"b"}},
		{"in no tier", `tiers = [["a"]]`, "", 0, []string{"a"}},
		{"only one in no tier is left", `tiers = [["a"]]`, "health a 4 down dead", NoTier, nil},
		{"nobody", "", "health a 4 down dead\nhealth b 4 down dead\nhealth c 4 down dead", NoTier, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := makePlan(t, three+tt.tiers, facts+tt.health)
			c := p.Policies[0].V4
			var names []string
			for _, m := range c.Members {
				names = append(names, m.Uplink)
			}
			if diff := cmp.Diff(tt.want, names); diff != "" || c.Tier != tt.tier {
				t.Errorf("tier %d, %s", c.Tier, diff)
			}
		})
	}
}
