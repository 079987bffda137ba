//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
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

	"multiroute/agent/api"
	"multiroute/agent/dns"
	"multiroute/routes"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Rules by domain, judged by the uplink on which the internet sees connections
// to the addresses that the lab's DNS gives.

// domainHouse is a house whose default policy is the first uplink: what comes by
// the second one went there by a rule.
type domainHouse struct {
	*house
	ctx context.Context
}

func newDomainHouse(t *testing.T) *domainHouse {
	return &domainHouse{newHouse(t, lab.NewRouter, lab.Options{}), deadline(t, time.Minute)}
}

// text is a configuration with DNS servers and rules.
func (h *domainHouse) text(rules ...string) string {
	return uplinkTablesWith(h.house, []int{0, 1}, []int{1, 1}, func(i int) string {
		return fmt.Sprintf("dns = [%q, %q]\n", h.Uplinks[i].DNS, h.Uplinks[i].DNS6)
	}, fmt.Sprintf("\n[policy.default]\ntiers = [[%q], [%q]]\n", h.Uplinks[0].Name, h.Uplinks[1].Name), strings.Join(rules, "\n"))
}

// rule sends domains to the second uplink.
func (h *domainHouse) rule(more string, domains ...string) string {
	return fmt.Sprintf("[[rule]]\ndomains = [\"%s\"]\nuplink = %q\n%s\n", strings.Join(domains, `", "`), h.Uplinks[1].Name, more)
}

// hosts are addresses of the internet, of both families, with that last byte.
func hosts(last byte) []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{lab.InternetAddress, lab.InternetAddress6} {
		b := a.AsSlice()
		b[len(b)-1] = last
		a, _ = netip.AddrFromSlice(b)
		all = append(all, a)
	}
	return all
}

// by connects once, and returns the uplink on which the internet saw it.
func (h *domainHouse) by(ns *lab.NS, to netip.Addr) string {
	h.t.Helper()
	r := lab.Spread(h.ctx, ns, 1, lab.To(netip.AddrPortFrom(to, lab.PortTCP)))
	for _, u := range h.Uplinks {
		if r.Sources[u.Address.Addr()]+r.Sources[u.Address6.Addr()] > 0 {
			return u.Name
		}
	}
	return r.String()
}

// goes waits until connections to addresses are seen on an uplink.
func (h *domainHouse) goes(ns *lab.NS, i int, to ...netip.Addr) {
	h.t.Helper()
	for _, a := range to {
		h.until(20*time.Second, fmt.Sprintf("%s by %s", a, h.Uplinks[i].Name), func() bool { return h.by(ns, a) == h.Uplinks[i].Name })
	}
}

// went asserts on which uplink the next connection to each address is seen.
func (h *domainHouse) went(what string, ns *lab.NS, i int, to ...netip.Addr) {
	h.t.Helper()
	for _, a := range to {
		if got := h.by(ns, a); got != h.Uplinks[i].Name {
			h.t.Errorf("%s: %s went by %s, wanted %s", what, a, got, h.Uplinks[i].Name)
		}
	}
}

func (h *domainHouse) file(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Folder, "run", name))
	must(h.t, err)
	return string(b)
}

// TestDomainsResolved: the agent resolves exact names by itself and again when
// their TTL ends; addresses outlive reload and crash, and go when they are not
// answered any more.
func TestDomainsResolved(t *testing.T) {
	h := newDomainHouse(t)
	h.Server.Resolve("video.example", time.Second, hosts(7)...)
	h.Server.Resolve("long.example", time.Hour, hosts(9)...)
	h.Server.Alias("alias.example", "cdn.example.net", time.Hour)
	h.Server.Resolve("cdn.example.net", time.Hour, hosts(10)...)
	h.Server.Resolve("own.example", time.Hour, hosts(11)...)
	rules := []string{h.rule("", "Video.example", "missing.example"), h.rule("", "long.example", "alias.example"), h.rule("local = true", "own.example")}
	h.start(h.ctx, h.text(rules...))
	client, router := h.Client(), h.Topology.Router
	h.goes(client, 1, slices.Concat(hosts(7), hosts(9), hosts(10))...)
	h.goes(router, 1, hosts(11)...)
	h.went("no address of a domain", client, 0, slices.Concat(hosts(8), hosts(11))...)
	h.went("no address of the router's rule", router, 0, hosts(9)...)

	for _, a := range hosts(9) {
		e, err := api.Dial(h.Socket()).Explain(h.ctx, api.ExplainRequest{From: clientOf(a), To: a, Protocol: syscall.IPPROTO_TCP, FromPort: 40000, ToPort: 80})
		must(t, err)
		if e.Rule == nil || *e.Rule != "rule 2" || e.Uplink == nil || *e.Uplink != h.Uplinks[1].Name || !e.Agrees {
			t.Errorf("%s is explained as %+v", a, e)
		}
	}

	// Another answer: the new address matches, the old one does not any more.
	h.Server.Resolve("video.example", time.Second, hosts(8)...)
	h.goes(client, 1, hosts(8)...)
	h.goes(client, 0, hosts(7)...)

	h.Server.Resolve("more.example", time.Hour, hosts(12)...)
	must(t, h.Reconfigure(h.ctx, h.text(append([]string{h.rule("", "more.example")}, rules...)...)))
	h.went("after a reload", client, 1, slices.Concat(hosts(9), hosts(10))...)
	h.goes(client, 1, hosts(12)...)
	must(t, h.End(syscall.SIGKILL))
	h.went("without an agent", client, 1, slices.Concat(hosts(9), hosts(12))...)
	must(t, h.Run(h.ctx))
	h.went("after a crash", client, 1, slices.Concat(hosts(9), hosts(12))...)

	// The table is gone and made anew: so is what is in it.
	h.nft("delete table inet multiroute")
	_, err := h.Wait(h.ctx, func(s api.Status) bool { return s.Drift.Repairs > 0 }) // until then nothing is NATed
	must(t, err)
	h.goes(client, 1, slices.Concat(hosts(9), hosts(10), hosts(12))...)
}

// nft runs nft(8) commands in the router.
func (h *domainHouse) nft(commands string) {
	h.t.Helper()
	needPrograms(h.t, "nft")
	out, errOut, code, err := h.Exec("nft", commands)
	if err != nil || code != 0 {
		h.t.Fatalf("nft %s: exit %d, %v: %s%s", commands, code, err, out, errOut)
	}
}

// clientOf is the first client's address of a's family.
func clientOf(a netip.Addr) netip.Addr {
	four, six := lab.ClientAddress(0)
	if a.Is4() {
		return four
	}
	return six
}

// dnsmasq runs a real one in the router, with our files, for its clients.
func (h *domainHouse) dnsmasq() *process {
	h.t.Helper()
	needPrograms(h.t, "dnsmasq")
	folder := filepath.Join(h.Folder, "run")
	conf := filepath.Join(h.Folder, "dnsmasq.conf")
	must(h.t, os.WriteFile(conf, fmt.Appendf(nil, "conf-file=%s/dnsmasq.conf\nresolv-file=%s/resolv.conf\n", folder, folder), 0o644))
	p := &process{}
	// Without --user and --group it stays what it is, which works in a user namespace, too.
	cmd := exec.Command("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-queries", "--user=", "--group=", "--pid-file=", "--no-hosts",
		"--listen-address="+lab.LANAddress.Addr().String(), "--bind-interfaces", "--conf-file="+conf)
	cmd.Stdout, cmd.Stderr = p, p
	must(h.t, h.Topology.Router.Start(cmd))
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("the end of dnsmasq's log:\n%s", tail(p.String(), 60))
		}
	})
	return p
}

// process is what a program prints.
type process struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *process) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

// ask has the client ask the router's dnsmasq.
func (h *domainHouse) ask(name string, family routes.Family) dns.Addresses {
	h.t.Helper()
	query, err := dns.NewQuery(name, family, make([]byte, dns.RandomBytes))
	must(h.t, err)
	c, err := h.Client().DialUDP(lab.Socket{}, netip.AddrPortFrom(lab.LANAddress.Addr(), dns.Port))
	must(h.t, err)
	defer c.Close()
	b := make([]byte, 4096)
	for h.ctx.Err() == nil {
		if _, err := c.Write(query); err != nil { // it does not listen yet
			time.Sleep(10 * time.Millisecond)
			continue
		}
		must(h.t, c.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := c.Read(b)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		x, err := dns.Parse(b[:n], query, family)
		must(h.t, err)
		return x
	}
	h.t.Fatalf("nobody answers for %s", name)
	return dns.Addresses{}
}

// visit asks for a name and connects at once to what was answered.
func (h *domainHouse) visit(name string, i int, want ...netip.Addr) {
	h.t.Helper()
	for k, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		x := h.ask(name, f)
		if len(x.Addrs) != 1 || x.Addrs[0] != want[k] {
			h.t.Errorf("%s is %v, wanted %s", name, x.Addrs, want[k])
			continue
		}
		h.went("the first connection to "+name, h.Client(), i, x.Addrs[0])
	}
}

// TestDomainsDnsmasq: with dnsmasq, the first connection after the client's
// answer is right.
func TestDomainsDnsmasq(t *testing.T) {
	h := newDomainHouse(t)
	h.start(h.ctx, h.text(h.rule("", "exact.example", "*.wild.example"), h.rule("", "*.wild.example", "deep.other.example")))
	log := h.dnsmasq()
	for i := range byte(20) {
		h.Server.Resolve(fmt.Sprintf("www%d.wild.example", i), time.Hour, hosts(20+i)...)
	}
	h.Server.Resolve("exact.example", time.Hour, hosts(60)...)
	h.Server.Resolve("a.b.c.wild.example", time.Hour, hosts(61)...)
	h.Server.Alias("alias.wild.example", "far.example.net", time.Hour)
	h.Server.Alias("far.example.net", "farther.example.net", time.Hour)
	h.Server.Resolve("farther.example.net", time.Hour, hosts(62)...)
	h.Server.Resolve("deep.other.example", time.Hour, hosts(63)...)
	h.Server.Resolve("other.example", time.Hour, hosts(64)...)
	h.Server.Resolve("notwild.example", time.Hour, hosts(65)...)
	h.Server.Resolve("short.wild.example", time.Second, hosts(66)...)
	for i := range byte(20) {
		h.visit(fmt.Sprintf("www%d.wild.example", i), 1, hosts(20+i)...)
	}
	h.visit("Exact.Example", 1, hosts(60)...)
	h.visit("a.b.c.wild.example", 1, hosts(61)...)
	h.visit("alias.wild.example", 1, hosts(62)...)
	h.visit("deep.other.example", 1, hosts(63)...)
	h.visit("other.example", 0, hosts(64)...)
	h.visit("notwild.example", 0, hosts(65)...)

	// A short TTL: the next answer is another one, and right at once; the one
	// before is still with clients.
	h.visit("short.wild.example", 1, hosts(66)...)
	h.Server.Resolve("short.wild.example", time.Second, hosts(67)...)
	h.until(5*time.Second, "the TTL's end", func() bool { return slices.Contains(h.ask("short.wild.example", routes.IPv4).Addrs, hosts(67)[0]) })
	h.until(5*time.Second, "the TTL's end", func() bool { return slices.Contains(h.ask("short.wild.example", routes.IPv6).Addrs, hosts(67)[1]) })
	h.went("after the TTL", h.Client(), 1, slices.Concat(hosts(66), hosts(67))...)

	must(t, h.Reconfigure(h.ctx, h.text(h.rule("", "new.example"), h.rule("", "*.wild.example", "deep.other.example"))))
	h.went("after a reload", h.Client(), 1, hosts(20)...)
	if text := log.String(); strings.Contains(text, "Error") {
		t.Errorf("dnsmasq complains: %s", text)
	}
}

// TestDomainsCached: dnsmasq does not tell again what it has in its cache, and yet
// its addresses are right after the table was lost, after another agent began,
// and in a list that has one domain more.
func TestDomainsCached(t *testing.T) {
	h := newDomainHouse(t)
	h.start(h.ctx, h.text(h.rule("", "*.wild.example")))
	h.dnsmasq()
	h.Server.Resolve("www.wild.example", time.Hour, hosts(20)...)
	h.Server.Resolve("www2.wild.example", time.Hour, hosts(21)...)
	h.visit("www.wild.example", 1, hosts(20)...)
	lose := func(repairs uint64) {
		passes(h.ctx, 6*time.Second) // what is younger than 5 seconds may be lost
		h.nft("delete table inet multiroute")
		_, err := h.Wait(h.ctx, func(s api.Status) bool { return s.Drift.Repairs > repairs })
		must(t, err)
		passes(h.ctx, 500*time.Millisecond)
	}
	lose(0)
	h.visit("www.wild.example", 1, hosts(20)...)
	must(t, h.End(syscall.SIGKILL))
	must(t, h.Run(h.ctx))
	h.visit("www2.wild.example", 1, hosts(21)...)
	lose(0)
	h.visit("www.wild.example", 1, hosts(20)...)
	h.visit("www2.wild.example", 1, hosts(21)...)

	must(t, h.Configure(h.text(h.rule("", "*.wild.example", "*.more.example"))))
	out, errOut, _, err := h.Command("reload")
	if err != nil || !strings.Contains(out+errOut, "dnsmasq fills their sets, restart it") {
		t.Errorf("reload: %v %s %s", err, out, errOut)
	}
	passes(h.ctx, 500*time.Millisecond)
	h.visit("www.wild.example", 1, hosts(20)...)
}

// TestDomainsFirstMatch: lists over each other, and first match wins.
func TestDomainsFirstMatch(t *testing.T) {
	h := newDomainHouse(t)
	first := fmt.Sprintf("[[rule]]\nname = \"first\"\ndomains = [\"*.mail.wild.example\"]\nuplink = %q\n", h.Uplinks[0].Name)
	h.start(h.ctx, h.text(first, h.rule("", "*.wild.example")))
	h.dnsmasq()
	h.Server.Resolve("in.mail.wild.example", time.Hour, hosts(30)...)
	h.Server.Resolve("in.wild.example", time.Hour, hosts(31)...)
	h.visit("in.mail.wild.example", 0, hosts(30)...)
	h.visit("in.wild.example", 1, hosts(31)...)
	must(t, h.Reconfigure(h.ctx, h.text(h.rule("", "*.wild.example"), first)))
	h.went("with the rules in the other order", h.Client(), 1, hosts(30)...)
}

// TestResolvConf: the file has the servers of usable uplinks, in order, as soon
// as the agent knows, and dnsmasq follows. What is not ours stays.
func TestResolvConf(t *testing.T) {
	h := newDomainHouse(t)
	h.start(h.ctx, h.text(h.rule("", "*.wild.example")))
	h.dnsmasq()
	is := func(what string, uplinks ...int) {
		t.Helper()
		if got, want := h.nameservers(), h.servers(uplinks...); got != want {
			t.Errorf("%s: resolv.conf is\n%swanted\n%s", what, got, want)
		}
	}
	h.Server.Resolve("one.wild.example", time.Hour, hosts(30)...)
	h.Server.Resolve("two.wild.example", time.Hour, hosts(31)...)
	is("at the start", 0, 1)
	h.visit("one.wild.example", 1, hosts(30)...)
	h.uplink("disable", 0)
	is("without the first uplink", 1)
	h.visit("two.wild.example", 1, hosts(31)...)
	h.uplink("disable", 1)
	is("without both")
	h.uplink("enable", 0)
	is("without the second", 0)
	h.uplink("enable", 1)
	is("with both", 0, 1)

	path := filepath.Join(h.Folder, "run", "resolv.conf")
	must(t, os.WriteFile(path, []byte("nameserver 9.9.9.9\n"), 0o644))
	h.uplink("disable", 0)
	if got := h.file("resolv.conf"); got != "nameserver 9.9.9.9\n" {
		t.Errorf("somebody else's resolv.conf is %s", got)
	}
	out, errOut, code, err := h.Command("purge")
	if err != nil || code != 0 {
		t.Fatalf("purge: exit %d, %v: %s%s", code, err, out, errOut)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("purge took somebody else's file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.Folder, "run", "dnsmasq.conf")); err == nil {
		t.Error("purge left dnsmasq.conf")
	}
}

// nameservers is resolv.conf without its first line.
func (h *domainHouse) nameservers() string {
	h.t.Helper()
	_, rest, _ := strings.Cut(h.file("resolv.conf"), "\n")
	return rest
}

// servers are the lines of resolv.conf for uplinks.
func (h *domainHouse) servers(uplinks ...int) string {
	text := ""
	for _, i := range uplinks {
		text += fmt.Sprintf("nameserver %s\nnameserver %s\n", h.Uplinks[i].DNS, h.Uplinks[i].DNS6)
	}
	return text
}

// TestResolvConfFailover: the servers of an uplink that dies leave the file,
// and return with it, whether its link or its probes tell.
func TestResolvConfFailover(t *testing.T) {
	h := newDomainHouse(t)
	h.start(h.ctx, strings.Replace(h.text(), rig.LinksOnly, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n\n", 1))
	becomes := func(what string, uplinks ...int) {
		t.Helper()
		begin := time.Now()
		h.until(5*time.Second, what+": resolv.conf follows", func() bool { return h.nameservers() == h.servers(uplinks...) })
		t.Logf("%s: resolv.conf is right after %.0f ms", what, ms(time.Since(begin)))
	}
	becomes("at the start", 0, 1)
	for i, u := range h.Uplinks[:2] {
		for _, way := range []struct {
			name string
			dies func(dead bool) error
		}{
			{"the carrier", func(dead bool) error { return u.Carrier(!dead) }},
			{"what is behind the gateway", u.Provider.Blackhole},
		} {
			must(t, way.dies(true))
			becomes(u.Name+" without "+way.name, 1-i)
			must(t, way.dies(false))
			becomes(u.Name+" with "+way.name, 0, 1)
		}
	}
}

// uplink takes an uplink out, or puts it back.
func (h *domainHouse) uplink(verb string, i int) {
	h.t.Helper()
	out, errOut, code, err := h.Command("uplink", verb, h.Uplinks[i].Name)
	if err != nil || code != 0 {
		h.t.Fatalf("uplink %s: exit %d, %v: %s%s", verb, code, err, out, errOut)
	}
}
