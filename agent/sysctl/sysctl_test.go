package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kernel is a folder that stands for /proc/sys.
type kernel struct {
	Store
	t *testing.T
}

func newKernel(t *testing.T, values map[string]string) kernel {
	t.Helper()
	k := kernel{Store{Root: t.TempDir(), Saved: filepath.Join(t.TempDir(), "sysctl.json")}, t}
	for key, v := range values {
		if err := os.MkdirAll(filepath.Dir(k.path(key)), 0o755); err != nil {
			t.Fatal(err)
		}
		k.set(key, v)
	}
	return k
}

func (k kernel) set(key, v string) {
	k.t.Helper()
	if err := os.WriteFile(k.path(key), []byte(v+"\n"), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

// want compares what the kernel holds; values are written without newline.
func (k kernel) want(values map[string]string) {
	k.t.Helper()
	got := map[string]string{}
	for key := range values {
		v, err := k.read(key)
		if err != nil {
			v = "missing"
		}
		got[key] = v
	}
	if diff := cmp.Diff(values, got); diff != "" {
		k.t.Errorf("(-want +got)\n%s", diff)
	}
}

// apply checks, corrects, and returns the deviations that were found.
func (k kernel) apply(settings ...Setting) []Deviation {
	k.t.Helper()
	wrong, err := k.Check(settings)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.Apply(wrong); err != nil {
		k.t.Fatal(err)
	}
	return wrong
}

func (k kernel) restore() {
	k.t.Helper()
	if err := k.Restore(); err != nil {
		k.t.Fatal(err)
	}
	if _, err := os.Stat(k.Saved); !errors.Is(err, fs.ErrNotExist) {
		k.t.Errorf("the saved values are still there: %v", err)
	}
}

const (
	forward  = "net/ipv4/ip_forward"
	forward1 = "net/ipv4/conf/eth1/forwarding"
	filter   = "net/ipv4/conf/eth0.100/rp_filter"
	ra       = "net/ipv6/conf/eth1/accept_ra"
)

func TestApplyAndRestore(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", filter: "1"})
	settings := []Setting{{Key: filter, Value: "2"}, {Key: forward, Value: "1"}}
	wrong := k.apply(settings...)
	if len(wrong) != 2 || wrong[0].String() != "sysctl net.ipv4.conf.eth0.100.rp_filter is 1, needed is 2" {
		t.Errorf("deviations %v", wrong)
	}
	k.want(map[string]string{forward: "1", filter: "2"})
	if wrong := k.apply(settings...); len(wrong) != 0 {
		t.Errorf("a second time: %v", wrong)
	}
	// Somebody changes one: it is corrected, and the first value is the one
	// that comes back.
	k.set(filter, "0")
	if wrong := k.apply(settings...); len(wrong) != 1 || wrong[0].Have != "0" {
		t.Errorf("after a change: %v", wrong)
	}
	k.restore()
	k.want(map[string]string{forward: "0", filter: "1"})
}

func TestNothingToDoTouchesNothing(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "1"})
	k.apply(Setting{Key: forward, Value: "1"})
	if _, err := os.Stat(k.Saved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written: %v", err)
	}
	k.restore()
	k.want(map[string]string{forward: "1"})
}

func TestFrom(t *testing.T) {
	t.Parallel()
	for have, want := range map[string]string{"0": "0", "1": "2", "2": "2"} {
		k := newKernel(t, map[string]string{ra: have})
		k.apply(Setting{Key: ra, Value: "2", From: "1"})
		k.want(map[string]string{ra: want})
		k.restore()
		k.want(map[string]string{ra: have})
	}
}

// Writing ip_forward overwrites forwarding of every interface.
func TestImplied(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", forward1: "1"})
	k.apply(Setting{Key: forward, Value: "1", Implied: []string{forward1, "net/ipv4/conf/gone/forwarding"}})
	k.set(forward1, "1") // what the kernel does
	// So does writing it back: the interface's own value has to come after.
	k.restore()
	k.want(map[string]string{forward: "0", forward1: "1"})

	k = newKernel(t, map[string]string{forward: "0", forward1: "0"})
	k.apply(Setting{Key: forward, Value: "1", Implied: []string{forward1}})
	k.set(forward1, "1")
	k.restore()
	k.want(map[string]string{forward: "0", forward1: "0"})
}

func TestRestoreOrder(t *testing.T) {
	t.Parallel()
	keys := []string{"net/ipv4/conf/eth1/forwarding", "net/ipv4/conf/default/forwarding", "net/ipv4/conf/all/forwarding", forward}
	for i, a := range keys {
		for _, b := range keys[:i] {
			if rank(a) > rank(b) {
				t.Errorf("%s is put back after %s", a, b)
			}
		}
	}
}

// What does not exist is nobody's fault: not in Check, not between Check and
// Apply, not in Restore. An interface that is new in between is found later.
func TestMissing(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", filter: "1"})
	settings := []Setting{{Key: ra, Value: "2"}, {Key: filter, Value: "2"}, {Key: forward, Value: "1"}}
	wrong, err := k.Check(settings)
	if err != nil || len(wrong) != 2 {
		t.Fatalf("%v, %v", wrong, err)
	}
	if err := os.Remove(k.path(filter)); err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(wrong); err != nil {
		t.Fatal(err)
	}
	k.want(map[string]string{forward: "1", filter: "missing"})
	k.set(filter, "1")
	k.apply(settings...)
	k.want(map[string]string{forward: "1", filter: "2"})
	if err := os.Remove(k.path(filter)); err != nil {
		t.Fatal(err)
	}
	k.restore()
	k.want(map[string]string{forward: "0", filter: "missing"})
}

// A store that takes over another's first values puts those back, and no later
// ones.
func TestAdopt(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", filter: "1", ra: "1"})
	k.apply(Setting{Key: forward, Value: "1"}, Setting{Key: filter, Value: "2"})
	next := kernel{Store{Root: k.Root, Saved: filepath.Join(t.TempDir(), "sysctl.json")}, t}
	next.set(filter, "0")
	next.apply(Setting{Key: filter, Value: "2"}, Setting{Key: ra, Value: "2"})
	for range 2 { // the second time there is nothing left to take
		if err := next.Adopt(k.Store); err != nil {
			t.Fatal(err)
		}
	}
	if err := next.Adopt(next.Store); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.Saved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	next.restore()
	next.want(map[string]string{forward: "0", filter: "1", ra: "1"})
}

// Nothing is overwritten whose first value could not be saved.
func TestSavedBeforeOverwritten(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0"})
	k.Saved = filepath.Join(t.TempDir(), "missing", "sysctl.json")
	wrong, err := k.Check([]Setting{{Key: forward, Value: "1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(wrong); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	k.want(map[string]string{forward: "0"})
}

// After a crash in the middle (here: a parameter that cannot be written) the
// others are set, and everything that was changed can be put back.
func TestCrash(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", filter: "1", ra: "1"})
	settings := []Setting{{Key: filter, Value: "2"}, {Key: ra, Value: "2"}, {Key: forward, Value: "1"}}
	wrong, err := k.Check(settings)
	if err != nil {
		t.Fatal(err)
	}
	// A folder in its place can be read by nobody, so it fails after Check.
	broken := append([]Deviation{}, wrong...)
	if err := os.Remove(k.path(ra)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(k.path(ra), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(broken); err == nil {
		t.Error("no error")
	}
	k.want(map[string]string{filter: "1", forward: "0"}) // not even saved: nothing written

	if err := os.Remove(k.path(ra)); err != nil {
		t.Fatal(err)
	}
	k.set(ra, "1")
	// Dies after the first write: a new process knows only the file.
	if err := k.Apply(wrong[:1]); err != nil {
		t.Fatal(err)
	}
	next := kernel{Store{Root: k.Root, Saved: k.Saved}, t}
	next.apply(settings...)
	next.want(map[string]string{filter: "2", ra: "2", forward: "1"})
	next.restore()
	next.want(map[string]string{filter: "1", ra: "1", forward: "0"})
}

// A parameter that the kernel refuses does not keep the others from being set.
func TestWriteError(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0", filter: "1"})
	wrong := []Deviation{{Setting{Key: filter, Value: "2"}, "1"}, {Setting{Key: forward, Value: "1"}, "0"}}
	if err := os.Chmod(k.path(filter), 0o444); err != nil {
		t.Fatal(err)
	}
	err := k.Apply(wrong)
	if os.Geteuid() != 0 && !errors.Is(err, fs.ErrPermission) { // root may write anything
		t.Errorf("got %v", err)
	}
	k.want(map[string]string{forward: "1"})
}

func TestDamagedSavedFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", "null", `{"key": 1}`, "\x00\x00"} {
		k := newKernel(t, map[string]string{forward: "0"})
		if err := os.WriteFile(k.Saved, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k.apply(Setting{Key: forward, Value: "1"})
		k.want(map[string]string{forward: "1"})
		k.restore()
		k.want(map[string]string{forward: "0"})
	}
}

// A saved file leads nowhere but to net/, whatever somebody wrote into it.
func TestTraversal(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{"kernel/core_pattern": "core", "net/x": "0", "net/ipv4/conf/a..b/rp_filter": "1"})
	outside := filepath.Join(filepath.Dir(k.Root), "outside")
	if err := os.WriteFile(outside, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	saved := `[{"key":"kernel/core_pattern","value":"evil"},{"key":"net/../kernel/core_pattern","value":"evil"},
		{"key":"net/../../outside","value":"evil"},{"key":"/net/x","value":"evil"},{"key":"net","value":"evil"},
		{"key":"net/./x","value":"evil"},{"key":"net/ipv4/conf/a..b/rp_filter","value":"2"}]`
	if err := os.WriteFile(k.Saved, []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	k.restore()
	k.want(map[string]string{"kernel/core_pattern": "core", "net/x": "0", "net/ipv4/conf/a..b/rp_filter": "2"})
	if b, err := os.ReadFile(outside); err != nil || string(b) != "0" {
		t.Errorf("outside: %q, %v", b, err)
	}
}

func TestErrorsAreKept(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward: "0"})
	if err := os.Mkdir(k.path("net/ipv4/odd"), 0o755); err != nil {
		t.Fatal(err)
	}
	wrong, err := k.Check([]Setting{{Key: "net/ipv4/odd", Value: "1"}, {Key: forward, Value: "1"}})
	if err == nil || !strings.Contains(err.Error(), "odd") || len(wrong) != 1 {
		t.Errorf("%v, %v", wrong, err)
	}
	k.Saved = k.Root // a folder
	if err := k.Restore(); err == nil {
		t.Error("no error")
	}
}

// A link stands for what the kernel does: writing the global switch overwrites
// the interface's. Whatever the order in which they were saved, the interface's
// own value is what stays.
func TestRestoreGlobalFirst(t *testing.T) {
	t.Parallel()
	k := newKernel(t, map[string]string{forward1: "1"})
	if err := os.Symlink(k.path(forward1), k.path(forward)); err != nil {
		t.Fatal(err)
	}
	saved := `[{"key":"` + forward1 + `","value":"1"},{"key":"` + forward + `","value":"0"}]`
	if err := os.WriteFile(k.Saved, []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	k.restore()
	k.want(map[string]string{forward1: "1"})
}

// TestNeeds: an older kernel gets the value that it knows.
func TestNeeds(t *testing.T) {
	t.Parallel()
	want := []Setting{{Key: "net/ipv6/fib_multipath_hash_policy", Value: "3", Needs: "net/ipv6/fib_multipath_hash_fields", Else: "1"}}
	for value, present := range map[string]map[string]string{
		"1": {"net/ipv6/fib_multipath_hash_policy": "0"},
		"3": {"net/ipv6/fib_multipath_hash_policy": "0", "net/ipv6/fib_multipath_hash_fields": "0"},
	} {
		k := newKernel(t, present)
		wrong, err := k.Check(want)
		if err != nil || len(wrong) != 1 {
			t.Fatal(wrong, err)
		}
		if err := k.Apply(wrong); err != nil {
			t.Fatal(err)
		}
		k.want(map[string]string{"net/ipv6/fib_multipath_hash_policy": value})
		if wrong, err := k.Check(want); err != nil || len(wrong) != 0 {
			t.Errorf("not content: %v, %v", wrong, err)
		}
	}
}
