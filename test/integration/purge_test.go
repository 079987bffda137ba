//go:build linux

package integration

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

// TestPurge: from any state, everything is as before the first start, and
// nothing leaked on the way.
func TestPurge(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(ctx context.Context, t *testing.T, h *house)
		bare   bool // somebody else took our rules away: no traffic then, it would leak
		says   []string
	}{
		{name: "never started", before: func(context.Context, *testing.T, *house) {}, says: []string{"nothing of multiroute was there"}},
		{name: "running", before: func(ctx context.Context, t *testing.T, h *house) { must(t, h.Run(ctx)) },
			says: []string{"the agent was stopped", "sysctls have the values", "table inet multiroute removed", "ended", "rules and"}},
		{name: "stopped", before: func(ctx context.Context, t *testing.T, h *house) {
			must(t, h.Run(ctx))
			must(t, h.End(syscall.SIGTERM))
		}},
		{name: "killed", before: func(ctx context.Context, t *testing.T, h *house) {
			must(t, h.Run(ctx))
			must(t, h.End(syscall.SIGKILL))
		}},
		{name: "killed at the start", before: func(ctx context.Context, t *testing.T, h *house) {
			must(t, h.Start())
			for range 3 {
				_, _ = h.Status(ctx)
			}
			must(t, h.End(syscall.SIGKILL))
		}},
		{name: "table deleted by somebody", bare: true, before: func(ctx context.Context, t *testing.T, h *house) {
			must(t, h.Run(ctx))
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
			must(t, h.Run(ctx))
			must(t, h.Configure("[router]\nnonsense = 1\n"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: true})
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
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
