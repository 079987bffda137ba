package nat

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"multiroute/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// kernel is a network namespace with our table's sockets and somebody else's.
type kernel struct {
	t       *testing.T
	ns      *lab.NS
	table   *Table
	foreign *nftables.Conn
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	ns, err := lab.NewNS("nat")
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, ns: ns}
	err = ns.Do(func() error {
		if k.table, err = Open(); err != nil {
			return err
		}
		k.foreign, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.table.Close()
		_ = k.foreign.CloseLasting()
		ns.Close()
	})
	return k
}

func (k *kernel) read() State {
	k.t.Helper()
	var s State
	err := k.ns.Do(func() (err error) { s, err = k.table.Read(); return err })
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

// tryWrite writes inside the namespace: after an error, the table opens its
// sockets anew where it is called.
func (k *kernel) tryWrite(have State, want Ruleset) error {
	return k.ns.Do(func() error { return k.table.Write(have, want) })
}

// write writes and checks that the kernel then holds what was wanted.
func (k *kernel) write(want Ruleset) {
	k.t.Helper()
	if err := k.tryWrite(k.read(), want); err != nil {
		k.t.Fatal(err)
	}
	s := k.read()
	if lost := s.Missing(want); len(lost) > 0 || !s.Satisfies(want) {
		k.t.Fatalf("after writing, the kernel lacks %v; it has %v", lost, s)
	}
	if lines := s.Commands(want); len(lines) > 0 {
		k.t.Fatalf("after writing there is still to do: %v", lines)
	}
}

// flush sends what was queued on the foreign connection.
func (k *kernel) flush() {
	k.t.Helper()
	if err := k.foreign.Flush(); err != nil {
		k.t.Fatal(err)
	}
}

// accepted checks that the kernel takes r, where there is a lab.
func accepted(t *testing.T, r Ruleset) {
	t.Helper()
	if lab.Available() != nil {
		return
	}
	newKernel(t).write(r)
}

func TestKernelAccepts(t *testing.T) {
	k := newKernel(t)
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			want := Compile(s.spec)
			accepted(t, want) // alone
			k.t = t
			k.write(want) // instead of another one
		})
	}
}

func TestKernelMany(t *testing.T) {
	k := newKernel(t)
	want := Compile(many(64, 2000))
	start := time.Now()
	k.write(want)
	t.Logf("64 uplinks, 2000 port forwards: %v", time.Since(start))
	if got := k.elements(portForwards); got < 2000 {
		t.Errorf("the maps of port forwards hold %d elements, wanted at least 2000", got)
	}
	start = time.Now()
	k.write(want)
	t.Logf("nothing to write: %v", time.Since(start))
}

func portForwards(s *nftables.Set) bool { return s.Concatenation || s.KeyType.Bytes == 8 }

// elements counts the elements of the sets that are asked for.
func (k *kernel) elements(which func(*nftables.Set) bool) int {
	k.t.Helper()
	sets, err := k.foreign.GetSets(ourTable())
	if err != nil {
		k.t.Fatal(err)
	}
	n := 0
	for _, s := range sets {
		if !which(s) {
			continue
		}
		elements, err := k.foreign.GetSetElements(s)
		if err != nil {
			k.t.Fatal(err)
		}
		n += len(elements)
	}
	return n
}

func ourTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// TestKernelElements: no element is lost on the way (LIBRARIES.md, fact 1).
func TestKernelElements(t *testing.T) {
	for _, n := range []int{1, 499, 500, 501, 2000, 9000} {
		s := separate()
		for i := range n {
			s.Forwards = append(s.Forwards, PortForward{Protocol: 6, Port: uint16(i + 1), To: many(0, 1).Forwards[0].To})
		}
		k := newKernel(t)
		k.write(Compile(s))
		if got := k.elements(portForwards); got != n {
			t.Errorf("%d port forwards became %d elements", n, got)
		}
		s.Forwards = nil
		for i := range n {
			s.Routed = append(s.Routed, prefix32([4]byte{203, byte(i >> 15), byte(i >> 7), byte(i << 1)}))
		}
		s.Guard = false // so that there is one set of them
		k.write(Compile(s))
		want := 2*n + 1 // a beginning and an end each, and the kernel's end of everything before the first
		got := k.elements(func(s *nftables.Set) bool { return s.Interval })
		if n > 1 && got != want && got != want-1 {
			t.Errorf("%d prefixes became %d elements, wanted %d", n, got, want)
		}
	}
}

// handles are the handles of all rules by chain: a rule that was written again
// has another one.
func (k *kernel) handles() map[string][]uint64 {
	k.t.Helper()
	all := map[string][]uint64{}
	for _, name := range k.read().Chains() {
		all[name] = nil
		for _, r := range k.rules(name) {
			all[name] = append(all[name], r.Handle)
		}
	}
	return all
}

func (k *kernel) rules(chain string) []*nftables.Rule {
	k.t.Helper()
	rules, err := k.foreign.GetRules(ourTable(), &nftables.Chain{Name: chain, Table: ourTable()})
	if err != nil {
		k.t.Fatalf("chain %s: %v", chain, err)
	}
	return rules
}

// TestKernelWriteDiffers: only chains that differ are written.
func TestKernelWriteDiffers(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Spec)
		touched []string // chains with other rules; the rest keeps its rules
	}{
		{"nothing", func(*Spec) {}, nil},
		{"a fixed source", func(s *Spec) { s.Uplinks[0].Source = addrs("198.18.1.9") }, []string{"masquerading", "mark-1-dsl"}},
		{"guard off", func(s *Spec) { s.Guard = false }, []string{"guard", "guard-in", "guard-out"}},
		{"a port forward", func(s *Spec) { forwards(s); s.Forwards = s.Forwards[:1] }, []string{"forward_ports"}},
		{"another policy", func(s *Spec) {
			s.Policies = append(slices.Clone(s.Policies), Policy{Name: "voice", ID: 8, Mark: markOf(8)})
		}, []string{"policy-8-voice"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t)
			k.write(Compile(separate()))
			before := k.handles()
			k.write(Compile(changed(separate(), c.change)))
			after := k.handles()
			for name := range after {
				was, existed := before[name]
				if touched := !existed || !slices.Equal(was, after[name]); touched != slices.ContainsFunc(c.touched, func(t string) bool { return name == t }) {
					t.Errorf("chain %s: touched is %v", name, touched)
				}
			}
			k.write(Compile(separate()))
		})
	}
}

// TestKernelUpgrade: a base chain of an older version becomes a regular one and
// the other way round, in one transaction.
func TestKernelUpgrade(t *testing.T) {
	k := newKernel(t)
	now, older := Compile(separate()), Compile(separate())
	m := older.Chain("masquerading")
	m.Type, m.Hook, m.Priority = NAT, Postrouting, 100
	b := older.Chain("bind")
	b.Type, b.Hook, b.Priority, b.Rules = "", "", 0, nil
	older.Chains = slices.DeleteFunc(older.Chains, func(c Chain) bool { return strings.HasPrefix(c.Name, leaveChain) })
	k.write(older)
	k.write(now)
	k.write(older)
}

// TestKernelForeign: whatever somebody else does to our table is seen, and
// mended by the next Write.
func TestKernelForeign(t *testing.T) {
	chain := func(name string) *nftables.Chain { return &nftables.Chain{Name: name, Table: ourTable()} }
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	for _, c := range []struct {
		name string
		edit func(*kernel)
		lost string // part of the first line of Missing; "": nothing of ours is missing
	}{
		{"rule deleted", func(k *kernel) {
			if err := k.foreign.DelRule(k.rules("guard")[4]); err != nil {
				k.t.Fatal(err)
			}
		}, "chain guard: iifname"},
		{"chain flushed", func(k *kernel) { k.foreign.FlushChain(chain("guard")) }, "chain guard:"},
		{"chain deleted", func(k *kernel) {
			k.foreign.FlushChain(chain("guard"))
			k.foreign.DelChain(chain("guard"))
		}, "chain guard"},
		{"table deleted", func(k *kernel) { k.foreign.DelTable(ourTable()) }, "table inet multiroute"},
		{"ruleset flushed", func(k *kernel) { k.foreign.FlushRuleset() }, "table inet multiroute"},
		{"table deleted and made anew", func(k *kernel) {
			k.foreign.DelTable(ourTable())
			k.foreign.AddTable(ourTable())
		}, "chain restore"},
		{"foreign rule first", func(k *kernel) {
			k.foreign.InsertRule(&nftables.Rule{Table: ourTable(), Chain: chain("guard"), Exprs: accept})
		}, "chain guard: a rule of somebody else"},
		{"foreign rule last", func(k *kernel) {
			k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: chain("guard"), Exprs: accept, UserData: []byte{0, 200, 'x'}})
		}, "chain guard: a rule of somebody else"},
		{"rule instead of ours", func(k *kernel) {
			r := k.rules("guard")[0]
			if err := k.foreign.DelRule(r); err != nil {
				k.t.Fatal(err)
			}
			k.foreign.InsertRule(&nftables.Rule{Table: ourTable(), Chain: chain("guard"), Exprs: accept})
		}, "chain guard: ct status"},
		{"reordered", func(k *kernel) {
			r := k.rules("guard")[0]
			if err := k.foreign.DelRule(r); err != nil {
				k.t.Fatal(err)
			}
			k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: chain("guard"), Exprs: r.Exprs, UserData: r.UserData})
		}, "chain guard: order of rules"},
		{"our rule twice", func(k *kernel) {
			r := k.rules("guard")[0]
			k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: chain("guard"), Exprs: r.Exprs, UserData: r.UserData})
		}, "chain guard: a rule of somebody else"},
		{"foreign chain", func(k *kernel) {
			k.foreign.AddChain(&nftables.Chain{Name: "theirs", Table: ourTable()})
			k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: chain("theirs"), Exprs: accept})
		}, ""},
		{"two foreign chains, one leads to the other", func(k *kernel) {
			k.foreign.AddChain(&nftables.Chain{Name: "a-theirs", Table: ourTable()})
			k.foreign.AddChain(&nftables.Chain{Name: "b-theirs", Table: ourTable()})
			k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: chain("b-theirs"), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "a-theirs"}}})
		}, ""},
		{"dormant", func(k *kernel) { k.dormant() }, "table inet multiroute: made dormant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t)
			want := Compile(changed(separate(), forwards))
			k.write(want)
			c.edit(k)
			k.flush()
			s := k.read()
			if s.Satisfies(want) {
				t.Error("not seen")
			}
			lost := s.Missing(want)
			if c.lost == "" && len(lost) > 0 || c.lost != "" && (len(lost) == 0 || !strings.HasPrefix(lost[0], c.lost)) {
				t.Errorf("missing: %q, wanted %q", lost, c.lost)
			}
			if len(s.Commands(want)) == 0 {
				t.Error("no commands to mend it")
			}
			k.write(want)
		})
	}
}

// dormant sets the flag that switches the table off; the library cannot.
func (k *kernel) dormant() {
	k.t.Helper()
	k.nft("add table inet multiroute { flags dormant; }")
}

// nft runs nft(8) in the namespace with the given input.
func (k *kernel) nft(input string, args ...string) string {
	k.t.Helper()
	needNFT(k.t)
	if len(args) == 0 {
		args = []string{"-f", "-"}
	}
	cmd := exec.Command("nft", args...)
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	if err := k.ns.Start(cmd); err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		k.t.Fatalf("nft %v: %v\n%s\ninput:\n%s", args, err, out.String(), input)
	}
	return out.String()
}

// needNFT skips without nft(8); the CI must have it.
func needNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func TestKernelDelete(t *testing.T) {
	k := newKernel(t)
	other := k.foreign.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
	k.flush()
	for range 2 { // the second time there is none
		if err := k.table.Delete(); err != nil {
			t.Fatal(err)
		}
		if s := k.read(); s.Exists {
			t.Error("the table is still there")
		}
		k.write(Compile(separate()))
	}
	if err := k.table.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := k.table.Delete(); err != nil {
		t.Fatal(err)
	}
	tables, err := k.foreign.ListTables()
	if err != nil || len(tables) != 1 || tables[0].Name != other.Name {
		t.Errorf("tables left: %v, %v", tables, err)
	}
}

// TestKernelOtherTables: chains and rules of other tables with our chains'
// names, and a table of our name in another family, are none of ours.
func TestKernelOtherTables(t *testing.T) {
	k := newKernel(t)
	want := Compile(separate())
	k.write(want)
	for _, table := range []*nftables.Table{{Name: "theirs", Family: nftables.TableFamilyINet}, {Name: TableName, Family: nftables.TableFamilyIPv4}} {
		k.foreign.AddTable(table)
		for _, name := range []string{"guard", "extra"} {
			c := k.foreign.AddChain(&nftables.Chain{Name: name, Table: table})
			k.foreign.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Counter{}}})
		}
	}
	k.flush()
	if s := k.read(); !s.Satisfies(want) {
		t.Errorf("missing: %v", s.Missing(want))
	}
	if err := k.table.Delete(); err != nil {
		t.Fatal(err)
	}
	if tables, err := k.foreign.ListTables(); err != nil || len(tables) != 2 {
		t.Errorf("tables left: %v, %v", tables, err)
	}
	if s := k.read(); s.Exists {
		t.Error("a table of another family passes for ours")
	}
}

// TestKernelStale: Write with what was read before somebody's change fails or
// does the right thing after reading again.
func TestKernelStale(t *testing.T) {
	k := newKernel(t)
	want := Compile(separate())
	k.write(want)
	stale := k.read()
	k.foreign.DelTable(ourTable())
	k.flush()
	other := Compile(changed(separate(), func(s *Spec) { s.Guard = false }))
	err := k.tryWrite(stale, other)
	if err == nil {
		t.Error("writing a difference to what is not there succeeded")
	}
	if s := k.read(); s.Exists {
		t.Errorf("half a transaction is in force (%v): chains %q", err, s.Chains())
	}
	k.write(other)
}

// TestKernelLearn: a restarted agent learns ids, names and interfaces from the
// kernel, whoever else commented rules.
func TestKernelLearn(t *testing.T) {
	k := newKernel(t)
	k.write(Compile(separate()))
	k.foreign.AddRule(&nftables.Rule{Table: ourTable(), Chain: &nftables.Chain{Name: "mark-1-dsl", Table: ourTable()}, Exprs: []expr.Any{&expr.Counter{}},
		UserData: userdata.AppendString(nil, userdata.TypeComment, "a foreign comment")})
	k.flush()
	s := k.read()
	var got []string
	for _, u := range s.Uplinks() {
		got = append(got, fmt.Sprintf("%d %s %s", u.ID, u.Name, u.Interface))
	}
	for _, p := range s.Policies() {
		got = append(got, fmt.Sprintf("%d %s", p.ID, p.Name))
	}
	if want := []string{"1 dsl eth1", "2 cable eth2", "9 default"}; !slices.Equal(got, want) {
		t.Errorf("learnt %q, wanted %q", got, want)
	}
}

// TestKernelWatch: foreign transactions are reported, ours are not.
func TestKernelWatch(t *testing.T) {
	k := newKernel(t)
	var calls atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	started := make(chan struct{}, 1000)
	filled := make(chan string, 1000)
	go func() {
		done <- k.ns.Do(func() error {
			return Watch(ctx, func() { calls.Add(1); started <- struct{}{} }, func(set string) { filled <- set })
		})
	}()
	<-started // once at the start
	k.write(Compile(separate()))
	k.write(Compile(changed(separate(), forwards)))
	spec := ruleSpec()
	spec.Lists = testLists
	k.write(Compile(spec))
	// What programs put into dynamic sets is nothing to look at, either.
	k.nft("add element inet multiroute domain-x4 { 203.0.113.1 }")
	k.nft("flush set inet multiroute domain-x4")
	for range 2 {
		select {
		case set := <-filled:
			if set != "domain-x4" {
				t.Errorf("filled: %s", set)
			}
		case <-time.After(2 * time.Second):
			t.Error("nobody said that a set was filled")
		}
	}
	if err := k.table.Delete(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls for our own transactions", n-1)
	}
	k.nft("add table inet theirs") // another process
	select {
	case <-started:
	case <-time.After(2 * time.Second):
		t.Error("a foreign transaction was not reported")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKernelRandom: from any state to any other in one transaction.
func TestKernelRandom(t *testing.T) {
	k := newKernel(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		want := Compile(randomSpec(rng))
		if err := k.tryWrite(k.read(), want); err != nil {
			t.Fatalf("round %d: %v\n%s", i, err, want)
		}
		if s := k.read(); !s.Satisfies(want) {
			t.Fatalf("round %d: missing %v", i, s.Missing(want))
		}
	}
}
