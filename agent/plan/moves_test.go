package plan

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multiroute/nat"
	"multiroute/routes"
)

// Situations of two DHCP uplinks, for tests of what happens between two plans.
const (
	twoConfig = `
[uplink.a]
interface = "eth1"
[uplink.b]
interface = "eth2"
`
	oneConfig = `
[uplink.b]
interface = "eth2"
`
	links = "link eth1 3\nlink eth2 4\n"
	aUp   = "addr eth1 192.0.2.9/24\ndefault eth1 via 192.0.2.1\n"
	aNew  = "addr eth1 192.0.2.77/24\ndefault eth1 via 192.0.2.1\n"
	bUp   = "addr eth2 198.51.100.9/24\ndefault eth2 via 198.51.100.1\n"
	a6    = "addr eth1 2001:db8:a::1/64\ndefault eth1 via fe80::a\n"
	b6    = "addr eth2 2001:db8::1/64\ndefault eth2 via fe80::1\n"
	bNew  = "addr eth2 203.0.113.9/24\ndefault eth2 via 203.0.113.1\n"
)

const (
	markA = 0x01000000
	markB = 0x02000000
)

// TestEnded asks the hard questions: the kernel changes under the
// configuration, the configuration changes under the kernel, or both.
func TestEnded(t *testing.T) {
	t.Parallel()
	type step struct{ config, facts string }
	tests := []struct {
		name     string
		from, to step
		want     []End
	}{
		{"nothing changes", step{twoConfig, links + aUp + bUp}, step{twoConfig, links + aUp + bUp}, nil},
		{"b dies", step{twoConfig, links + aUp + bUp}, step{twoConfig, links + aUp}, []End{{Mark: markB}}},
		{"b is dead still", step{twoConfig, links + aUp}, step{twoConfig, links + aUp}, nil},
		{"b returns", step{twoConfig, links + aUp}, step{twoConfig, links + aUp + bUp}, nil},
		{"both die: nobody can take over", step{twoConfig, links + aUp + bUp}, step{twoConfig, links}, nil},
		{"the last one dies", step{twoConfig, links + aUp}, step{twoConfig, links}, nil},
		{"after both died, b returns first: a's connections go to it", step{twoConfig, links}, step{twoConfig, links + bUp}, []End{{Mark: markA}}},
		{"both return at once", step{twoConfig, links}, step{twoConfig, links + aUp + bUp}, nil},
		{"one dies while the other returns", step{twoConfig, links + aUp}, step{twoConfig, links + bUp}, []End{{Mark: markA}}},
		// What had the old address is found by it: new connections have the mark, too.
		{"b has another address", step{twoConfig, links + aUp + bUp}, step{twoConfig, links + aUp + bNew}, nil},
		{"the only usable one has another address", step{twoConfig, links + bUp}, step{twoConfig, links + bNew}, nil},
		{"b has another gateway", step{twoConfig, links + aUp + bUp},
			step{twoConfig, links + aUp + "addr eth2 198.51.100.9/24\ndefault eth2 via 198.51.100.2\n"}, nil},
		{"b gets a second address", step{twoConfig, links + aUp + bUp},
			step{twoConfig, links + aUp + bUp + "addr eth2 198.51.100.10/24 secondary\n"}, nil},
		{"b loses the first of two addresses", step{twoConfig, links + aUp + bUp + "addr eth2 198.51.100.10/24 secondary\n"},
			step{twoConfig, links + aUp + "addr eth2 198.51.100.10/24\ndefault eth2 via 198.51.100.1\n"}, nil},
		{"b loses the second of two addresses", step{twoConfig, links + aUp + bUp + "addr eth2 198.51.100.10/24 secondary\n"},
			step{twoConfig, links + aUp + bUp}, nil},
		{"a temporary IPv6 address ends", step{twoConfig, links + bUp + "addr eth2 2001:db8::1111/64 secondary\naddr eth2 2001:db8::1/64\ndefault eth2 via fe80::1\n"},
			step{twoConfig, links + bUp + "addr eth2 2001:db8::1/64\ndefault eth2 via fe80::1\n"}, nil},
		{"another IPv6 prefix", step{twoConfig, links + bUp + "addr eth2 2001:db8::1/64\ndefault eth2 via fe80::1\n"},
			step{twoConfig, links + bUp + "addr eth2 2001:db8:1::1/64\ndefault eth2 via fe80::1\n"}, nil},
		{"another IPv4 address, the same IPv6", step{twoConfig, links + bUp + b6}, step{twoConfig, links + bNew + b6}, nil},
		{"both addresses change", step{twoConfig, links + bUp + b6}, step{twoConfig, links + bNew + strings.ReplaceAll(b6, "db8::", "db8:1::")}, nil},
		{"b loses IPv6", step{twoConfig, links + aUp + a6 + bUp + b6}, step{twoConfig, links + aUp + a6 + bUp}, []End{{Mark: markB, Family: routes.IPv6}}},
		{"b loses IPv6, which nobody else has", step{twoConfig, links + aUp + bUp + b6}, step{twoConfig, links + aUp + bUp}, nil},
		{"after both lost IPv6, a gets it back first", step{twoConfig, links + aUp + bUp}, step{twoConfig, links + aUp + a6 + bUp}, []End{{Mark: markB, Family: routes.IPv6}}},
		{"b loses IPv4", step{twoConfig, links + aUp + a6 + bUp + b6}, step{twoConfig, links + aUp + a6 + b6}, []End{{Mark: markB, Family: routes.IPv4}}},
		{"IPv6 comes: who had it before a died is not known", step{twoConfig, links + bUp}, step{twoConfig, links + bUp + "addr eth2 2001:db8:1::1/64\ndefault eth2 via fe80::1\n"}, []End{{Mark: markA}}},

		{"a is removed", step{twoConfig, links + aUp + bUp}, step{oneConfig, links + aUp + bUp}, []End{{Mark: markA}}},
		{"a is removed while b dies", step{twoConfig, links + aUp + bUp}, step{oneConfig, links}, []End{{Mark: markA}}},
		{"a is disabled", step{twoConfig, links + aUp + bUp},
			step{strings.Replace(twoConfig, `"eth1"`, "\"eth1\"\nenabled = false", 1), links + aUp + bUp}, []End{{Mark: markA}}},
		{"a is renamed", step{twoConfig, links + aUp + bUp}, step{strings.Replace(twoConfig, "uplink.a", "uplink.z", 1), links + aUp + bUp}, []End{{Mark: markA}}},
		{"a moves to another interface", step{twoConfig, links + aUp + bUp + "link eth3 5\n"},
			step{strings.Replace(twoConfig, "eth1", "eth3", 1), links + bUp + "link eth3 5\naddr eth3 192.0.2.9/24\ndefault eth3 via 192.0.2.1"}, []End{{Mark: markA}}},
		{"another weight", step{twoConfig, links + aUp + bUp}, step{twoConfig + "weight = 9\n", links + aUp + bUp}, nil},
		{"reordered", step{twoConfig, links + aUp + bUp}, step{"[uplink.b]\ninterface = \"eth2\"\n[uplink.a]\ninterface = \"eth1\"\n", links + aUp + bUp}, nil},
		{"b's lease changes during a reload that adds an uplink", step{twoConfig, links + aUp + bUp},
			step{"[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.2\"\n" + twoConfig, links + aUp + bNew}, nil},
		{"b's lease changes during a reload that gives it another weight", step{twoConfig, links + aUp + bUp},
			step{twoConfig + "weight = 9\n", links + aUp + bNew}, nil},
		{"b's lease changes during a reload that fixes its old address", step{twoConfig, links + aUp + bUp},
			step{twoConfig + "addresses = [\"198.51.100.9\"]\n", links + aUp + bNew}, []End{{Mark: markB}}},
		{"both leases change, and a is removed", step{twoConfig, links + aUp + bUp}, step{oneConfig, links + aNew + bNew}, []End{{Mark: markA}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c1, c2 := mustConfig(t, tt.from.config), mustConfig(t, tt.to.config)
			ids := Assign(IDs{}, c1)
			from := Make(Input{Config: c1, Facts: mustFacts(t, tt.from.facts), IDs: ids})
			to := Make(Input{Config: c2, Facts: mustFacts(t, tt.to.facts), IDs: Assign(ids, c2)})
			got := Ended(from, to)
			slices.SortFunc(got, func(a, b End) int { return int(a.Mark) - int(b.Mark) })
			if !slices.Equal(got, tt.want) {
				t.Errorf("ended %+v, want %+v", got, tt.want)
			}
		})
	}
}

// What ends when an uplink returns from a time in which nobody could take its
// connections over.
func TestEndedAfterDown(t *testing.T) {
	t.Parallel()
	ids := Assign(IDs{}, mustConfig(t, twoConfig))
	at := func(facts string) Plan {
		return Make(Input{Config: mustConfig(t, oneConfig), Facts: mustFacts(t, facts), IDs: ids})
	}
	for _, tt := range []struct {
		name    string
		returns string
		want    []End
	}{
		{"as it was", links + bUp + b6, nil},
		{"with another address", links + bNew + b6, []End{{Mark: markB, Family: routes.IPv4}}},
		{"with another prefix", links + bUp + strings.ReplaceAll(b6, "db8::", "db8:1::"), []End{{Mark: markB, Family: routes.IPv6}}},
	} {
		old := at(links + bUp + b6)
		for _, facts := range []string{links, "link eth1 3\nlink eth2 4 nocarrier\n" + bUp, links} {
			down := at(facts)
			if got := Ended(old, down); got != nil {
				t.Errorf("%s: while down, %+v ended", tt.name, got)
			}
			old = Settled(old, down)
		}
		back := at(tt.returns)
		if got := Ended(old, back); !slices.Equal(got, tt.want) {
			t.Errorf("%s: ended %+v, want %+v", tt.name, got, tt.want)
		}
		if got := Ended(Settled(old, back), back); got != nil {
			t.Errorf("%s: ended again: %+v", tt.name, got)
		}
	}
}

// An agent that starts does not know what its predecessor's uplinks were like,
// so it ends what is bound to an uplink that cannot carry it.
func TestEndedAtStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		facts string
		want  []End
	}{
		{links + aUp + bUp, nil},
		{links + bUp, []End{{Mark: markA}}},
		{links, nil},
	} {
		if got := Ended(Plan{}, makePlan(t, twoConfig, tt.facts)); !slices.Equal(got, tt.want) {
			t.Errorf("%q: ended %+v, want %+v", tt.facts, got, tt.want)
		}
	}
}

// Connections end only where somebody carries what their uplink carried: an
// uplink that no policy of theirs leads to takes nothing over.
func TestHeirs(t *testing.T) {
	t.Parallel()
	dual := links + aUp + a6 + bUp + b6
	for _, tt := range []struct {
		name, config, from, to string
		want                   []End
	}{
		{"b is in no policy", "[policy.default]\ntiers = [[\"a\"]]\n", dual, links + bUp + b6, nil},
		{"a is in no policy", "[policy.default]\ntiers = [[\"b\"]]\n", dual, links + bUp + b6, nil},
		{"b is in another policy", "[policy.default]\ntiers = [[\"a\"]]\n[policy.other]\ntiers = [[\"b\"]]\n", dual, links + bUp + b6, nil},
		{"b is in one of a's policies", "[policy.default]\ntiers = [[\"b\"]]\n[policy.other]\ntiers = [[\"b\", \"a\"]]\n", dual, links + bUp + b6, []End{{Mark: markA}}},
		{"b is in a lower tier", "[policy.default]\ntiers = [[\"a\"], [\"b\"]]\n", dual, links + bUp + b6, []End{{Mark: markA}}},
		{"a policy falls back to b", "[policy.default]\ntiers = [[\"b\"]]\n[policy.other]\ntiers = [[\"a\"]]\nfallback = \"default\"\n", dual, links + bUp + b6, []End{{Mark: markA}}},
		{"a rule is for a only", "[policy.default]\ntiers = [[\"b\"]]\n[[rule]]\nlocal = true\nuplink = \"a\"\n", dual, links + bUp + b6, nil},
		{"b has IPv4 only", "", links + aUp + a6 + bUp, links + bUp, []End{{Mark: markA, Family: routes.IPv4}}},
		{"b has IPv6 only", "", links + aUp + a6 + b6, links + b6, []End{{Mark: markA, Family: routes.IPv6}}},
		{"b gets IPv6 when a is dead", "", links + bUp, links + bUp + b6, []End{{Mark: markA}}},
	} {
		c := mustConfig(t, twoConfig+tt.config)
		ids := Assign(IDs{}, c)
		at := func(facts string) Plan { return Make(Input{Config: c, Facts: mustFacts(t, facts), IDs: ids}) }
		old, now := at(tt.from), at(tt.to)
		if got := Ended(old, now); !slices.Equal(got, tt.want) {
			t.Errorf("%s: ended %+v, want %+v", tt.name, got, tt.want)
		}
		if got := Ended(Settled(old, now), now); got != nil {
			t.Errorf("%s: ended again: %+v", tt.name, got)
		}
	}
}

// An uplink that comes or goes changes routes, and no nftables rule.
func TestDeathChangesNoRules(t *testing.T) {
	t.Parallel()
	alive := makePlan(t, twoConfig, links+aUp+bUp)
	for name, facts := range map[string]string{
		"no address":   links + aUp,
		"no carrier":   "link eth1 3\nlink eth2 4 nocarrier\n" + aUp + bUp,
		"no interface": "link eth1 3\n" + aUp,
		"new lease":    links + aUp + bNew,
		"all":          links,
	} {
		dead := makePlan(t, twoConfig, facts)
		if diff := cmp.Diff(nat.Compile(alive.NAT).String(), nat.Compile(dead.NAT).String()); diff != "" {
			t.Errorf("%s: (-alive +dead)\n%s", name, diff)
		}
		if len(routes.Diff(alive.Routes, dead.Routes)) == 0 {
			t.Errorf("%s: no route changes", name)
		}
	}
}

// compiled is what of a plan reaches the kernel.
func compiled(p Plan) string {
	return p.Routes.String() + nat.Compile(p.NAT).String() + fmt.Sprint(p.Sysctls)
}

// The same input gives the same plan, and the order in which the kernel lists
// links, neighbours, default routes and marks does not change what reaches the
// kernel. (The order of addresses does: masquerade goes by it, too.)
func TestDeterminism(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, dir := range []string{"router-nic-per-uplink-ipv6", "single-nic-lan-too", "single-nic-one-ra", "dhcp", "ppp", "foreign", "same-gateway-learned"} {
		c := mustConfig(t, readFile(t, "testdata/"+dir+"/config.toml"))
		f := mustFacts(t, readFile(t, "testdata/"+dir+"/facts"))
		ids := Assign(IDs{}, c)
		want := Make(Input{Config: c, Facts: f, IDs: ids})
		if again := Make(Input{Config: c, Facts: f, IDs: ids}); !reflect.DeepEqual(want, again) {
			t.Errorf("%s: two plans of one input differ", dir)
		}
		links := f.Links
		for range 20 {
			f.Links = slices.Clone(links)
			shuffle(r, f.Links)
			shuffle(r, f.Defaults)
			shuffle(r, f.Neighbours)
			shuffle(r, f.Marks)
			got := Make(Input{Config: c, Facts: f, IDs: ids})
			// Which forwarding switches follow the global one is a set.
			for i := range got.Sysctls {
				got.Sysctls[i].Implied = sortedCopy(got.Sysctls[i].Implied)
			}
			first := want
			first.Sysctls = slices.Clone(want.Sysctls)
			for i := range first.Sysctls {
				first.Sysctls[i].Implied = sortedCopy(first.Sysctls[i].Implied)
			}
			if diff := cmp.Diff(compiled(first), compiled(got)); diff != "" {
				t.Fatalf("%s: (-want +got)\n%s", dir, diff)
			}
		}
	}
}

// The order of the configuration does not change what reaches the kernel.
func TestOrderOfUplinks(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"router-nic-per-uplink-ipv6", "single-nic-lan-too", "single-nic-one-ra", "dhcp"} {
		c := mustConfig(t, readFile(t, "testdata/"+dir+"/config.toml"))
		f := mustFacts(t, readFile(t, "testdata/"+dir+"/facts"))
		ids := Assign(IDs{}, c)
		want := Make(Input{Config: c, Facts: f, IDs: ids})
		turned := *c
		turned.Uplinks = slices.Clone(c.Uplinks)
		slices.Reverse(turned.Uplinks)
		got := Make(Input{Config: &turned, Facts: f, IDs: Assign(ids, &turned)})
		if diff := cmp.Diff(want.Routes.String()+nat.Compile(want.NAT).String(), got.Routes.String()+nat.Compile(got.NAT).String()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", dir, diff)
		}
	}
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

func sortedCopy(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
