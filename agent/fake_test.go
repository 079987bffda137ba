package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// errKernel is what a call of the fake kernel fails with.
var errKernel = errors.New("the kernel said no")

// fake is a kernel in memory. It does what the real one does with what the
// agent writes, and remembers each call.
type fake struct {
	facts    routes.Facts
	have     routes.Spec
	state    nat.State
	entries  []conntrack.Entry
	inside   []netip.Prefix
	counts   map[string]nat.Count // in the rules' counters
	calls    []string             // everything that was asked, in order
	writes   []string             // those that change something
	deleted  []uint32             // marks
	bound    []conntrack.MarkUpdate
	ended    []conntrack.Entry
	failAt   int // fail the call with this number, counted from 1; 0: none
	failWith func(call string) bool
	refuse   func(call string) bool // because of a single uplink
	forward  func() string          // reads ip_forward
	met      sync.Mutex
}

// meet orders what a test did before what the loop does next: synctest lets
// them take turns, but the race detector sees only one direction of that.
func (k *fake) meet() {
	k.met.Lock()
	defer k.met.Unlock()
}

var (
	_ router  = &fake{}
	_ table   = fakeTable{}
	_ tracker = &fake{}
)

// call notes a call and says whether it fails.
func (k *fake) call(write bool, format string, args ...any) error {
	k.met.Lock() // those who count have the same
	defer k.met.Unlock()
	text := fmt.Sprintf(format, args...)
	k.calls = append(k.calls, text)
	if len(k.calls) == k.failAt || k.failWith != nil && k.failWith(text) {
		return fmt.Errorf("%s: %w", text, errKernel)
	}
	if write {
		k.writes = append(k.writes, text)
	}
	return nil
}

func (k *fake) Facts() (routes.Facts, error) { return k.facts, k.call(false, "facts") }

func (k *fake) Read() (routes.Spec, error) {
	return routes.Spec{Rules: slices.Clone(k.have.Rules), Routes: slices.Clone(k.have.Routes)}, k.call(false, "read routes")
}

func (k *fake) Apply(ops []routes.Op) error {
	var errs []error
	for _, op := range ops {
		if k.refuse != nil && k.refuse(op.String()) {
			errs = append(errs, routes.RefusedError{Err: fmt.Errorf("%s: %w", op, errKernel)})
			continue
		}
		if err := k.call(true, "%s", op); err != nil {
			errs = append(errs, err)
			continue
		}
		same := func(r routes.Route) bool {
			return r.Family == op.Route.Family && r.Table == op.Route.Table && r.Dst == op.Route.Dst && r.Metric == op.Route.Metric
		}
		switch {
		case op.Rule != nil && op.Verb == routes.Add:
			k.have.Rules = append(k.have.Rules, *op.Rule)
		case op.Rule != nil:
			i := slices.Index(k.have.Rules, *op.Rule)
			k.have.Rules = slices.Delete(k.have.Rules, i, i+1)
		default:
			k.have.Routes = slices.DeleteFunc(k.have.Routes, same)
			if op.Verb == routes.Replace {
				k.have.Routes = append(k.have.Routes, *op.Route)
			}
		}
	}
	return errors.Join(errs...)
}

// after lets time pass for a loop in a bubble.
func (r *rig) after(d time.Duration) {
	r.k.meet()
	time.Sleep(d)
	synctest.Wait()
}

func (k *fake) MainPrefixes() ([]netip.Prefix, error) { return k.inside, k.call(false, "prefixes") }

// fakeTable is the nftables side of a fake, whose Read is another one.
type fakeTable struct{ *fake }

func (t fakeTable) Read() (nat.State, error) { return t.state, t.call(false, "read nft") }

func (t fakeTable) Counters() (map[string]nat.Count, error) {
	return maps.Clone(t.counts), t.call(false, "count bytes")
}

func (fakeTable) ForeignUpTo(uint32) (*nat.Foreign, error) { return &nat.Foreign{}, nil }

func (t fakeTable) Write(_ nat.State, want nat.Ruleset) error {
	var uplinks []string
	for _, c := range want.Chains {
		if name, ok := strings.CutPrefix(c.Name, "mark-"); ok {
			uplinks = append(uplinks, name)
		}
	}
	if err := t.call(true, "nft %s, ip_forward is %s", strings.Join(uplinks, " "), t.forward()); err != nil {
		return err
	}
	t.state = want.State()
	return nil
}

func (k *fake) DeleteByMark(mark, mask uint32, family uint8) error {
	of := ""
	if family != conntrack.FamilyAny {
		of = fmt.Sprintf(" of family %d", family)
	}
	if err := k.call(true, "delete connections %#x/%#x%s, ip_forward is %s", mark, mask, of, k.forward()); err != nil {
		return err
	}
	k.deleted = append(k.deleted, mark)
	return nil
}

func (k *fake) DeleteOutgoing(mark, mask uint32, family uint8) error {
	return k.call(true, "delete outgoing connections %#x/%#x of family %d", mark, mask, family)
}

func (k *fake) CountByMark(uint32) (map[uint32]int, error) {
	return map[uint32]int{0x01000000: 7}, k.call(false, "count")
}

func (k *fake) Each(f conntrack.Filter, each func(conntrack.Entry) error) error {
	if err := k.call(false, "list connections %#x/%#x, ip_forward is %s", f.Mark, f.Mask, k.forward()); err != nil {
		return err
	}
	for _, e := range k.entries {
		if e.Mark&f.Mask == f.Mark {
			if err := each(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *fake) SetMarks(u []conntrack.MarkUpdate) (int, error) {
	if err := k.call(len(u) > 0, "bind %d", len(u)); err != nil {
		return 0, err
	}
	k.bound = append(k.bound, u...)
	return len(u), nil
}

func (k *fake) DeleteAll(e []conntrack.Entry) (int, error) {
	if err := k.call(len(e) > 0, "delete %d", len(e)); err != nil {
		return 0, err
	}
	k.ended = append(k.ended, e...)
	return len(e), nil
}

// rig is a daemon with a fake kernel and a configuration file.
type rig struct {
	*daemon
	k    *fake
	log  *logbook
	path string
	t    testing.TB
	now  time.Time

	signals chan os.Signal // where a loop runs
}

const twoUplinks = `
[router]
lan = ["eth0"]

[uplink.a]
interface = "eth1"
gateway = "192.0.2.1"
gateway6 = "off"

[uplink.b]
interface = "eth2"
gateway = "198.51.100.1"
gateway6 = "off"
`

const onlyB = `
[router]
lan = ["eth0"]

[uplink.b]
interface = "eth2"
gateway = "198.51.100.1"
gateway6 = "off"
`

const (
	markA = 0x01000000
	markB = 0x02000000
)

// newRig makes a daemon that has not started.
func newRig(t testing.TB, cfg string) *rig {
	t.Helper()
	k := &fake{facts: routes.Facts{NoIPv6: true}}
	for i, p := range []string{"192.168.0.1/24", "192.0.2.9/24", "198.51.100.9/24"} {
		k.facts.Links = append(k.facts.Links, routes.Link{Name: fmt.Sprintf("eth%d", i), Index: i + 2, Up: true, Carrier: true})
		k.facts.Addrs = append(k.facts.Addrs, routes.Addr{Index: i + 2, Prefix: netip.MustParsePrefix(p), Global: true, Usable: true})
	}
	r := &rig{k: k, log: &logbook{}, path: filepath.Join(t.TempDir(), "agent.toml"), t: t, now: time.Now()}
	r.write(cfg)
	store := sysctl.Store{Root: t.TempDir(), Saved: filepath.Join(t.TempDir(), "sysctl.json")}
	proc := func(key string) string { return filepath.Join(store.Root, key) }
	k.forward = func() string { b, _ := os.ReadFile(proc("net/ipv4/ip_forward")); return strings.TrimSpace(string(b)) }
	c := r.load()
	for _, s := range plan.Make(plan.Input{Config: c, Facts: k.facts, IDs: plan.Assign(plan.IDs{}, c)}).Sysctls {
		if err := errors.Join(os.MkdirAll(filepath.Dir(proc(s.Key)), 0o755), os.WriteFile(proc(s.Key), []byte("0\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	r.daemon = newDaemon(Options{Config: r.path, Version: "test", Log: log}, k, fakeTable{k}, k, store)
	return r
}

// started makes a daemon that holds the configuration, with an empty log of
// calls.
func started(t testing.TB, cfg string) *rig {
	t.Helper()
	r := newRig(t, cfg)
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.forget()
	return r
}

func (r *rig) write(cfg string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(cfg), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// dropIn writes a file beside the main one.
func (r *rig) dropIn(name, text string) {
	r.t.Helper()
	dir := strings.TrimSuffix(r.path, ".toml") + ".d"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) load() *config.Config {
	r.t.Helper()
	c, err := config.Load(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// forget empties the logs.
func (r *rig) forget() {
	r.k.calls, r.k.writes, r.k.deleted, r.k.bound, r.k.ended = nil, nil, nil, nil, nil
	r.log.take()
}

// mustPass runs one pass, d after the one before.
func (r *rig) mustPass(d time.Duration) {
	r.t.Helper()
	r.now = r.now.Add(d)
	if err := r.pass(r.now); err != nil {
		r.t.Fatal(err)
	}
}

// carrier plugs a cable in or out.
func (r *rig) carrier(name string, on bool) { r.k.facts.Link(name).Carrier = on }

// holds fails the test unless the kernel holds exactly what is wanted.
func (r *rig) holds() {
	r.t.Helper()
	p := plan.Make(plan.Input{Config: r.cfg, Facts: r.k.facts, IDs: r.ids, Ports: r.ports})
	for _, op := range routes.Diff(r.k.have, p.Routes) {
		r.t.Errorf("the kernel needs: %s", op)
	}
	for _, c := range r.k.state.Commands(nat.Compile(p.NAT)) {
		r.t.Errorf("the kernel needs: nft %s", c)
	}
	wrong, err := r.sysctl.Check(p.Sysctls)
	if len(wrong) > 0 || err != nil {
		r.t.Errorf("sysctls: %v, %v", wrong, err)
	}
}

// wrote compares what was written since forget.
func (r *rig) wrote(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.k.writes, want) {
		r.t.Errorf("wrote:\n  %s\nwant:\n  %s", strings.Join(r.k.writes, "\n  "), strings.Join(want, "\n  "))
	}
}

// logbook collects log lines.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns and forgets what was logged.
func (l *logbook) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}
