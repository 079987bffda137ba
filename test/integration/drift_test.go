//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Somebody else edits what is ours in the kernel: the agent notices within a
// second, mends it, and says what was lost. What is not ours it leaves alone.

// ownProtocol is on every rule and route of ours.
const ownProtocol = 77

var ourTable = &nftables.Table{Name: "multiroute", Family: nftables.TableFamilyINet}

// nft connects to the router's nftables.
func (h *house) nft() *nftables.Conn {
	h.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(h.Topology.Router.FD()))
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// transaction sends what f wants changed at once.
func (h *house) transaction(f func(*nftables.Conn) error) error {
	c := h.nft()
	if err := f(c); err != nil {
		return err
	}
	return c.Flush()
}

// tables describes nftables in the router, in a text to compare: a line each
// for the chains and rules (their comments and sizes) of the tables chosen.
func (h *house) tables(chosen func(*nftables.Table) bool) (string, error) {
	c := h.nft()
	tables, err := c.ListTables()
	if err != nil {
		return "", err
	}
	var lines []string
	for _, t := range tables {
		if !chosen(t) {
			continue
		}
		lines = append(lines, fmt.Sprintf("table %d %s flags %d", t.Family, t.Name, t.Flags))
		chains, err := c.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return "", err
		}
		for _, chain := range chains {
			if chain.Table.Name != t.Name {
				continue
			}
			rules, err := c.GetRules(t, chain)
			if err != nil {
				return "", err
			}
			lines = append(lines, fmt.Sprintf("chain %s %s", t.Name, chain.Name))
			for i, r := range rules {
				lines = append(lines, fmt.Sprintf("chain %s %s rule %d: %q, %d expressions", t.Name, chain.Name, i, r.UserData, len(r.Exprs)))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

func isOurs(t *nftables.Table) bool { return t.Name == ourTable.Name && t.Family == ourTable.Family }

// rulesAndRoutes describes policy rules and routes in the router, ours or all
// others.
func (h *house) rulesAndRoutes(ours bool) (string, error) {
	var lines []string
	handle := h.Topology.Router.Handle()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := handle.RuleList(family)
		if err != nil {
			return "", err
		}
		for _, r := range rules {
			if (r.Protocol == ownProtocol) == ours {
				lines = append(lines, fmt.Sprintf("%d %s mark %#x", family, r.String(), r.Mark))
			}
		}
		routes, err := handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return "", err
		}
		for _, r := range routes {
			if (r.Protocol == ownProtocol) == ours && r.Table != unix.RT_TABLE_LOCAL { // that one is the kernel's
				lines = append(lines, fmt.Sprintf("%d %s metric %d type %d", family, r.String(), r.Priority, r.Type))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// state is everything in the router's kernel that is ours, or everything else,
// in a text to compare.
func (h *house) state(ours bool) string {
	h.t.Helper()
	for range 100 {
		tables, err1 := h.tables(func(t *nftables.Table) bool { return isOurs(t) == ours })
		routes, err2 := h.rulesAndRoutes(ours)
		if err := errors.Join(err1, err2); err == nil {
			return tables + "\n" + routes
		}
		time.Sleep(time.Millisecond) // it changed while it was read
	}
	h.t.Fatal("the router's state cannot be read")
	return ""
}

// neighbourly adds objects of somebody else: a table with marks in it, a rule,
// routes.
func (h *house) neighbourly() {
	h.t.Helper()
	err := h.transaction(func(c *nftables.Conn) error {
		table := c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "marks", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
		// meta mark set 0x33: bits that are not ours
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, UserData: []byte("theirs"), Exprs: []expr.Any{
			&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, 0x33)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		}})
		return nil
	})
	handle := h.Topology.Router.Handle()
	mask := uint32(0xff)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table, rule.Mark, rule.Mask = family, 5000, 500, 0x44, &mask
		err = errors.Join(err, handle.RuleAdd(rule))
	}
	err = errors.Join(err,
		h.Topology.Router.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.99.0.0/16"), Gateway: netip.MustParseAddr("192.168.0.10"), Interface: h.LAN}),
		h.Topology.Router.AddRoute(lab.Route{Dst: netip.MustParsePrefix("10.98.0.0/16"), Gateway: netip.MustParseAddr("192.168.0.10"), Interface: h.LAN, Table: 500}),
		h.Topology.Router.AddRoute(lab.Route{Dst: netip.MustParsePrefix("fd99::/64"), Interface: h.LAN, Table: 500}))
	if err != nil {
		h.t.Fatal(err)
	}
}

// mended lets somebody edit, and waits until all is as before and the agent
// says what was lost.
func (h *house) mended(what, lost string, edit func() error) {
	h.t.Helper()
	before, logged := h.state(true), len(h.Log())
	if err := edit(); err != nil {
		h.t.Errorf("%s: %v", what, err)
		return
	}
	begin := time.Now() // before that, not all was lost yet
	// Routes are mended at once, perhaps before anybody can look: the log is the
	// witness that there was something to mend.
	for h.state(true) != before || !strings.Contains(h.Log()[logged:], lost) {
		if time.Since(begin) > 5*time.Second {
			h.t.Fatalf("%s: not mended, or the log does not name %q; before:\n%s\nnow:\n%s\nlog:\n%s", what, lost, before, h.state(true), h.Log()[logged:])
		}
		time.Sleep(time.Millisecond) // a condition with a deadline
	}
	took := time.Since(begin)
	h.t.Logf("mended: %s: after %.0f ms", what, ms(took))
	if took > time.Second {
		h.t.Errorf("%s: mended after %v", what, took)
	}
}

// atOnce makes one edit of what takes several messages: the agent stands still
// meanwhile. Otherwise it may mend the first half before the second is done,
// which would then meet something else, and count as one repair more.
func (h *house) atOnce(edit func() error) func() error {
	return func() error {
		return errors.Join(h.Signal(syscall.SIGSTOP), edit(), h.Signal(syscall.SIGCONT))
	}
}

// ourRules are the rules of a chain of ours.
func ourRules(c *nftables.Conn, chain string) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(ourTable, &nftables.Chain{Name: chain, Table: ourTable})
	if err == nil && len(rules) == 0 {
		err = fmt.Errorf("no rules in chain %s", chain)
	}
	return rules, err
}

// dormant switches our table off without taking anything away.
func (h *house) dormant() error {
	c, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: h.Topology.Router.FD()})
	if err != nil {
		return err
	}
	defer c.Close()
	attrs, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(ourTable.Name + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, unix.NFT_TABLE_F_DORMANT)},
	})
	if err != nil {
		return err
	}
	batch := []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	_, err = c.SendMessages([]mdnetlink.Message{
		{Header: mdnetlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: mdnetlink.Request}, Data: batch},
		{Header: mdnetlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE, Flags: mdnetlink.Request | mdnetlink.Acknowledge},
			Data: append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attrs...)},
		{Header: mdnetlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: mdnetlink.Request}, Data: batch},
	})
	if err != nil {
		return err
	}
	_, err = c.Receive()
	return err
}

// exposed lets the providers take the clients' own addresses for right: while
// somebody has removed the NAT, they leave, which no agent can prevent.
func (h *house) exposed() {
	h.t.Helper()
	for _, u := range h.Uplinks {
		if err := u.Provider.Allow(lab.LANAddress.Masked(), lab.LANAddress6.Masked()); err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestForeignEditsOfNAT: somebody edits our nftables table.
func TestForeignEditsOfNAT(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.neighbourly()
	h.start(ctx, rig.Config(h.Topology, nil))
	foreign := h.state(false)
	h.exposed()
	f := h.flowOn(ctx, h.Uplinks[0], false)
	targets := lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP))
	streams, err := lab.StartStreams(ctx, h.Client(), 40, targets, lab.StreamOptions{Interval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}

	h.mended("a rule deleted", "chain masquerading: masquerade", func() error {
		return h.transaction(func(c *nftables.Conn) error {
			rules, err := ourRules(c, "masquerading")
			if err != nil {
				return err
			}
			return c.DelRule(rules[len(rules)-1])
		})
	})
	h.mended("a rule inserted", "a rule of somebody else is in it", func() error {
		return h.transaction(func(c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: ourTable, Chain: &nftables.Chain{Name: "restore", Table: ourTable}, Exprs: []expr.Any{&expr.Counter{}}})
			return nil
		})
	})
	h.mended("a chain flushed", "chain restore: ", func() error {
		return h.transaction(func(c *nftables.Conn) error {
			c.FlushChain(&nftables.Chain{Name: "restore", Table: ourTable})
			return nil
		})
	})
	h.mended("a chain added", "foreign chains", func() error {
		return h.transaction(func(c *nftables.Conn) error {
			c.AddChain(&nftables.Chain{Name: "intruder", Table: ourTable})
			return nil
		})
	})
	h.mended("table made dormant", "made dormant", h.dormant)
	// Until here nothing may have been noticed. Without the table, packets of a
	// connection go anywhere.
	if r := streams.Report(); r.Broken > 0 {
		t.Errorf("%d long connections broke: %v", r.Broken, r.Samples)
	}
	before := h.Server.Flow(f.Flow)
	h.mended("table deleted", "table inet multiroute", func() error {
		return h.transaction(func(c *nftables.Conn) error { c.DelTable(ourTable); return nil })
	})
	after := h.Server.Flow(f.Flow)
	t.Logf("table deleted: a stream of 500 packets a second had %d packets from %v un-NATed, outage %.0f ms",
		after.Received-before.Received-(count(after, h.Uplinks)-count(before, h.Uplinks)), after.Addresses(), ms(after.Outage))
	if now := h.state(false); now != foreign {
		t.Errorf("foreign objects changed; before:\n%s\nnow:\n%s", foreign, now)
	}
	h.mended("ruleset flushed", "table inet multiroute", func() error {
		return h.transaction(func(c *nftables.Conn) error { c.FlushRuleset(); return nil })
	})
	f.Stop()
	t.Logf("table deleted twice: long connections: %s", streams.Stop())
	h.spread(ctx, "mended", h.Uplinks, h.Uplinks)
	h.unchanged()
}

// count is how many packets of a flow came from addresses of the uplinks.
func count(r lab.FlowReport, uplinks []*lab.Uplink) int {
	n := 0
	for from, packets := range r.Sources {
		if slices.ContainsFunc(uplinks, func(u *lab.Uplink) bool { return u.Address.Addr() == from.Addr() || u.Address6.Addr() == from.Addr() }) {
			n += packets
		}
	}
	return n
}

// answersReturn: where rules are deleted one by one, the one for table main has gone and those on marks have not yet, answers leave by the uplink they
// came in on.
func (h *house) answersReturn() {
	h.t.Helper()
	for _, u := range h.Uplinks {
		must(h.t, u.Provider.Allow(lab.InternetPrefix, lab.InternetPrefix6))
	}
}

// purge takes everything of ours out. Then servers whose connections have ended may still send, and the router itself answers as table main says: from
// the address that was asked, by the default route of any uplink.
func (h *house) purge() {
	h.t.Helper()
	h.noLeaks()
	for _, u := range h.Uplinks {
		for _, o := range h.Uplinks {
			must(h.t, u.Provider.Allow(netip.PrefixFrom(o.Address.Addr(), 32), netip.PrefixFrom(o.Address6.Addr(), 128)))
		}
	}
	if out, errOut, code, err := h.Command("purge"); err != nil || code != 0 {
		h.t.Fatalf("purge: exit %d, %v: %s%s", code, err, out, errOut)
	}
	if left := h.state(true); strings.TrimSpace(left) != "" {
		h.t.Errorf("purge left:\n%s", left)
	}
}

// TestForeignEditsOfRoutes: somebody edits our rules and routes.
func TestForeignEditsOfRoutes(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{DefaultRoutes: true})
	h.neighbourly()
	h.start(ctx, rig.Config(h.Topology, nil))
	foreign := h.state(false)
	handle := h.Topology.Router.Handle()
	s, err := h.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	policy := 20000 + s.Policies[0].ID
	ours := func(family, table int) ([]netlink.Route, error) {
		filter, what := &netlink.Route{Protocol: ownProtocol, Table: table}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE
		return handle.RouteListFiltered(family, filter, what)
	}
	deleteRules := func(family int) error {
		rules, err := handle.RuleList(family)
		for _, r := range rules {
			if r.Protocol == ownProtocol {
				r.Family = family
				err = errors.Join(err, handle.RuleDel(&r))
			}
		}
		return err
	}
	deleteRoutes := func(table int) error {
		var errs error
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := ours(family, table)
			errs = errors.Join(errs, err)
			for _, r := range routes {
				errs = errors.Join(errs, handle.RouteDel(&r))
			}
		}
		return errs
	}
	h.answersReturn()
	churn := lab.StartChurn(ctx, h.Client(), 4, 5*time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)))

	h.mended("all IPv4 rules deleted", "ip -4 rule", func() error { return deleteRules(unix.AF_INET) })
	h.mended("all IPv6 rules deleted", "ip -6 rule", func() error { return deleteRules(unix.AF_INET6) })
	h.mended("one uplink's table flushed", "table 20001", func() error { return deleteRoutes(20001) })
	h.mended("the policy's default deleted", fmt.Sprintf("table %d", policy), func() error {
		routes, err := ours(unix.AF_INET, policy)
		for _, r := range routes {
			if len(r.MultiPath) > 0 {
				err = errors.Join(err, handle.RouteDel(&r))
			}
		}
		return err
	})
	h.mended("the policy's default replaced", fmt.Sprintf("table %d", policy), func() error {
		u := h.Uplinks[1]
		return h.Topology.Router.ReplaceRoute(lab.Route{Gateway: u.Gateway, Interface: u.Interface, Table: policy, Protocol: unix.RTPROT_STATIC})
	})
	h.mended("all our tables flushed", "table 20002", func() error { return deleteRoutes(unix.RT_TABLE_UNSPEC) })

	r := churn.Stop()
	t.Logf("new connections meanwhile: %s", r)
	h.spread(ctx, "mended", h.Uplinks, h.Uplinks)
	h.unchanged()
	if now := h.state(false); now != foreign {
		t.Errorf("foreign objects changed; before:\n%s\nnow:\n%s", foreign, now)
	}
	h.purge()
	if now := h.state(false); now != foreign {
		t.Errorf("purge changed foreign objects; before:\n%s\nnow:\n%s", foreign, now)
	}
}

// TestForeignRouteInOurTable: a default of somebody else that wins over ours in
// a table of ours switches us off without removing anything.
func TestForeignRouteInOurTable(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	s, err := h.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	u := h.Uplinks[1]
	theirs := lab.Route{Gateway: u.Gateway6, Interface: u.Interface, Table: 20000 + s.Policies[0].ID, Metric: 1, Protocol: unix.RTPROT_STATIC}
	if err := h.Topology.Router.AddRoute(theirs); err != nil {
		t.Fatal(err)
	}
	h.until(2*time.Second, "the agent says so, or has removed it", func() bool {
		s, err := h.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		routes, err := h.rulesAndRoutes(false)
		return len(s.Warnings) > 0 || err == nil && !strings.Contains(routes, fmt.Sprintf("Table: %d", theirs.Table))
	})
}

// TestForeignSysctls: changes of sysctls send no messages; they are found
// within ten seconds.
func TestForeignSysctls(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	for _, c := range []struct{ key, bad, good string }{
		{"net/ipv4/ip_forward", "0", "1"},
		{"net/ipv4/conf/eth1/rp_filter", "1", "2"},
		{"net/ipv6/conf/all/forwarding", "0", "1"},
	} {
		logged := len(h.Log())
		begin := time.Now()
		if err := h.Topology.Router.Sysctl(c.key, c.bad); err != nil {
			t.Fatal(err)
		}
		h.until(10*time.Second, c.key+" is put right", func() bool {
			v, err := h.Topology.Router.ReadSysctl(c.key)
			return err == nil && v == c.good
		})
		t.Logf("mended: sysctl %s: after %.0f ms", c.key, ms(time.Since(begin)))
		h.until(5*time.Second, "the log names "+c.key, func() bool { return strings.Contains(h.Log()[logged:], c.key) })
	}
	h.spread(ctx, "mended", h.Uplinks, h.Uplinks)
	h.unchanged()
}

// TestRepairsAreLimited: an enemy who flushes ten times a second does not make
// the agent run wild, and does not win either.
func TestRepairsAreLimited(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	h.exposed()
	const seconds = 6
	fight := time.Now()
	writes := h.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 10 * seconds {
		<-tick.C
		if err := h.transaction(func(c *nftables.Conn) error { c.FlushRuleset(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	h.until(5*time.Second, "the rules are back", func() bool {
		tables, err := h.tables(isOurs)
		return err == nil && tables != ""
	})
	h.spread(ctx, "after the fight", h.Uplinks, h.Uplinks)
	t.Logf("mended: after the fight: %.0f ms", ms(time.Since(begin)))
	s, err := h.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Each of our transactions ends with one message that says so.
	generations := writes.stop()[unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN]
	t.Logf("%d flushes, %d transactions in all, %d repairs", 10*seconds, generations, s.Drift.Repairs)
	took := uint64(time.Since(fight).Seconds()) + 1 // a busy computer needs longer for its flushes
	if most := 10 + took/2 + 3; s.Drift.Repairs > most || s.Drift.Repairs < 5 {
		t.Errorf("%d repairs in %d s, at most %d are meant", s.Drift.Repairs, took, most)
	}
	if n := strings.Count(h.Log(), "repairs are limited"); n == 0 || n > 5*int(took) {
		t.Errorf("the log says %d times that repairs are limited", n)
	}
	h.unchanged()
}

// TestMonitorOverflow: more messages than the agent can take lose none of the
// changes that matter.
func TestMonitorOverflow(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Config(h.Topology, nil))
	healthy, u := h.Uplinks[0], h.Uplinks[1]
	b := h.bystanders(ctx, healthy)
	before := h.state(true)
	if err := h.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	flood := func() {
		t.Helper()
		handle := h.Topology.Router.Handle()
		lo, err := handle.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10000 {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 200, byte(i>>8), byte(i)), Mask: net.CIDRMask(32, 32)}}
			if err := errors.Join(handle.AddrAdd(lo, a), handle.AddrDel(lo, a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood()
	if !h.overflowed() {
		t.Fatal("the agent's monitor has room left: more changes are needed")
	}
	// What matters comes when the queue is full.
	if err := u.Unplug(); err != nil {
		t.Fatal(err)
	}
	h.follow(ctx, "overflow", func() error { return h.Signal(syscall.SIGCONT) }, h.Uplinks[:1], h.Uplinks[:1])
	h.spread(ctx, "overflow", h.Uplinks[:1], h.Uplinks[:1])
	// The monitor works again.
	h.follow(ctx, "after the overflow", u.Plug, h.Uplinks, h.Uplinks)
	b.check()
	h.unchanged()
	if now := h.state(true); strings.Count(now, "\n") != strings.Count(before, "\n") {
		t.Errorf("our state; before:\n%s\nnow:\n%s", before, now)
	}
}

// overflowed reports whether a netlink socket in the router has lost messages
// (the column "Drops").
func (h *house) overflowed() bool {
	h.t.Helper()
	var text []byte
	if err := h.Topology.Router.Do(func() (err error) { text, err = os.ReadFile("/proc/thread-self/net/netlink"); return err }); err != nil {
		h.t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 8 && f[8] != "0" {
			return true
		}
	}
	return false
}

// monitor counts messages of the router's kernel, by type.
type monitor struct {
	conn *mdnetlink.Conn
	done chan map[int]int
}

// listen starts a monitor.
func (h *house) listen(family int, groups ...uint32) *monitor {
	h.t.Helper()
	c, err := mdnetlink.Dial(family, &mdnetlink.Config{NetNS: h.Topology.Router.FD()})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			h.t.Fatal(err)
		}
	}
	m := &monitor{conn: c, done: make(chan map[int]int, 1)}
	go func() {
		counts := map[int]int{}
		for {
			messages, err := c.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				m.done <- counts
				return
			}
			for _, message := range messages {
				counts[int(message.Header.Type)]++
			}
		}
	}()
	return m
}

// stop ends the monitor and returns what it counted.
func (m *monitor) stop() map[int]int {
	_ = m.conn.SetReadDeadline(time.Unix(0, 1))
	counts := <-m.done
	m.conn.Close()
	return counts
}

// TestNoWrites: with nothing to do the agent writes nothing, and neither does
// one that is started again.
func TestNoWrites(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // mostly waiting
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			h.unchanged()
			b := h.bystanders(ctx, h.Uplinks...)
			h.until(5*time.Second, "the neighbours are known", func() bool { _, err := h.Status(ctx); return err == nil })
			h.unchanged()
			writes := map[string]*monitor{
				"nftables": h.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES),
				"routing": h.listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
					unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF),
			}
			passes(ctx, 33*time.Second) // after 30 s without a reason the agent reads the whole kernel
			s, err := h.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.End(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := h.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if err := h.End(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := h.Run(ctx); err != nil {
				t.Fatal(err)
			}
			for _, name := range slices.Sorted(maps.Keys(writes)) {
				if got := writes[name].stop(); len(got) > 0 {
					t.Errorf("%s: messages by type %v, wanted none", name, got)
				}
			}
			if s.Drift.Repairs > 0 {
				t.Errorf("%d repairs", s.Drift.Repairs)
			}
			b.check()
		})
	}
}
