package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/api"
	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// TestFirstInstall: NAT and guard first, then what began before, then what
// sends packets there, and forwarding after all that.
func TestFirstInstall(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks)
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.holds()
	at := func(part string) int {
		t.Helper()
		i := slices.IndexFunc(r.k.calls, func(c string) bool { return strings.Contains(c, part) })
		if i < 0 {
			t.Fatalf("no %q in\n%s", part, strings.Join(r.k.calls, "\n"))
		}
		return i
	}
	order := []int{at("nft 1-a 2-b, ip_forward is 0"), at("list connections 0x0/0x0, ip_forward is 0"), at("route replace default table 20003"), at("rule add pref 32765")}
	if !slices.IsSorted(order) {
		t.Errorf("order %d of\n%s", order, strings.Join(r.k.calls, "\n"))
	}
	if !r.ready || !r.applied || len(r.k.deleted) > 0 {
		t.Errorf("ready %t, applied %t, deleted %#x", r.ready, r.applied, r.k.deleted)
	}
}

// A pass that finds nothing to do writes nothing, whatever it found before.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	for range 3 {
		r.mustPass(time.Second)
	}
	if _, err := r.reload(0); err != nil {
		t.Fatal(err)
	}
	r.wrote()

	// A new daemon finds its predecessor's state.
	next := newDaemon(r.Options, r.k, fakeTable{r.k}, r.k, r.sysctl)
	if err := next.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.wrote()
	if !next.ready || !next.ids.Equal(r.ids) {
		t.Errorf("ready %t, ids %v, had %v", next.ready, next.ids, r.ids)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.carrier("eth1", false)
	r.mustPass(time.Second)
	r.holds()
	last := len(r.k.writes) - 1
	for i, w := range r.k.writes {
		if strings.HasPrefix(w, "nft") {
			t.Errorf("a rule was written: %s", w)
		}
		if strings.Contains(w, "table 20003") && i > slices.Index(r.k.writes, "delete connections 0x1000000/0xff000000, ip_forward is 1") {
			t.Errorf("connections ended before they had another way (of %d writes):\n%s", last, strings.Join(r.k.writes, "\n"))
		}
	}
	if !slices.Equal(r.k.deleted, []uint32{markA}) {
		t.Errorf("deleted %#x", r.k.deleted)
	}
	if log := r.log.take(); !strings.Contains(log, `msg="uplink is down" id=3 uplink=a reason="interface eth1 has no carrier (cable, modem)"`) {
		t.Errorf("log:\n%s", log)
	}

	r.forget()
	r.carrier("eth1", true)
	r.mustPass(time.Second)
	r.holds()
	if len(r.k.deleted) > 0 {
		t.Errorf("failback deleted %#x", r.k.deleted)
	}
}

// With nobody to take over, connections wait for their uplink; they end when
// another one comes back first.
func TestEverythingDown(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.carrier("eth1", false)
	r.carrier("eth2", false)
	r.mustPass(time.Second)
	if len(r.k.deleted) > 0 {
		t.Errorf("deleted %#x", r.k.deleted)
	}
	r.carrier("eth2", true)
	r.mustPass(time.Second)
	if !slices.Equal(r.k.deleted, []uint32{markA}) {
		t.Errorf("deleted %#x, want a's", r.k.deleted)
	}
	r.holds()
}

// An uplink that is removed keeps its NAT until no route leads to it.
func TestRemoval(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.write(onlyB)
	if _, err := r.reload(0); err != nil {
		t.Fatal(err)
	}
	r.holds()
	order := []int{
		slices.IndexFunc(r.k.writes, func(w string) bool { return strings.Contains(w, "table 20003 ") }),
		slices.Index(r.k.writes, "delete connections 0x1000000/0xff000000, ip_forward is 1"),
		slices.IndexFunc(r.k.writes, func(w string) bool { return strings.Contains(w, "rule del pref 10200 fwmark 0x1000000") }),
		slices.Index(r.k.writes, "nft 2-b, ip_forward is 1"),
	}
	if !slices.IsSorted(order) || order[0] < 0 {
		t.Errorf("order %d of\n%s", order, strings.Join(r.k.writes, "\n"))
	}
	for _, w := range r.k.writes[:order[1]] {
		if strings.HasPrefix(w, "nft") && !strings.Contains(w, "1-a") {
			t.Errorf("a lost its NAT too early: %s", w)
		}
	}
}

// scenario is a change after which the kernel must hold the wanted state and
// these marks' connections must have been deleted, and single ones of these
// addresses.
type scenario struct {
	name    string
	change  func(*rig)
	deleted []uint32
	ended   string
}

var scenarios = []scenario{
	{"failover", func(r *rig) { r.carrier("eth1", false) }, []uint32{markA}, ""},
	{"renumbered", func(r *rig) {
		r.k.facts.Addrs[1].Prefix = netip.MustParsePrefix("192.0.2.99/24")
		for _, own := range []string{"192.0.2.9", "192.0.2.99"} {
			r.k.entries = append(r.k.entries, entry("192.168.0.5", "9.9.9.9", own, conntrack.StatusSrcNAT, markA))
		}
	}, nil, "192.0.2.9"},
	{"removal", func(r *rig) { r.write(onlyB); r.accept(r.load()) }, []uint32{markA}, ""},
	{"another interface", func(r *rig) {
		r.write(strings.NewReplacer("eth1", "eth0", "192.0.2.1", "192.168.0.254", `["eth0"]`, `["eth1"]`).Replace(twoUplinks))
		r.accept(r.load())
	}, []uint32{markA}, ""},
	{"all rules lost", func(r *rig) { r.k.state, r.k.have = nat.State{}, routes.Spec{} }, nil, ""},
}

// Whatever call fails, and however often: the error is returned, and a later
// pass gets everywhere that it would have got without, connections included.
func TestFailureAtEachStep(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for n, done := 1, false; !done; n++ {
				r := started(t, twoUplinks)
				s.change(r)
				r.k.failAt = n
				err := r.pass(r.now)
				if r.drift.pending { // rules are put back after a while
					r.now = r.drift.due
					err = r.pass(r.now)
				}
				done = len(r.k.calls) < n
				r.k.failAt = 0
				if (err == nil) != done {
					t.Fatalf("call %d of %d failed: error %v", n, len(r.k.calls), err)
				}
				if err != nil && !errors.Is(err, errKernel) {
					t.Fatal(err)
				}
				r.mustPass(time.Second)
				r.mustPass(time.Second)
				r.holds()
				slices.Sort(r.k.deleted)
				if !slices.Equal(slices.Compact(r.k.deleted), s.deleted) {
					t.Errorf("call %d (%s) failed: deleted %#x, want %#x", n, r.k.calls[min(n, len(r.k.calls))-1], r.k.deleted, s.deleted)
				}
				swept := ""
				for _, e := range r.k.ended {
					swept = e.Reply.Dst.String()
				}
				if swept != s.ended {
					t.Errorf("call %d (%s) failed: ended a connection as %q, want %q", n, r.k.calls[min(n, len(r.k.calls))-1], swept, s.ended)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// The agent dies at each step; the next one converges, and ends what the
// first would have.
func TestDeathAtEachStep(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios {
		if s.name == "renumbered" || s.name == "another interface" {
			continue // the next one cannot know what was before
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for n, done := 1, false; !done; n++ {
				r := started(t, twoUplinks)
				s.change(r)
				r.k.failAt = n
				r.applied = false // do not wait for other programs
				_ = r.pass(r.now)
				done = len(r.k.calls) < n
				r.k.failAt = 0
				next := newDaemon(r.Options, r.k, fakeTable{r.k}, r.k, r.sysctl)
				if err := next.start(r.load()); err != nil {
					t.Fatal(err)
				}
				r.daemon = next
				r.holds()
				for _, m := range s.deleted {
					if !slices.Contains(r.k.deleted, m) {
						t.Fatalf("died at call %d (%s): %#x was not deleted", n, r.k.calls[min(n, len(r.k.calls))-1], m)
					}
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

func TestFailureAtFirstInstall(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		r := newRig(t, twoUplinks)
		r.k.entries = testEntries()
		r.k.failAt = n
		err := r.start(r.load())
		if len(r.k.calls) < n {
			return
		}
		if !errors.Is(err, errKernel) {
			t.Fatalf("call %d: %v", n, err)
		}
		if r.cfg == nil {
			continue // failed before it began
		}
		r.mustPass(time.Second)
		r.holds()
		if len(r.k.bound) == 0 || len(r.k.ended) == 0 {
			t.Fatalf("call %d (%s) failed: connections of before were forgotten: bound %d, ended %d", n, r.k.calls[n-1], len(r.k.bound), len(r.k.ended))
		}
	}
}

// TestRepairs: what somebody else takes away comes back.
func TestRepairs(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		take  func(*fake)
		delay time.Duration
		log   string
	}{
		{"the whole table", func(k *fake) { k.state = nat.State{} }, 0, "table inet multiroute"},
		{"dormant", func(k *fake) { k.state.Dormant = true }, 0, "made dormant"},
		{"an ip rule", func(k *fake) { k.have.Rules = k.have.Rules[1:] }, patience, "ip -4 rule pref 10"},
		{"a route", func(k *fake) { k.have.Routes = k.have.Routes[1:] }, 0, "ip -4 route "},
		{"everything", func(k *fake) { k.have, k.state = routes.Spec{}, nat.State{} }, 0, "ip -4 rule pref"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := started(t, twoUplinks)
			tt.take(r.k)
			if tt.delay > 0 {
				r.mustPass(time.Second)
				r.wrote()
				if !r.drift.pending || r.drift.due.Sub(r.now) != tt.delay {
					t.Fatalf("pending %t, due in %s", r.drift.pending, r.drift.due.Sub(r.now))
				}
				r.mustPass(tt.delay - 1)
				r.wrote()
				r.mustPass(1)
			} else {
				r.mustPass(time.Second)
			}
			r.holds()
			if r.drift.repairs != 1 || r.drift.pending || !r.drift.last.Equal(r.now) {
				t.Errorf("repairs %d, pending %t, last %s", r.drift.repairs, r.drift.pending, r.drift.last)
			}
			if log := r.log.take(); !strings.Contains(log, "something of ours was missing") || !strings.Contains(log, tt.log) {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// A fight with another program costs a bounded number of repairs, says so, and
// does not hold a failover back.
func TestRepairsAreLimited(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	steal := func() {
		r.k.have.Rules = slices.DeleteFunc(r.k.have.Rules, func(u routes.Rule) bool { return u.Mark == markB })
	}
	for range 100 {
		steal()
		r.mustPass(patience) // seen
		r.mustPass(patience) // due
	}
	const most = repairBurst + uint64(100*2*patience/repairEvery) + 1
	if got := r.drift.repairs; got < repairBurst || got > most {
		t.Errorf("%d repairs, want %d to %d", got, repairBurst, most)
	}
	if log := r.log.take(); !strings.Contains(log, "another program keeps removing our rules") || !strings.Contains(log, "fwmark 0x2000000") {
		t.Errorf("it is not said:\n%s", log)
	}
	steal()
	r.drift.limiter.AllowN(r.now, 1)
	r.carrier("eth1", false)
	r.forget()
	r.mustPass(time.Millisecond)
	r.holds()
	if !slices.Equal(r.k.deleted, []uint32{markA}) {
		t.Errorf("the failover waits: deleted %#x", r.k.deleted)
	}
}

// What somebody puts back by himself is no repair of ours.
func TestPutBackInTime(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	rules := r.k.have.Rules
	r.k.have.Rules = rules[1:]
	r.mustPass(time.Second)
	r.k.have.Rules = rules
	r.mustPass(patience)
	r.wrote()
	if r.drift.pending || r.drift.repairs != 0 {
		t.Errorf("pending %t, repairs %d", r.drift.pending, r.drift.repairs)
	}
}

// A kernel that does not keep what is written must not make a pass endless.
func TestKernelForgets(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks)
	r.k.failWith = func(call string) bool {
		r.k.state = nat.State{}
		return false
	}
	err := r.start(r.load())
	if n := len(r.k.calls); n > 200 {
		t.Errorf("%d calls", n)
	}
	if err == nil && r.ready {
		t.Error("it is ready, and the kernel holds nothing")
	}
}

func TestUnmanagedSysctls(t *testing.T) {
	t.Parallel()
	r := started(t, strings.Replace(twoUplinks, "[router]", "[router]\nmanage_sysctls = false", 1))
	if got := r.k.forward(); got != "0" {
		t.Errorf("ip_forward is %s", got)
	}
	if !slices.Contains(r.plan.Warnings, "sysctl net.ipv4.ip_forward is 0, needed is 1 (manage_sysctls = false)") {
		t.Errorf("warnings %q", r.plan.Warnings)
	}
	if !r.ready {
		t.Error("not ready")
	}
}

// Sysctls that somebody changes come back.
func TestSysctlDrift(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	if err := os.WriteFile(filepath.Join(r.sysctl.Root, "net/ipv4/ip_forward"), []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.mustPass(resync)
	if got := r.k.forward(); got != "1" {
		t.Errorf("ip_forward is %s", got)
	}
	if log := r.log.take(); !strings.Contains(log, `key=net/ipv4/ip_forward was=0 now=1`) {
		t.Errorf("log:\n%s", log)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	t.Run("the same", func(t *testing.T) {
		t.Parallel()
		r := started(t, twoUplinks)
		r.write("# a comment\n" + twoUplinks)
		r.dropIn("10-none.toml", "# nothing\n")
		got, err := r.reload(0)
		if err != nil || got.Changed || got.Generation != 1 || len(got.Changes) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
		r.wrote()
	})
	t.Run("another weight", func(t *testing.T) {
		t.Parallel()
		r := started(t, twoUplinks)
		r.write(twoUplinks + "weight = 3\n")
		got, err := r.reload(0)
		want := []string{"policy default: a weight 1, b weight 3", "1 routing operations"}
		if err != nil || !got.Changed || got.Generation != 2 || !slices.Equal(got.Changes, want) {
			t.Errorf("%+v, %v", got, err)
		}
		r.wrote("ip -4 route replace default table 20003 src 192.168.0.1 proto 77 nexthop via 192.0.2.1 dev eth1 weight 1 nexthop via 198.51.100.1 dev eth2 weight 3")
	})
	t.Run("wrong", func(t *testing.T) {
		t.Parallel()
		r := started(t, twoUplinks)
		r.write(twoUplinks + "wieght = 3\n")
		if _, err := r.reload(0); err == nil || !strings.Contains(err.Error(), "agent.toml:14: uplink.b.wieght") {
			t.Errorf("error %v", err)
		}
		if len(r.k.calls) > 0 {
			t.Errorf("the kernel was asked: %q", r.k.calls)
		}
		s := r.status()
		if s.Config.Generation != 1 || s.Config.Error == nil || !strings.Contains(*s.Config.Error, "wieght") {
			t.Errorf("status %+v", s.Config)
		}
		r.write(twoUplinks)
		if _, err := r.reload(0); err != nil || r.status().Config.Error != nil {
			t.Errorf("after it was corrected: %v", err)
		}
	})
	t.Run("another mask", func(t *testing.T) {
		t.Parallel()
		r := started(t, twoUplinks)
		r.write(strings.Replace(twoUplinks, "[router]", "[router]\nmark_mask = \"0xff00\"", 1))
		if _, err := r.reload(0); err == nil || !strings.Contains(err.Error(), "agent purge") {
			t.Errorf("error %v", err)
		}
		r.wrote()
	})
	t.Run("refused by the kernel", func(t *testing.T) {
		t.Parallel()
		r := started(t, twoUplinks)
		ids, have := r.ids, r.k.have
		r.write(onlyB + "destinations = [\"10.0.0.0/8\"]\n[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.1\"\ngateway6 = \"off\"\n")
		r.k.failWith = func(call string) bool {
			return strings.Contains(call, "10.0.0.0/8") && !strings.Contains(call, " del ")
		}
		_, err := r.reload(0)
		if !errors.Is(err, errKernel) || !strings.Contains(err.Error(), "the old one is in force again") {
			t.Errorf("error %v", err)
		}
		r.holds()
		if diff := cmp.Diff(have.String(), r.k.have.String()); diff != "" {
			t.Errorf("(-before +after)\n%s", diff)
		}
		if !r.ids.Equal(ids) || r.generation != 1 || r.loadErr == nil || r.cfg.Uplink("a") == nil {
			t.Errorf("ids %v, generation %d, error %v", r.ids, r.generation, r.loadErr)
		}
		if slices.Contains(r.k.deleted, markA) || slices.Contains(r.k.deleted, markB) {
			t.Errorf("connections of uplinks that stay were ended: %#x", r.k.deleted)
		}
	})
}

// A configuration without an uplink that is taken out, which the kernel refuses,
// does not put it back.
func TestRefusedReloadKeepsTakenOut(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	if err := r.setUplink("a", false, 0); err != nil {
		t.Fatal(err)
	}
	r.write(onlyB + "destinations = [\"10.0.0.0/8\"]\n")
	r.k.failWith = func(call string) bool { return strings.Contains(call, "route replace 10.0.0.0/8") }
	if _, err := r.reload(0); !errors.Is(err, errKernel) {
		t.Fatalf("error %v", err)
	}
	if s := r.status().Uplinks[0]; s.Name != "a" || s.State != api.Disabled {
		t.Errorf("%+v", s)
	}
}

// Rules that the kernel refuses to take were not taken away by another program.
func TestRefusedRules(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.write(twoUplinks + "[[port_forward]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nto = \"192.168.0.10\"\n")
	cfg := r.load()
	r.accept(cfg)
	r.k.failWith = func(call string) bool { return strings.HasPrefix(call, "nft ") }
	for range 3 {
		if err := r.pass(r.now); !errors.Is(err, errKernel) {
			t.Fatalf("error %v", err)
		}
	}
	r.k.failWith = nil
	r.mustPass(0)
	if s := r.status(); s.Drift.Repairs > 0 || strings.Contains(r.log.take(), "missing") {
		t.Errorf("taken for another program's doing: %+v", s.Drift)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	state := func(name string, s plan.State) plan.Uplink { return plan.Uplink{Name: name, State: s} }
	a := plan.Plan{Uplinks: []plan.Uplink{state("a", plan.Up), state("b", plan.Up)},
		Policies: []plan.Policy{{Name: "default", V4: plan.Choice{Members: []plan.Member{{Uplink: "a", Weight: 1}, {Uplink: "b", Weight: 2}}}}}}
	b := plan.Plan{Uplinks: []plan.Uplink{state("c", plan.Up), state("b", plan.Down)}, Policies: []plan.Policy{{Name: "default"}}}
	want := []string{"uplink c: new, up", "uplink b: down, was up", "uplink a: removed", "policy default: nobody"}
	if diff := cmp.Diff(want, changes(a, b, false)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := changes(a, a, false); len(got) > 0 {
		t.Errorf("nothing changed: %q", got)
	}
}

// bothFamilies is a started daemon whose two uplinks have IPv6, too.
func bothFamilies(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, strings.ReplaceAll(strings.Replace(twoUplinks, `gateway6 = "off"`, `gateway6 = "fe80::1"`, 1), `gateway6 = "off"`, `gateway6 = "fe80::2"`))
	r.k.facts.NoIPv6 = false
	for i, p := range []string{"2001:db8:a::9/64", "2001:db8:b::9/64"} {
		r.k.facts.Addrs = append(r.k.facts.Addrs, routes.Addr{Index: i + 3, Prefix: netip.MustParsePrefix(p), Global: true, Usable: true})
	}
	r.sysctl.Root = t.TempDir()
	r.dropIn("10-sysctls.toml", "[router]\nmanage_sysctls = false\n")
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.forget()
	return r
}

// An uplink that loses one family keeps the connections of the other.
func TestFamilyLost(t *testing.T) {
	t.Parallel()
	r := bothFamilies(t)
	r.k.facts.Addrs = slices.DeleteFunc(r.k.facts.Addrs, func(a routes.Addr) bool { return a.Prefix.Addr() == netip.MustParseAddr("2001:db8:a::9") })
	r.mustPass(time.Second)
	var deletions []string
	for _, w := range r.k.writes {
		if strings.HasPrefix(w, "delete") {
			deletions = append(deletions, w)
		}
	}
	if diff := cmp.Diff([]string{"delete connections 0x1000000/0xff000000 of family 10, ip_forward is 0"}, deletions); diff != "" {
		t.Errorf("deletions (-want +got)\n%s", diff)
	}
	if log := r.log.take(); !strings.Contains(log, "mark=0x1000000 family=IPv6") {
		t.Errorf("log:\n%s", log)
	}
}

// A route that the kernel refuses delays nobody else's failover, and what is
// missing then is nobody's doing.
func TestRefusedRoute(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks+"[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.3\"\ngateway6 = \"off\"\n")
	table := fmt.Sprintf("table %d ", r.plan.Uplinks[2].Table)
	r.k.have.Routes = slices.DeleteFunc(r.k.have.Routes, func(o routes.Route) bool { return o.Table == r.plan.Uplinks[2].Table })
	r.k.failWith = func(call string) bool {
		return strings.Contains(call, "route replace") && strings.Contains(call, table)
	}
	r.carrier("eth2", false)
	for n := range 20 {
		r.now = r.now.Add(time.Second)
		if err := r.pass(r.now); !errors.Is(err, errKernel) {
			t.Fatalf("pass %d: %v", n, err)
		}
	}
	if !slices.Equal(r.k.deleted, []uint32{markB}) {
		t.Errorf("deleted %#x, want b's, once", r.k.deleted)
	}
	if log := r.log.take(); strings.Count(log, "was missing in the kernel") > 1 || strings.Contains(log, "another program") {
		t.Errorf("log:\n%s", log)
	}
	r.k.failWith = nil
	r.mustPass(time.Second)
	r.holds()
}

// What the kernel refuses because of one uplink at the start, before or after
// the rules, keeps the others from nothing, and is tried again.
func TestRefusedAtStart(t *testing.T) {
	t.Parallel()
	const pinned = twoUplinks + "destinations = [\"10.0.0.0/8\"]\n"
	for name, refuse := range map[string]func(string) bool{
		"its table": func(call string) bool {
			return strings.Contains(call, "route replace default via 198.51.100.1 dev eth2 table 20002")
		},
		"a destination of its": func(call string) bool { return strings.Contains(call, "route replace 10.0.0.0/8 via 198.51.100.1") },
		"all that leads to it": func(call string) bool {
			return strings.Contains(call, "replace") && strings.Contains(call, "via 198.51.100.1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, pinned+"[hooks]\non_change = [\"/bin/true\"]\n")
			r.k.refuse = refuse
			if err := r.start(r.load()); err != nil {
				t.Fatal(err)
			}
			if s := r.status(); !s.Ready || r.retry != retryMin || !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "198.51.100.1") }) {
				t.Errorf("ready %t, again in %s, warnings %q", s.Ready, r.retry, s.Warnings)
			}
			if got := r.k.forward(); got != "1" {
				t.Errorf("ip_forward is %s", got)
			}
			if log := r.log.take(); strings.Count(log, "bringing the kernel to the wanted state") != 1 || strings.Count(log, "uplink change done") != 2 {
				t.Errorf("log:\n%s", log)
			}
			r.forget()
			if err := r.pass(r.now); !routes.Refused(err) {
				t.Errorf("once more: %v", err)
			}
			if slices.ContainsFunc(r.k.writes, func(w string) bool { return strings.HasPrefix(w, "nft") }) {
				t.Errorf("rules were written again:\n%s", strings.Join(r.k.writes, "\n"))
			}
			r.k.refuse = nil
			r.mustPass(time.Second)
			r.holds()
		})
	}
}

// What the kernel refuses of one uplink keeps no other change from being loaded,
// nor the correction. The first time it is refused it is the configuration's
// fault.
func TestReloadWhileRefused(t *testing.T) {
	t.Parallel()
	const c = "[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.3\"\ngateway6 = \"off\"\n"
	r := newRig(t, twoUplinks+c)
	r.k.refuse = func(call string) bool { return strings.Contains(call, "route replace default via 192.0.2.3") }
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	heavier := strings.Replace(twoUplinks, "[uplink.a]", "[uplink.a]\nweight = 7", 1)
	r.write(heavier + c)
	result, err := r.reload(0)
	if err != nil || !slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.Contains(w, "192.0.2.3") }) {
		t.Errorf("%q, %v", result.Warnings, err)
	}
	if r.generation != 2 || r.cfg.Uplink("a").Weight != 7 || r.retry == 0 {
		t.Errorf("generation %d, weight %d, again in %v", r.generation, r.cfg.Uplink("a").Weight, r.retry)
	}
	c2 := strings.NewReplacer("uplink.c", "uplink.e", "192.0.2.3", "192.0.2.33").Replace(c)
	for name, text := range map[string]string{
		"an uplink that serves": strings.Replace(twoUplinks, "192.0.2.1", "192.0.2.32", 1) + c,
		"another one instead":   heavier + c2,
		"one more":              heavier + c + c2,
	} {
		r.write(text)
		if _, err := r.reload(0); !errors.Is(err, errKernel) || r.generation != 2 || r.cfg.Uplink("c") == nil || r.cfg.Uplink("e") != nil {
			t.Errorf("%s: a configuration of which the kernel refuses more is in force: %v", name, err)
		}
	}
	r.write(heavier)
	if result, err := r.reload(0); err != nil || len(result.Warnings) > 0 {
		t.Errorf("corrected: %q, %v", result.Warnings, err)
	}
	r.holds()
	r.write(heavier + c)
	if _, err := r.reload(0); !errors.Is(err, errKernel) || r.cfg.Uplink("c") != nil {
		t.Errorf("a configuration that the kernel refuses is in force: %v", err)
	}
	r.holds()
}

// The others' failover is done and told while the kernel refuses one uplink.
func TestFailoverWhileRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks+"[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.3\"\ngateway6 = \"off\"\n")
	r.k.refuse = func(call string) bool { return strings.Contains(call, "route replace default via 192.0.2.3") }
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.forget()
	r.carrier("eth2", false)
	if err := r.pass(r.now); !routes.Refused(err) {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(r.k.deleted, []uint32{markB}) {
		t.Errorf("deleted %#x, want b's", r.k.deleted)
	}
	if log := r.log.take(); !strings.Contains(log, `msg="uplink change done" id=4 uplink=b`) {
		t.Errorf("log:\n%s", log)
	}
}
