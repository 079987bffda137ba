//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/conntrack"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// snapshot is everything in a namespace that the agent might change: rules,
// routes of all tables, nftables, sysctls. It is read without the agent's code.
func snapshot(t *testing.T, ns *lab.NS) string {
	t.Helper()
	var lines []string
	h := ns.Handle()
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %+v", f, r))
		}
		routes, err := h.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_ANYCAST {
				continue // come and go with the kernel's forwarding state
			}
			lines = append(lines, fmt.Sprintf("route %d %v", f, r))
		}
	}
	err := ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, table := range tables {
			lines = append(lines, fmt.Sprintf("nft table %s %d", table.Name, table.Family))
		}
		if err != nil {
			return err
		}
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !(strings.Contains(path, "/ipv4/") || strings.Contains(path, "/ipv6/")) {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil || strings.Contains(path, "stable_secret") || strings.HasSuffix(path, "/flush") || strings.Contains(path, "/netfilter/") {
				return nil // not readable, or not a setting
			}
			lines = append(lines, path+" = "+strings.TrimSpace(string(b)))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestPurge: from any state, everything is as before the first start, no
// connection keeps a mark, no file is left, and nothing leaked on the way.
func TestPurge(t *testing.T) {
	run := func(ctx context.Context, t *testing.T, h *house) { must(t, h.Run(ctx)) }
	for _, c := range []struct {
		name     string
		topology func(lab.Options) (*lab.Topology, error) // nil: NewRouter
		forward  bool                                     // the administrator's own doing
		before   func(ctx context.Context, t *testing.T, h *house)
		bare     bool // somebody else took our rules away, or it forwarded before: no traffic then, it would leak
		says     []string
		exit     string // how the agent that ran must have ended
		alone    bool   // it changes this process' environment
	}{
		{name: "never started", before: func(context.Context, *testing.T, *house) {}, says: []string{"nothing of multiroute was there"}},
		{name: "running", before: run, exit: "exit status 3",
			says: []string{"the agent was stopped", "sysctls have the values", "table inet multiroute removed", "ended", "rules and"}},
		{name: "one NIC", topology: lab.NewSingleNIC, before: run, exit: "exit status 3",
			says: []string{"the agent was stopped", "sysctls have the values", "table inet multiroute removed", "ended", "rules and"}},
		{name: "forwarding was on", bare: true, forward: true, before: run, says: []string{"forwarding is on, as it was without multiroute"}},
		{name: "stopped", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.End(syscall.SIGTERM))
		}},
		{name: "killed", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.End(syscall.SIGKILL))
		}},
		{name: "killed at the start", before: func(ctx context.Context, t *testing.T, h *house) {
			must(t, h.Start())
			for range 3 {
				_, _ = h.Status(ctx)
			}
			must(t, h.End(syscall.SIGKILL))
		}},
		{name: "hung", exit: "signal: killed", says: []string{"the agent was stopped"}, before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.Signal(syscall.SIGSTOP))
		}},
		{name: "without its socket", exit: "exit status 3", says: []string{"the agent was stopped"}, before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, os.Remove(h.Socket()))
		}},
		{name: "table deleted by somebody", bare: true, says: []string{"connections: "}, before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			traffic := lab.StartChurn(ctx, h.Client(), 1, time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))
			h.until(10*time.Second, "a connection with a mark", func() bool { return marked(t, h, 0xff000000) > 0 })
			traffic.Stop()
			must(t, h.End(syscall.SIGKILL))
			must(t, h.Topology.Router.Do(func() error {
				n, err := nftables.New()
				if err != nil {
					return err
				}
				n.FlushRuleset()
				return n.Flush()
			}))
		}},
		{name: "broken configuration", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.Configure("[router]\nnonsense = 1\n"))
		}},
		{name: "configuration that does not even tell the socket", exit: "exit status 3", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, os.WriteFile(h.ConfigPath(), []byte("[api\n"), 0o600))
		}},
		{name: "another socket in the configuration", exit: "exit status 3", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			move(t, h)
		}},
		{name: "moved", exit: "exit status 3", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.End(syscall.SIGTERM))
			socket := move(t, h)
			must(t, h.Start())
			h.until(10*time.Second, "the agent at its new socket", func() bool {
				s, err := api.Dial(socket).Status(ctx)
				return err == nil && s.Ready
			})
		}},
		{name: "another mask in the configuration", before: func(ctx context.Context, t *testing.T, h *house) {
			run(ctx, t, h)
			must(t, h.Configure(strings.Replace(rig.Config(h.Topology, []int{3, 1}), "[router]", "[router]\nmark_mask = \"0x7f800000\"", 1)))
		}},
		{name: "a folder for its state", alone: true, before: func(ctx context.Context, t *testing.T, h *house) {
			t.Setenv("STATE_DIRECTORY", filepath.Join(h.Folder, "state"))
			run(ctx, t, h)
			must(t, os.Unsetenv("STATE_DIRECTORY"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			ctx := deadline(t, time.Minute)
			topology := lab.NewRouter
			if c.topology != nil {
				topology = c.topology
			}
			h := newHouse(t, topology, lab.Options{DefaultRoutes: true, Forward: c.forward})
			must(t, h.Topology.Router.Sysctl("net/ipv4/conf/eth1/rp_filter", "1"))
			must(t, h.Topology.Router.Sysctl("net/ipv6/conf/eth1/accept_ra", "1"))
			before := snapshot(t, h.Topology.Router)
			h.configure(rig.Config(h.Topology, []int{3, 1}))
			c.before(ctx, t, h)
			var traffic *lab.Churn
			if !c.bare {
				traffic = lab.StartChurn(ctx, h.Client(), 2, time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, 80)))
			}
			out, errOut, code, err := h.Command("purge")
			must(t, err)
			if code != 0 {
				t.Errorf("purge: exit %d: %s", code, errOut)
			}
			for _, says := range c.says {
				if !strings.Contains(out, says) {
					t.Errorf("purge does not say %q, but\n%s", says, out)
				}
			}
			if traffic != nil {
				traffic.Stop()
			}
			if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(snapshot(t, h.Topology.Router), "\n")); diff != "" {
				t.Errorf("(-before +after purge):\n%s", diff)
			}
			if n := marked(t, h, 0xff000000); n > 0 {
				t.Errorf("%d connections have a mark", n)
			}
			must(t, filepath.WalkDir(h.Folder, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && path != h.ConfigPath() {
					t.Errorf("purge left %s", path)
				}
				return err
			}))
			if c.exit != "" && (h.ExitError() == nil || h.ExitError().Error() != c.exit) {
				t.Errorf("the agent ended with %v, want %s", h.ExitError(), c.exit)
			}
		})
	}
}

// TestPurgeWithoutFirstValues: where nobody knows any more what forwarding was
// before, purge does not end as if all were well.
func TestPurgeWithoutFirstValues(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	must(t, os.Remove(filepath.Join(filepath.Dir(h.Socket()), "sysctl.json")))
	out, errOut, code, err := h.Command("purge")
	if err != nil || code != 1 || !strings.Contains(errOut, "sysctl -w net.ipv4.ip_forward=0") {
		t.Errorf("purge: exit %d, %v: %s%s", code, err, out, errOut)
	}
	if left := strings.TrimSpace(h.state(true)); left != "" {
		t.Errorf("purge left:\n%s", left)
	}
}

// TestPurgeUnderSupervisor: one that heeds exit status 3, as systemd does, lets a
// purge be; where the agent is started again all the same, purge says so.
func TestPurgeUnderSupervisor(t *testing.T) {
	for _, c := range []struct {
		name  string
		heeds bool          // exit status 3
		delay time.Duration // before it starts the agent again
	}{
		{"heeds", true, 200 * time.Millisecond},
		{"does not heed", false, 200 * time.Millisecond},
		{"does not heed, and waits", false, time.Second},
		{"does not wait", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			must(t, h.Signal(syscall.SIGSTOP))
			supervised, stop := context.WithCancel(ctx)
			var supervisor sync.WaitGroup
			supervisor.Go(func() {
				for h.Ended(supervised) == nil {
					if err := h.ExitError(); c.heeds && err != nil && err.Error() == "exit status 3" {
						return
					}
					select {
					case <-supervised.Done():
					case <-time.After(c.delay):
						if err := h.Start(); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
			out, errOut, code, err := h.Command("purge")
			stop()
			supervisor.Wait()
			switch {
			case err != nil, c.heeds && code != 0, !c.heeds && (code != 1 || !strings.Contains(errOut, "a supervisor starts the agent again")):
				t.Errorf("purge: exit %d, %v: %s%s", code, err, out, errOut)
			case !c.heeds:
				if out, errOut, code, err := h.Command("purge"); err != nil || code != 0 {
					t.Errorf("purge without it: exit %d, %v: %s%s", code, err, out, errOut)
				}
			}
			if left := strings.TrimSpace(h.state(true)); left != "" {
				t.Errorf("purge left:\n%s", left)
			}
		})
	}
}

// TestPurgeElsewhere: an agent of another network namespace keeps what it has,
// whatever the configuration says.
func TestPurgeElsewhere(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	h.unchanged()
	run := filepath.Dir(h.Socket())
	files := func() []string {
		entries, err := os.ReadDir(run)
		must(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := files()
	var out bytes.Buffer
	cmd := exec.Command(h.Program, "purge", "--config", h.ConfigPath())
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, h.Client().Start(cmd))
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "nothing of multiroute was there") {
		t.Errorf("purge: %v: %s", err, out.String())
	}
	if diff := cmp.Diff(before, files()); diff != "" {
		t.Errorf("%s (-before +after purge):\n%s", run, diff)
	}
	h.unchanged()
}

// move writes a configuration with another socket.
func move(t *testing.T, h *house) (socket string) {
	t.Helper()
	socket = filepath.Join(h.Folder, "moved", "agent.sock")
	b, err := os.ReadFile(h.ConfigPath())
	must(t, err)
	must(t, os.WriteFile(h.ConfigPath(), []byte(strings.Replace(string(b), h.Socket(), socket, 1)), 0o600))
	return socket
}

// marked counts the router's connections that have a bit of the mask.
func marked(t *testing.T, h *house, mask uint32) int {
	t.Helper()
	n := 0
	must(t, h.Topology.Router.Do(func() error {
		c, err := conntrack.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		counts, err := c.CountByMark(mask)
		for mark, count := range counts {
			if mark != 0 {
				n += count
			}
		}
		return err
	}))
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
