package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestHooks: programs hear of every change in order, find the routes changed
// already, and hold up nobody; a new agent does not tell again what the last one
// told.
func TestHooks(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	script := func(name, text string) string {
		path := filepath.Join(h.Folder, name)
		must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
		return path
	}
	told := filepath.Join(h.Folder, "told")
	lines := func() []string {
		b, _ := os.ReadFile(told)
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	// A family may be there, or gone, before the other one: that is a change of its own (TestHooksByFamily).
	tell := script("tell", fmt.Sprintf(`[ -n "$FAMILY" ] || echo "$UPLINK $PREVIOUS>$STATE $CAUSE $INTERFACE $ADDRESSES" >> %s`, told))
	hang := script("hang", `while [ -e "$0" ]; do sleep 1; done`) // nobody ends the hooks of an agent that was killed
	h.start(ctx, rig.Config(h.Topology, nil)+fmt.Sprintf("\n[hooks]\non_change = [%q, %q]\nhook_timeout = \"2s\"\n", tell, hang))
	a := h.Uplinks[0]
	addresses := a.Address.Addr().String() + " " + a.Address6.Addr().String()
	h.until(5*time.Second, "both uplinks at the start", func() bool { return len(lines()) == 2 })

	for range 2 { // while the hooks of the change before hang
		must(t, a.Carrier(false))
		h.becomes(ctx, a, api.Down, time.Second)
		must(t, a.Carrier(true))
		h.becomes(ctx, a, api.Up, 5*time.Second)
	}
	h.until(40*time.Second, "all changes are told", func() bool { return len(lines()) == 6 })
	var got []string
	for _, line := range lines() {
		if strings.HasPrefix(line, a.Name+" ") {
			got = append(got, line)
		}
	}
	for i, want := range []string{">up start", "up>down link", "down>up recovered", "up>down link", "down>up recovered"} {
		if !strings.HasPrefix(got[i], a.Name+" "+want+" "+a.Interface+" ") {
			t.Errorf("change %d: %q, want %q", i, got[i], want)
		}
	}
	if !strings.HasSuffix(got[0], addresses) {
		t.Errorf("addresses: %q, want %q", got[0], addresses)
	}
	if !strings.Contains(h.Log(), "uplink change done") || !strings.Contains(h.Log(), "took too long") {
		t.Error("the log lacks the changes, or the hook that hangs")
	}

	h.until(10*time.Second, "it is known that they are told", func() bool {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(h.Socket()), "health.json"))
		return err == nil && !strings.Contains(string(b), tell)
	})
	if err := h.End(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	must(t, h.Run(ctx))
	must(t, a.Carrier(false))
	h.becomes(ctx, a, api.Down, time.Second)
	h.until(5*time.Second, "the next change", func() bool { return len(lines()) > 6 })
	if next := lines()[6]; !strings.HasPrefix(next, a.Name+" up>down link") || len(lines()) != 7 {
		t.Errorf("after a restart: %q", lines()[6:])
	}
}

// TestHooksOverRestart: an agent that ends right after a failover, with a hook at
// work and another behind it, leaves both to the next one.
func TestHooksOverRestart(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	path := func(name string) string { return filepath.Join(h.Folder, name) }
	script := func(name, text string) string {
		must(t, os.WriteFile(path(name), []byte("#!/bin/sh\ncd "+h.Folder+"\n"+text+"\n"), 0o700))
		return path(name)
	}
	read := func(name string) string { b, _ := os.ReadFile(path(name)); return string(b) }
	slow := script("slow", `[ $STATE = up ] || { : > begun; [ -e go ] || sleep 1000; echo $PREVIOUS $STATE >> slow-told; }`)
	quick := script("quick", `[ $STATE = up ] || echo $PREVIOUS $STATE >> quick-told`)
	h.start(ctx, rig.Config(h.Topology, nil)+fmt.Sprintf("\n[hooks]\non_change = [%q, %q]\nhook_timeout = \"1m\"\n", slow, quick))
	must(t, h.Uplinks[0].Carrier(false))
	h.until(10*time.Second, "the hook is at work", func() bool { _, err := os.Stat(path("begun")); return err == nil })
	must(t, h.End(syscall.SIGTERM))
	if read("slow-told")+read("quick-told") != "" {
		t.Error("told although the agent ended before")
	}
	must(t, os.WriteFile(path("go"), nil, 0o600))
	for range 2 { // the third has nothing to tell
		must(t, h.Run(ctx))
		h.until(10*time.Second, "both have heard", func() bool { return read("slow-told") == "up down\n" && read("quick-told") == "up down\n" })
		h.until(10*time.Second, "it is known that they have: who has not ended yet is told again", func() bool {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(h.Socket()), "health.json"))
			return err == nil && !strings.Contains(string(b), slow) && !strings.Contains(string(b), quick)
		})
		must(t, h.End(syscall.SIGTERM))
	}
	if got := read("slow-told") + read("quick-told"); got != "up down\nup down\n" {
		t.Errorf("told twice: %q", got)
	}
}

// TestHooksByFamily: an uplink that loses one family stays up, and the programs
// hear of that, too.
func TestHooksByFamily(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	told := filepath.Join(h.Folder, "told")
	tell := filepath.Join(h.Folder, "tell")
	must(t, os.WriteFile(tell, []byte(fmt.Sprintf("#!/bin/sh\n"+`echo "$UPLINK $PREVIOUS>$STATE $FAMILY $CAUSE" >> %s`+"\n", told)), 0o700))
	h.start(ctx, rig.Config(h.Topology, nil)+fmt.Sprintf("\n[hooks]\non_change = [%q]\n", tell))
	a := h.Uplinks[0]
	hears := func(line string) {
		h.until(10*time.Second, line, func() bool {
			b, _ := os.ReadFile(told)
			return strings.HasSuffix(string(b), line+"\n")
		})
	}
	must(t, h.Topology.Router.DelAddr(a.Interface, a.Address6))
	hears(a.Name + " up>up ipv6 link")
	must(t, h.Topology.Router.AddAddr(a.Interface, a.Address6))
	hears(a.Name + " up>up ipv6 recovered")
}
