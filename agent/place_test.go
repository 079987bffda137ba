package agent

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"multiroute/agent/domains"
	"multiroute/agent/keep"
	"multiroute/agent/plan"
	"multiroute/nat"
)

// What an agent writes down is found in the kernel by the next.
func TestPlaceIsNoted(t *testing.T) {
	t.Parallel()
	for _, p := range []place{{socket: "/run/multiroute/agent.sock"}, {"/run/a b/agent.sock", "/etc/multiroute/state"}} {
		r := newRig(t, twoUplinks)
		r.notes = p.notes()
		if err := r.start(r.load()); err != nil {
			t.Fatal(err)
		}
		if got, moved, err := predecessor(r.table, p); err != nil || got != p || moved {
			t.Errorf("%+v: found %+v, moved: %t, %v", p, got, moved, err)
		}
		if got, moved, err := predecessor(r.table, place{socket: "/run/other"}); err != nil || got != p || !moved {
			t.Errorf("%+v: found %+v, moved: %t, %v", p, got, moved, err)
		}
		r.forget()
		r.mustPass(time.Second)
		r.wrote()
	}
	for _, notes := range [][]string{nil, {"socket agent.sock"}, {"state /var/lib/multiroute"}, {"something", "socket"}} {
		if p, ok := noted(nat.Compile(nat.Spec{Notes: notes}).State()); ok {
			t.Errorf("%q: found %+v", notes, p)
		}
	}
}

// An agent at another place takes over what the one before knew, and leaves
// nothing there.
func TestPlaceInherited(t *testing.T) {
	t.Parallel()
	before, at := place{socket: filepath.Join(t.TempDir(), "agent.sock")}, place{socket: filepath.Join(t.TempDir(), "agent.sock")}
	l, err := net.Listen("unix", before.socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it has crashed
	foreign := filepath.Join(before.folder(), resolvFile)
	if err := errors.Join(l.Close(), os.WriteFile(foreign, []byte("nameserver 192.0.2.1\n"), 0o600),
		writeOwn(filepath.Join(before.folder(), dnsmasqFile), domains.Header), os.WriteFile(before.confirmed(), nil, 0o600),
		keep.Save(before.memory(), memory{IDs: plan.IDs{Uplinks: map[string]int{"a": 7}}, Disabled: map[string]time.Time{"a": {}}}),
		keep.Save(before.sysctls().Saved, []map[string]string{{"key": "net/ipv4/ip_forward", "value": "0"}})); err != nil {
		t.Fatal(err)
	}
	if err := at.inherit(before); err != nil {
		t.Fatal(err)
	}
	if m, err := recall(at.memory()); err != nil || m.IDs.Uplinks["a"] != 7 || len(m.Disabled) != 1 || !at.kept() || before.kept() {
		t.Errorf("recalled %+v, %v; first values: %t, before: %t", m, err, at.kept(), before.kept())
	}
	if err := before.leave(at); err != nil {
		t.Error(err)
	}
	for _, path := range before.files() {
		if _, err := os.Lstat(path); path == foreign && err != nil || path != foreign && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// The same socket: only the other folder's file goes.
	if err := (place{at.socket, t.TempDir()}).leave(at); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(at.memory()); err != nil {
		t.Error(err)
	}
}
