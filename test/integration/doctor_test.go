//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/doctor"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// doctor asks agent doctor. What it finds on the machine that the test runs on
// is not the test's.
func (h *house) doctor() (doctor.Report, int) {
	h.t.Helper()
	out, errOut, code, err := h.Command("doctor", "--json")
	if err != nil || errOut != "" {
		h.t.Fatal(err, errOut)
	}
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		h.t.Fatalf("%v in %q", err, out)
	}
	if len(r.Unseen) > 0 {
		h.t.Errorf("not looked at: %v", r.Unseen)
	}
	return r, code
}

// about returns the findings on subjects that begin so.
func about(r doctor.Report, subject string) []doctor.Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f doctor.Finding) bool { return !strings.HasPrefix(f.Subject, subject) })
}

func (h *house) reaches(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := lab.Ping(ctx, h.Client(), lab.Socket{}, lab.InternetAddress)
	return err == nil
}

// TestDoctorForward: clients cannot get out because of another program's filter;
// doctor says whose, and what it says to do helps.
func TestDoctorForward(t *testing.T) {
	needPrograms(t, "nft", "iptables-nft")
	for _, test := range []struct {
		name     string
		subject  string
		commands []string
	}{
		{"nftables", "chain inet mine forward", []string{
			"nft add table inet mine", "nft add chain inet mine forward { type filter hook forward priority 0; policy drop; }"}},
		{"Docker", "chain ip filter FORWARD", []string{
			"iptables-nft -N DOCKER-USER", "iptables-nft -A DOCKER-USER -j RETURN", "iptables-nft -A FORWARD -j DOCKER-USER",
			"iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "iptables-nft -A FORWARD -i docker0 -j ACCEPT", "iptables-nft -P FORWARD DROP"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
			h.start(ctx, rig.Config(h.Topology, nil))
			if r, code := h.doctor(); code == 1 || r.Worst() == doctor.Error {
				t.Errorf("exit %d without a fault: %+v", code, r.Findings)
			}
			if !h.reaches(ctx) {
				t.Fatal("no traffic at the beginning")
			}
			h.shell(test.commands...)
			if h.reaches(ctx) {
				t.Fatal("the other program's filter lets all through")
			}
			r, code := h.doctor()
			found := about(r, test.subject)
			if code != 1 || len(found) != 1 || found[0].Severity != doctor.Error {
				t.Fatalf("exit %d, found %+v", code, r.Findings)
			}
			t.Logf("%s: %s\n%s", found[0].Subject, found[0].What, found[0].Remedy)
			h.shell(strings.Split(strings.ReplaceAll(found[0].Remedy, "iptables ", "iptables-nft "), "\n")...)
			if !h.reaches(ctx) {
				t.Error("the remedy does not help")
			}
			if r, code := h.doctor(); code == 1 || len(about(r, test.subject)) > 0 {
				t.Errorf("exit %d after the remedy: %+v", code, r.Findings)
			}
		})
	}
}

// TestDoctorOwn: another program's filter drops probes, or the answers to them;
// doctor says so, and what it says to do helps, also where neighbours have to be
// found first.
func TestDoctorOwn(t *testing.T) {
	needPrograms(t, "nft", "ip6tables-nft", "ip")
	for _, test := range []struct {
		name     string
		subjects []string
		commands []string
	}{
		{"nftables, output", []string{"chain inet mine output"}, []string{
			"nft add table inet mine", "nft add chain inet mine output { type filter hook output priority 0; policy drop; }"}},
		{"nftables, input", []string{"chain inet mine input"}, []string{
			"nft add table inet mine", "nft add chain inet mine input { type filter hook input priority 0; policy drop; }"}},
		{"iptables, output", []string{"chain ip filter OUTPUT", "chain ip6 filter OUTPUT"}, []string{"iptables-nft -P OUTPUT DROP", "ip6tables-nft -P OUTPUT DROP"}},
		{"iptables, input", []string{"chain ip filter INPUT", "chain ip6 filter INPUT"}, []string{"iptables-nft -P INPUT DROP", "ip6tables-nft -P INPUT DROP"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			status, err := h.Status(ctx)
			must(t, err)
			probe := func(to netip.Addr) bool {
				short, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				_, err := lab.Ping(short, h.Topology.Router, lab.Socket{Mark: status.Uplinks[0].Mark, Device: status.Uplinks[0].Interface}, to)
				return err == nil
			}
			h.shell(test.commands...)
			if probe(lab.InternetAddress) {
				t.Fatal("the other program's filter lets probes through")
			}
			r, code := h.doctor()
			for _, subject := range test.subjects {
				found := about(r, subject)
				if code != 1 || len(found) != 1 || found[0].Severity != doctor.Error {
					t.Fatalf("exit %d, found %+v", code, r.Findings)
				}
				t.Logf("%s: %s\n%s", found[0].Subject, found[0].What, found[0].Remedy)
				h.shell(strings.Split(strings.ReplaceAll(found[0].Remedy, "tables ", "tables-nft "), "\n")...)
			}
			h.shell("ip neigh flush all", "ip -6 neigh flush all")
			for _, to := range []netip.Addr{lab.InternetAddress, lab.InternetAddress6} {
				if !probe(to) {
					t.Errorf("the remedy does not help a probe of %s", to)
				}
			}
			if r, _ := h.doctor(); len(about(r, "chain")) > 0 {
				t.Errorf("after the remedy: %+v", r.Findings)
			}
		})
	}
}

// libvirtNFT is what libvirt 10.4 and later write for a network with NAT, and
// libvirtIPT what those before it do; here its bridge is called guests.
var (
	libvirtNFT = []string{
		"nft add table ip libvirt_network",
		"nft add chain ip libvirt_network forward { type filter hook forward priority 0; policy accept; }",
		"nft add chain ip libvirt_network guest_output",
		"nft insert rule ip libvirt_network forward counter jump guest_output",
		"nft add chain ip libvirt_network guest_input",
		"nft insert rule ip libvirt_network forward counter jump guest_input",
		"nft add chain ip libvirt_network guest_cross",
		"nft insert rule ip libvirt_network forward counter jump guest_cross",
		"nft add chain ip libvirt_network guest_nat { type nat hook postrouting priority 100; policy accept; }",
		"nft insert rule ip libvirt_network guest_output iif guests counter reject",
		"nft insert rule ip libvirt_network guest_input oif guests counter reject",
		"nft insert rule ip libvirt_network guest_cross iif guests oif guests counter accept",
		"nft insert rule ip libvirt_network guest_output ip saddr 10.5.0.0/24 iif guests counter accept",
		"nft insert rule ip libvirt_network guest_input oif guests ip daddr 10.5.0.0/24 ct state related,established counter accept",
		"nft insert rule ip libvirt_network guest_nat ip saddr 10.5.0.0/24 ip daddr != 10.5.0.0/24 counter masquerade",
		"nft insert rule ip libvirt_network guest_nat meta l4proto tcp ip saddr 10.5.0.0/24 ip daddr != 10.5.0.0/24 counter masquerade to :1024-65535",
		"nft insert rule ip libvirt_network guest_nat ip saddr 10.5.0.0/24 ip daddr 224.0.0.0/24 counter return",
	}
	libvirtIPT = []string{
		"iptables-nft -N LIBVIRT_FWO", "iptables-nft -I FORWARD -j LIBVIRT_FWO",
		"iptables-nft -N LIBVIRT_FWI", "iptables-nft -I FORWARD -j LIBVIRT_FWI",
		"iptables-nft -N LIBVIRT_FWX", "iptables-nft -I FORWARD -j LIBVIRT_FWX",
		"iptables-nft -t nat -N LIBVIRT_PRT", "iptables-nft -t nat -I POSTROUTING -j LIBVIRT_PRT",
		"iptables-nft -I LIBVIRT_FWO -i guests -j REJECT",
		"iptables-nft -I LIBVIRT_FWI -o guests -j REJECT",
		"iptables-nft -I LIBVIRT_FWX -i guests -o guests -j ACCEPT",
		"iptables-nft -I LIBVIRT_FWO -s 10.5.0.0/24 -i guests -j ACCEPT",
		"iptables-nft -I LIBVIRT_FWI -d 10.5.0.0/24 -o guests -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"iptables-nft -t nat -I LIBVIRT_PRT -s 10.5.0.0/24 ! -d 10.5.0.0/24 -j MASQUERADE",
		"iptables-nft -t nat -I LIBVIRT_PRT -s 10.5.0.0/24 ! -d 10.5.0.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535",
		"iptables-nft -t nat -I LIBVIRT_PRT -s 10.5.0.0/24 -d 224.0.0.0/24 -j RETURN",
	}
)

// TestDoctorLibvirt: guests of libvirt use the uplinks, whether or not their
// bridge is in the LAN, and doctor finds no fault; but what comes in for them
// libvirt rejects, and what doctor says to do about it helps.
func TestDoctorLibvirt(t *testing.T) {
	needPrograms(t, "nft", "iptables-nft")
	for _, test := range []struct {
		name, subject, lan string
		commands           []string
	}{
		{"nftables", "chain ip libvirt_network forward", "", libvirtNFT},
		{"nftables, in the LAN", "chain ip libvirt_network forward", `"guests"`, libvirtNFT},
		{"iptables", "chain ip filter FORWARD", "", libvirtIPT},
		{"iptables, in the LAN", "chain ip filter FORWARD", `"guests"`, libvirtIPT},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
			guest := guests(t, h.Topology.Router)
			serve(t, guest)
			text := rig.Config(h.Topology, nil)
			if test.lan != "" {
				text = strings.Replace(text, `lan = ["eth0"`, `lan = ["eth0", `+test.lan, 1)
			}
			h.start(ctx, text)
			h.shell(test.commands...)
			if r := lab.Spread(ctx, guest, 60, lab.Everywhere); r.Errors > 0 || len(r.Sources) != len(h.Uplinks) {
				t.Errorf("guests use the uplinks so: %s", r)
			}
			r, code := h.doctor()
			if code == 1 || len(about(r, "chain")) > 0 || len(about(r, "libvirt")) != 1 {
				t.Errorf("exit %d without a port forward: %+v", code, r.Findings)
			}
			u := h.Uplinks[0].Address.Addr()
			h.configure(text + forward("tcp", "80", guestClient.Addr().String()))
			_, err := h.Reload(ctx)
			must(t, err)
			nobody(ctx, t, "past libvirt", h.Internet, lab.Socket{Local: netip.AddrPortFrom(lab.InternetAddress, 0)}, netip.AddrPortFrom(u, 80))
			r, code = h.doctor()
			found := about(r, test.subject)
			if code != 1 || len(found) != 1 || found[0].Severity != doctor.Error || !strings.Contains(found[0].What, "libvirt, in its chain") {
				t.Fatalf("exit %d, found %+v", code, r.Findings)
			}
			t.Logf("%s: %s\n%s", found[0].Subject, found[0].What, found[0].Remedy)
			remedy, _, _ := strings.Cut(found[0].Remedy, "\n#")
			h.shell(strings.ReplaceAll(remedy, "tables ", "tables-nft "))
			only(ctx, t, "after the remedy", h.Internet, bound(lab.InternetAddress, netip.AddrPortFrom(u, 80)), 3, lab.InternetAddress)
			if r, code := h.doctor(); code == 1 || len(about(r, "chain")) > 0 {
				t.Errorf("exit %d after the remedy: %+v", code, r.Findings)
			}
		})
	}
}

// shell runs commands in the router's namespace.
func (h *house) shell(commands ...string) {
	h.t.Helper()
	for _, c := range commands {
		out, errOut, code, err := h.Exec("sh", "-c", strings.NewReplacer("{", "'{'", "}", "'}'", ";", "';'", "\"", "'\"'").Replace(c))
		if err != nil || code != 0 {
			h.t.Fatalf("%s: exit %d, %v\n%s%s", c, code, err, out, errOut)
		}
	}
}

// TestDoctorChangesNothing: with and without a daemon.
func TestDoctorChangesNothing(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	must(t, h.Configure(rig.Config(h.Topology, nil)))
	before := h.state(true)
	if r, _ := h.doctor(); len(about(r, "agent")) != 1 {
		t.Errorf("without a daemon: %+v", r.Findings)
	}
	if after := h.state(true); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before a start:\n%v\nafter:\n%v", before, after)
	}
	h.start(ctx, rig.Config(h.Topology, nil))
	before = h.state(true)
	if r, _ := h.doctor(); len(about(r, "agent")) != 0 {
		t.Errorf("with a daemon: %+v", r.Findings)
	}
	if after := h.state(true); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("with a daemon before:\n%v\nafter:\n%v", before, after)
	}
}

// TestDoctorRule: a VPN's rule takes everything away from the uplinks, and one
// that asks for somebody's mark does not.
func TestDoctorRule(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
	h.start(ctx, rig.Config(h.Topology, nil))
	sources := func() int { return len(lab.Spread(ctx, h.Client(), 60, lab.Everywhere).Sources) }
	if n := sources(); n != len(h.Uplinks) {
		t.Fatalf("connections leave by %d uplinks at the beginning", n)
	}
	handle := h.Topology.Router.Handle()
	u := h.Uplinks[0]
	link, err := h.Topology.Router.Link(u.Interface)
	must(t, err)
	must(t, handle.RouteAdd(&netlink.Route{Table: 51820, Gw: u.Gateway.AsSlice(), LinkIndex: link.Attrs().Index}))
	all := uint32(0xffffffff)
	vpn := netlink.NewRule()
	vpn.Family, vpn.Priority, vpn.Table, vpn.Mark, vpn.Mask = unix.AF_INET, 9999, 51820, 51820, &all
	must(t, handle.RuleAdd(vpn))
	if r, code := h.doctor(); code == 1 || len(about(r, "ip -4 rule")) > 0 {
		t.Errorf("exit %d for a rule of somebody's mark: %+v", code, r.Findings)
	}
	must(t, handle.RuleDel(vpn))
	// As wg-quick writes them.
	vpn.Invert = true
	must(t, handle.RuleAdd(vpn))
	local := netlink.NewRule()
	local.Family, local.Priority, local.Table, local.SuppressPrefixlen = unix.AF_INET, 9998, unix.RT_TABLE_MAIN, 0
	must(t, handle.RuleAdd(local))
	if n := sources(); n != 1 {
		t.Fatalf("connections leave by %d uplinks in spite of the VPN's rule", n)
	}
	r, code := h.doctor()
	if found := about(r, "ip -4 rule pref 9999"); code != 1 || len(found) != 1 || found[0].Severity != doctor.Error {
		t.Errorf("exit %d: %+v", code, r.Findings)
	}
	must(t, handle.RuleDel(vpn))
	if r, code := h.doctor(); code == 1 {
		t.Errorf("exit %d afterwards: %+v", code, r.Findings)
	}
}

// TestDoctorMarks: another program's rules write our bits of the mark, so that
// connections leave by one uplink only; and those that write others do not.
func TestDoctorMarks(t *testing.T) {
	needPrograms(t, "nft")
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
	h.start(ctx, rig.Config(h.Topology, nil))
	status, err := h.Status(ctx)
	must(t, err)
	mark := status.Uplinks[0].Mark
	h.shell("nft add table inet qos", "nft add chain inet qos p { type filter hook prerouting priority -140; }",
		"nft add rule inet qos p iifname eth0 meta mark set meta mark and 0xffff00ff or 0x1200")
	if r, _ := h.doctor(); len(about(r, "chain inet qos")) > 0 {
		t.Errorf("for other bits: %+v", r.Findings)
	}
	h.shell("nft flush chain inet qos p", "nft add rule inet qos p iifname eth0 meta mark set "+fmt.Sprint(mark))
	if n := len(lab.Spread(ctx, h.Client(), 60, lab.Everywhere).Sources); n != 1 {
		t.Fatalf("connections leave by %d uplinks in spite of the marks", n)
	}
	r, code := h.doctor()
	if found := about(r, "chain inet qos p"); len(found) != 1 || found[0].Severity != doctor.Warning {
		t.Errorf("exit %d: %+v", code, r.Findings)
	}
	// Who does not ask doctor hears of it, too, and doctor does not say it twice.
	told := func() string {
		t.Helper()
		_, err := h.Reload(ctx)
		must(t, err)
		s, err := h.Status(ctx)
		must(t, err)
		return strings.Join(s.Warnings, "\n")
	}
	if w := told(); !strings.Contains(w, "chain inet qos p: it may write bits 0xff000000 of the packet's mark") || !strings.Contains(w, "under a mask that leaves ours out") || !strings.Contains(h.Log(), "chain inet qos p") {
		t.Errorf("status: %s", w)
	}
	r, code = h.doctor()
	if found := about(r, "chain inet qos p"); code != 3 && code != 1 || len(found) != 1 || slices.ContainsFunc(about(r, "agent"), func(f doctor.Finding) bool { return strings.Contains(f.What, "qos") }) {
		t.Errorf("exit %d: %+v", code, r.Findings)
	}
	h.shell("nft delete table inet qos")
	if w := told(); strings.Contains(w, "qos") {
		t.Errorf("it has gone: %s", w)
	}
}
