package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"multiroute/agent/plan"
)

// reserve stands for "sysctl -w net.ipv4.ip_local_reserved_ports=".
func (r *rig) reserve(list string) {
	r.t.Helper()
	path := filepath.Join(r.sysctl.Root, "net/ipv4/ip_local_reserved_ports")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(list+"\n"), 0o600)); err != nil {
		r.t.Fatal(err)
	}
}

// TestReservedPorts: ports that somebody reserves are services from the next
// look on; the rules change, nothing else, and nothing before that.
func TestReservedPorts(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks)
	r.reserve("40000")
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	protects := func(ports string) {
		t.Helper()
		r.holds()
		rules := r.ruleset.String()
		for _, one := range []string{"0-32767", ports} {
			if !strings.Contains(rules, "th sport "+one+" meta l4proto") {
				t.Errorf("%s are not protected:\n%s", one, rules)
			}
		}
	}
	protects("{ 40000, 51820 }")
	r.forget()
	write := "nft 1-a 2-b, ip_forward is 1"
	for _, c := range []struct {
		what, list, ports string
		see               func()
		writes            []string
	}{
		{"the same", "40000", "{ 40000, 51820 }", func() { r.mustPass(resync) }, nil},
		{"one more", "40000,51821", "{ 40000, 51820-51821 }", func() { r.mustPass(resync) }, []string{write}},
		{"others, by a reload", "51821,52000-52003", "{ 51820-51821, 52000-52003 }", func() {
			if _, err := r.reload(0); err != nil {
				t.Error(err)
			}
		}, []string{write}},
		{"one of the known", "53,51821,52000-52003", "{ 51820-51821, 52000-52003 }", func() { r.mustPass(resync) }, nil},
		{"none", "", "51820", func() { r.mustPass(resync) }, []string{write}},
	} {
		r.reserve(c.list)
		c.see()
		t.Log(c.what)
		r.wrote(c.writes...)
		protects(c.ports)
		r.forget()
		r.mustPass(resync)
		r.wrote()
	}
}

// Nobody tells the loop of them.
func TestLoopReservedPorts(t *testing.T) {
	t.Parallel()
	running(t, func(t *testing.T, r *rig) {
		for list, ports := range map[string]string{"40000": "{ 40000, 51820 }", "40000,51821": "{ 40000, 51820-51821 }"} {
			r.reserve(list)
			r.after(reread + gap)
			r.holds()
			if !strings.Contains(r.ruleset.String(), "th sport "+ports+" meta l4proto") {
				t.Errorf("%s are not protected:\n%s", ports, r.ruleset)
			}
		}
	})
}

// What cannot be read is said once, changes nothing, and holds nothing up.
func TestReservedPortsUnread(t *testing.T) {
	t.Parallel()
	r := newRig(t, twoUplinks)
	r.reserve("40000")
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.forget()
	r.reserve("what")
	r.mustPass(resync)
	r.mustPass(resync)
	r.wrote()
	const warning = "the ports of the router's own services are not all known: sysctl net.ipv4.ip_local_reserved_ports"
	if w := r.plan.Warnings; len(w) != 1 || !strings.HasPrefix(w[0], warning) {
		t.Errorf("warnings %q", w)
	}
	if log := r.log.take(); strings.Count(log, warning) != 1 {
		t.Errorf("log:\n%s", log)
	}
	r.carrier("eth1", false)
	r.mustPass(time.Second)
	if len(r.k.writes) == 0 {
		t.Error("a failover waits for it")
	}
	r.reserve("40000")
	r.mustPass(resync)
	if len(r.plan.Warnings) > 0 {
		t.Errorf("warnings %q", r.plan.Warnings)
	}
}

// TestPreviewReservedPorts: "agent plan" and "agent show" know them without a
// daemon, too.
func TestPreviewReservedPorts(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.reserve("40000")
	p, err := look(r.path, r.k, fakeTable{r.k}, r.sysctl, plan.Input{IDs: r.ids})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.commands(); !strings.Contains(got, "th sport { 40000, 51820 }") {
		t.Errorf("plan:\n%s", got)
	}
	r.wrote()
}
