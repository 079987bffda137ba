//go:build linux

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Trouble that people make: two agents, wrong configurations, missing rights,
// the end of the agent at any moment.

// ended runs a program in the router's namespace and asserts how it ends.
func (h *house) ended(what string, wantCode int, wantText string, args ...string) {
	h.t.Helper()
	out, errOut, code, err := h.Exec(h.Program, args...)
	if err != nil || code != wantCode || !strings.Contains(out+errOut, wantText) {
		h.t.Errorf("%s: exit %d, wanted %d and %q; %v\n%s%s", what, code, wantCode, wantText, err, out, errOut)
	}
}

// TestSecondAgent: one that is started by mistake says so and changes nothing.
func TestSecondAgent(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, []int{3, 1}))
	b := h.bystanders(ctx, h.Uplinks...)
	before := h.state(true)
	first := fmt.Sprintf("process %d", h.PID())
	h.ended("the same configuration", 1, first, "run", "--config", h.ConfigPath())

	// One of another configuration, with another socket.
	folder := filepath.Join(t.TempDir(), "other")
	if err := os.Mkdir(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	other := rig.New(h.Program, folder, h.Topology.Router)
	if err := other.Configure(rig.Config(h.Topology, []int{1, 9})); err != nil {
		t.Fatal(err)
	}
	h.ended("another configuration", 1, first, "run", "--config", other.ConfigPath())
	if _, err := os.Stat(other.Socket()); err == nil {
		t.Error("the second agent left a socket")
	}

	if now := h.state(true); now != before {
		t.Errorf("the second agent changed the kernel; before:\n%s\nnow:\n%s", before, now)
	}
	if s, err := h.Status(ctx); err != nil || s.PID != h.PID() || s.Drift.Repairs != 0 {
		t.Errorf("the first agent: %+v, %v", s, err)
	}
	h.unchanged()
	b.check()
}

// TestWrongConfigurationAtStart: nothing is in the kernel afterwards.
func TestWrongConfigurationAtStart(t *testing.T) {
	h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: true})
	foreign := h.state(false)
	for _, c := range []struct{ name, text, says string }{
		{"unknown key", rig.Config(h.Topology, nil, "[uplink.dsl.health]\nintervall = \"1s\"\n"), "agent.toml:"},
		{"no TOML", "[router\n", "agent.toml:1"},
		{"nothing", "", "uplink"},
		{"wrong type", rig.Config(h.Topology, nil) + "metered = 7\n", "metered"},
	} {
		h.configure(c.text)
		h.ended(c.name, 2, c.says, "run", "--config", h.ConfigPath())
		if left := strings.TrimSpace(h.state(true)); left != "" {
			t.Errorf("%s: in the kernel: %s", c.name, left)
		}
		if v, err := h.Topology.Router.ReadSysctl("net/ipv4/ip_forward"); err != nil || v != "0" {
			t.Errorf("%s: ip_forward is %s, %v", c.name, v, err)
		}
	}
	if now := h.state(false); now != foreign {
		t.Errorf("before:\n%s\nnow:\n%s", foreign, now)
	}
}

// TestWrongConfigurationAtReload: the old one stays in force, whoever asks for
// the new one, and the status says what is wrong with it.
func TestWrongConfigurationAtReload(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	good := rig.Config(h.Topology, []int{3, 1})
	h.start(ctx, good)
	before := h.state(true)
	b := h.bystanders(ctx, h.Uplinks...)
	wrong := rig.Config(h.Topology, []int{1, 9}) + "colour = \"red\"\n"
	refused := func(s api.Status) bool {
		return s.Config.Error != nil && strings.Contains(*s.Config.Error, "colour") && s.Config.Generation == 1
	}

	h.configure(wrong)
	if out, errOut, code, err := h.Command("reload"); err != nil || code != 2 || !strings.Contains(errOut, "colour") {
		t.Errorf("reload: exit %d, %v: %s%s", code, err, out, errOut)
	}
	if _, err := h.Wait(ctx, refused); err != nil {
		t.Error(err)
	}
	h.configure(good)
	if _, err := h.Reload(ctx); err != nil {
		t.Error(err)
	}
	if s, err := h.Status(ctx); err != nil || s.Config.Error != nil {
		t.Errorf("after a good reload: %+v, %v", s.Config, err)
	}

	h.configure(wrong)
	logged := len(h.Log())
	if err := h.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(ctx, refused); err != nil {
		t.Error(err)
	}
	h.until(5*time.Second, "SIGHUP's failure is in the log", func() bool { return strings.Contains(h.Log()[logged:], "colour") })
	if now := h.state(true); now != before {
		t.Errorf("before:\n%s\nnow:\n%s", before, now)
	}
	b.check()
}

// TestUnusableGateway: a gateway outside every subnet makes its uplink "down"
// with the reason, and nothing else; the other uplink carries all. So does one
// that is the router's own address.
func TestUnusableGateway(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	good := rig.Config(h.Topology, nil)
	h.start(ctx, good)
	b := h.bystanders(ctx, h.Uplinks[0])
	u := h.Uplinks[1]
	// See TestGatewayAuto.
	if err := h.Uplinks[0].Provider.Allow(netip.PrefixFrom(u.Address.Addr(), 32), netip.PrefixFrom(u.Address6.Addr(), 128)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, gateway, gateway6, says string }{
		{"outside every subnet", "203.0.113.1", "2001:db8:77::1", "203.0.113.1 is in no subnet"},
		{"the router's own", u.Address.Addr().String(), u.Address6.Addr().String(), "own address"},
	} {
		text := strings.NewReplacer(fmt.Sprintf("gateway = %q", u.Gateway), fmt.Sprintf("gateway = %q", c.gateway),
			fmt.Sprintf("gateway6 = %q", u.Gateway6), fmt.Sprintf("gateway6 = %q", c.gateway6)).Replace(good)
		h.follow(ctx, c.name, func() error { return h.Reconfigure(ctx, text) }, h.Uplinks[:1], h.Uplinks[:1])
		h.spread(ctx, c.name, h.Uplinks[:1], h.Uplinks[:1])
		s, err := h.Status(ctx)
		if err != nil || !strings.Contains(states(s), c.says) {
			t.Errorf("%s: %s, %v", c.name, states(s), err)
		}
	}
	h.follow(ctx, "right again", func() error { return h.Reconfigure(ctx, good) }, h.Uplinks, h.Uplinks)
	b.check()
	h.unchanged()
}

// TestKernelRefuses: the kernel does not take a new configuration; the old one
// is in force again.
func TestKernelRefuses(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	good := rig.Config(h.Topology, []int{3, 1})
	h.start(ctx, good)
	before := h.state(true)
	b := h.bystanders(ctx, h.Uplinks...)
	// An address that the kernel takes for its own although no interface has it:
	// no check of ours forbids it as a gateway, but the kernel does.
	u := h.Uplinks[1]
	local := lab.Route{Dst: netip.MustParsePrefix("203.0.113.255/32"), Interface: u.Interface, Type: unix.RTN_LOCAL}
	if err := h.Topology.Router.AddRoute(local); err != nil {
		t.Fatal(err)
	}
	h.configure(strings.Replace(good, fmt.Sprintf("gateway = %q", u.Gateway), "gateway = \"203.0.113.255 onlink\"", 1))
	out, errOut, code, err := h.Command("reload")
	if err != nil || code != 1 || !strings.Contains(errOut, "the kernel refused") {
		t.Errorf("reload: exit %d, %v: %s%s", code, err, out, errOut)
	}
	s, err := h.Status(ctx)
	if err != nil || s.Config.Error == nil || s.Config.Generation != 1 {
		t.Errorf("status: %+v, %v", s.Config, err)
	}
	if now := h.state(true); now != before {
		t.Errorf("before:\n%s\nnow:\n%s", before, now)
	}
	b.check()
	h.configure(good)
	h.unchanged()
}

// TestKernelRefusesAtStart: the kernel does not take one uplink's gateway when
// the agent is started; the others serve, and it does as soon as it is taken.
func TestKernelRefusesAtStart(t *testing.T) {
	for name, text := range map[string]func(*lab.Topology) string{
		"nothing is probed": func(t *lab.Topology) string { return rig.Config(t, nil) },
		"probed":            func(t *lab.Topology) string { return rig.Probing(t, nil, quickReturn) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{})
			u := h.Uplinks[1]
			local := lab.Route{Dst: netip.PrefixFrom(u.Gateway, 32), Interface: u.Interface, Type: unix.RTN_LOCAL} // see TestKernelRefuses
			must(t, h.Topology.Router.AddRoute(local))
			own := fmt.Sprintf("gateway = %q", u.Gateway)
			begun := time.Now()
			h.start(ctx, strings.Replace(text(h.Topology), own, fmt.Sprintf("gateway = \"%s onlink\"\ndns = [%q]", u.Gateway, u.DNS), 1))
			t.Logf("ready after %v", time.Since(begun))
			h.spread(ctx, "refused", h.Uplinks[:1], h.Uplinks)
			s, err := h.Status(ctx)
			if said := strings.Join(s.Warnings, "\n"); err != nil || !strings.Contains(said, "route replace default via "+u.Gateway.String()) {
				t.Errorf("warnings %q, %v", said, err)
			}
			b := h.bystanders(ctx, h.Uplinks[0])
			must(t, h.Topology.Router.DelRoute(local))
			h.until(10*time.Second, "the kernel is asked again", func() bool {
				have, err := h.carriers(s, unix.AF_INET)
				return err == nil && len(have) == len(h.Uplinks)
			})
			h.spread(ctx, "taken", h.Uplinks, h.Uplinks)
			b.check()
			h.unchanged()
		})
	}
}

// TestMissingRights: without CAP_NET_ADMIN the agent says so and changes
// nothing.
func TestMissingRights(t *testing.T) {
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.configure(rig.Config(h.Topology, nil))
	for name, args := range map[string][]string{"run": {"run"}, "purge": {"purge"}} {
		// The program itself is root, but a namespace of users of its own has no
		// rights over the router's network.
		cmd := exec.Command(h.Program, append(args, "--config", h.ConfigPath())...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := h.Topology.Router.Start(cmd); errors.Is(err, unix.EPERM) {
			t.Skip("no user namespaces here:", err)
		} else if err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out.String(), "CAP_NET_ADMIN") {
			t.Errorf("%s without rights: %v: %s", name, err, out.String())
		}
	}
	if left := strings.TrimSpace(h.state(true)); left != "" {
		t.Errorf("in the kernel: %s", left)
	}
}

// TestAnotherMask: no connection notices that an agent is started with another
// mark_mask; plan and reload say how it changes, and that is how.
func TestAnotherMask(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	good := rig.Config(h.Topology, nil)
	h.start(ctx, good)
	b := h.bystanders(ctx, h.Uplinks...)
	must(t, h.End(syscall.SIGTERM))
	h.start(ctx, strings.Replace(good, "[router]", "[router]\nmark_mask = \"0x7f800000\"", 1)) // what was 1 is 2 there
	s, err := h.Status(ctx)
	if err != nil || s.Config.Error == nil || !strings.Contains(*s.Config.Error, "agent purge") || s.Uplinks[0].Mark != 0x01000000 {
		t.Errorf("status: %+v, mark %#x, %v", s.Config, s.Uplinks[0].Mark, err)
	}
	path := []string{"--config", h.ConfigPath()}
	for _, command := range []string{"plan", "reload"} {
		h.ended(command, 2, "from 0xff000000 to 0x7f800000", append([]string{command}, path...)...)
	}
	b.check()
	h.ended("purge", 0, "the agent was stopped", append([]string{"purge"}, path...)...)
	must(t, h.Run(ctx))
	h.unchanged()
	if s, err := h.Status(ctx); err != nil || s.Config.Error != nil || s.Uplinks[0].Mark != 0x00800000 {
		t.Errorf("after a purge: %+v, mark %#x, %v", s.Config, s.Uplinks[0].Mark, err)
	}
}

// TestNoDaemon: what the commands say when there is none.
func TestNoDaemon(t *testing.T) {
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.configure(rig.Config(h.Topology, nil))
	path := []string{"--config", h.ConfigPath()}
	h.ended("status", 1, "does not run", append([]string{"status"}, path...)...)
	h.ended("reload", 1, "does not run", append([]string{"reload"}, path...)...)
	h.ended("plan", 0, "ip -4 rule add", append([]string{"plan"}, path...)...)
	h.ended("check", 0, "ok", append([]string{"check"}, path...)...)
	h.ended("show", 0, "table inet multiroute", append(append([]string{"show"}, path...), "nft")...)
	h.ended("purge", 0, "", append([]string{"purge"}, path...)...)
	var purged struct{ Done []string }
	if err := h.JSON(&purged, "purge", "--json"); err != nil || len(purged.Done) != 1 {
		t.Errorf("purge --json: %q, %v", purged.Done, err)
	}
	if left := strings.TrimSpace(h.state(true)); left != "" {
		t.Errorf("in the kernel: %s", left)
	}
}

// TestStopped: the data plane works without the agent.
func TestStopped(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			b := h.bystanders(ctx, h.Uplinks...)
			h.unchanged() // the gateways' hardware addresses are known by now
			before := h.state(true)
			if err := h.End(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := h.ExitError(); err != nil {
				t.Errorf("SIGTERM: %v", err)
			}
			served := func() int {
				n := 0
				for _, c := range b.churn.Report().Sources {
					n += c
				}
				return n
			}
			began, first := time.Now(), served()
			h.until(20*time.Second, "two seconds and 50 connections without the agent", func() bool {
				return time.Since(began) > 2*time.Second && served() >= first+50
			})
			h.spread(ctx, "stopped", h.Uplinks, h.Uplinks)
			if now := h.state(true); now != before {
				t.Errorf("stopping changed the kernel; before:\n%s\nnow:\n%s", before, now)
			}
			if err := h.Run(ctx); err != nil {
				t.Fatal(err)
			}
			b.check()
			h.unchanged()
		})
	}
}

// TestManyHangups: a hundred SIGHUPs are a few reloads, and the newest file
// counts.
func TestManyHangups(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, []int{1, 1}))
	b := h.bystanders(ctx, h.Uplinks...)
	logged := len(h.Log())
	h.configure(rig.Config(h.Topology, []int{2, 5}))
	for range 100 {
		if err := h.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	h.configure(rig.Config(h.Topology, []int{3, 7}))
	if err := h.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(ctx, func(s api.Status) bool { return s.Policies[0].Members[1].Weight == 7 }); err != nil {
		t.Fatal(err)
	}
	h.unchanged()
	n := strings.Count(h.Log()[logged:], "configuration loaded")
	t.Logf("101 hangups: %d reloads", n)
	if n == 0 || n > 60 {
		t.Errorf("%d reloads", n)
	}
	b.check()
}

// TestKillAtRandomMoments: the agent dies 40 times while it installs, and while
// it reloads; nothing leaks, nothing on the uplinks that stay breaks, and the
// next start puts all right.
func TestKillAtRandomMoments(t *testing.T) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	kill := func(h *house) {
		t.Helper()
		<-time.After(time.Duration(random.IntN(50_000)) * time.Microsecond) // the moment is the test's input
		if err := h.End(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("first install", func(t *testing.T) {
		ctx := deadline(t, 2*time.Minute)
		h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: true})
		h.configure(rig.Config(h.Topology, []int{3, 1}))
		churn := lab.StartChurn(ctx, h.Client(), 4, 2*time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
		oneWay, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{}, internet(false), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer oneWay.Stop()
		for i := range 40 {
			if err := h.Start(); err != nil {
				t.Fatal(err)
			}
			kill(h)
			if i%4 == 3 { // again from nothing
				if out, errOut, code, err := h.Command("purge"); err != nil || code != 0 {
					t.Fatalf("purge: exit %d, %v: %s%s", code, err, out, errOut)
				}
			}
		}
		if err := h.Run(ctx); err != nil {
			t.Fatal(err)
		}
		h.spread(ctx, "at the end", h.Uplinks, h.Uplinks)
		t.Logf("new connections meanwhile: %s", churn.Stop())
		h.unchanged()
	})
	t.Run("reload", func(t *testing.T) {
		ctx := deadline(t, 2*time.Minute)
		h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3})
		texts := []string{uplinkTables(h, []int{0, 1}, []int{3, 1}), uplinkTables(h, []int{2, 0, 1}, []int{1, 1, 2})}
		h.start(ctx, texts[0])
		before := idsOf(ctx, t, h)
		all := h.Uplinks
		h.Uplinks = all[:2]
		b := h.bystanders(ctx, h.Uplinks...)
		h.Uplinks = all
		for i := range 40 {
			h.configure(texts[(i+1)%2])
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, _ = h.Reload(c) // the agent dies meanwhile
			}()
			kill(h)
			<-done
			if err := h.Run(ctx); err != nil {
				t.Fatal(err)
			}
		}
		b.check()
		h.unchanged()
		for name, id := range idsOf(ctx, t, h) {
			if was, ok := before[name]; ok && was != id {
				t.Errorf("uplink %s had id %d and now has %d", name, was, id)
			}
		}
	})
}
