//go:build linux

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// explained is how many random configurations TestExplain tries, with 20
// packets each; seed is where their randomness begins.
var (
	explained   = flag.Int("explain", 50, "random configurations of TestExplain")
	explainSeed = flag.Uint64("explain-seed", 7, "seed of TestExplain's configurations and packets")
)

// explainHouse is a house with prefixes delegated, names in DNS, and somebody
// who sees what arrives in its LANs.
type explainHouse struct {
	*ruleHouse
	random *rand.Rand
	inside map[netip.Addr]*witness // by the addresses of who is in the LANs
	macs   []net.HardwareAddr      // of who is in the LANs
	users  bool
	cut    *lab.Uplink // has no carrier: nothing can come in; nil: none
}

// TestExplain: random packets of clients, the router and the internet, through
// random uplinks, policies, rules and port forwards, land where "agent explain"
// said.
func TestExplain(t *testing.T) {
	houses := append(slices.Clip(ruleHouses), situation{"ten uplinks", lab.NewRouter, lab.Options{Uplinks: 10, Clients: 2, ClientAddresses: 2}})
	for i, r := range houses {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			n := max(1, *explained/len(houses))
			ctx := deadline(t, time.Minute+time.Duration(n)*5*time.Second)
			h := newExplainHouse(ctx, t, r, rand.New(rand.NewPCG(*explainSeed, uint64(i))))
			kinds := map[string]int{}
			for range n {
				text := h.randomText()
				if err := h.Reconfigure(ctx, text); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				trouble, end := h.randomTrouble(ctx)
				for range 20 {
					for kind, wrong := range h.tryPacket(ctx) {
						kinds[kind]++
						if wrong != "" {
							t.Errorf("%s\nout: %s\n%s", wrong, trouble, text)
						}
					}
				}
				end()
				if t.Failed() {
					return
				}
			}
			t.Logf("packets: %v", kinds)
			if len(kinds) < 6 {
				t.Error("the packets are all alike")
			}
			for _, kind := range []string{"refused", "one uplink", "several", "remembered", "with an unknown address", "by domain", "by prefix", "forwarded", "from a LAN to a public address", "to the router", "dropped"} {
				if kinds[kind] == 0 && n > 50 {
					t.Errorf("no packet was of the kind %q", kind)
				}
			}
		})
	}
}

func newExplainHouse(ctx context.Context, t *testing.T, s situation, random *rand.Rand) *explainHouse {
	t.Helper()
	h := &explainHouse{ruleHouse: newRuleHouse(t, s.topology, s.options), random: random, inside: map[netip.Addr]*witness{}}
	// Labels have a part in the choice; nobody knows them before.
	for _, ns := range []*lab.NS{h.Clients[0], h.Clients[1], h.other, h.Topology.Router} {
		must(t, ns.Sysctl("net/ipv6/auto_flowlabels", "0"))
	}
	for i, ns := range h.Clients {
		w := watchInternet(t, ns)
		h.macs = append(h.macs, macOf(t, ns))
		for k := range s.options.ClientAddresses {
			four, six := lab.ClientAddress(i*s.options.ClientAddresses + k)
			h.inside[four], h.inside[six] = w, w
		}
	}
	w := watchInternet(t, h.other)
	h.macs = append(h.macs, macOf(t, h.other))
	h.inside[otherClient.Addr()], h.inside[otherClient6.Addr()] = w, w
	for _, u := range h.Uplinks {
		must(t, h.Topology.Router.AddRoute(leased(u)))
	}
	h.Server.Resolve("one.example", time.Hour, append(hosts(1), hosts(100)...)...)
	h.Server.Resolve("two.example", time.Hour, append(hosts(100), hosts(200)...)...)
	h.start(ctx, h.withUplinks(h.text(domainRules("default")), func(u *lab.Uplink) string { return dnsKeys(u) }))
	h.users = h.isUser(uid)
	for name, last := range map[string]byte{"one": 1, "two": 200} {
		for _, to := range hosts(last) {
			h.until(20*time.Second, name+".example is resolved", func() bool {
				e := h.explain(ctx, packet{ns: h.Client(), from: clientOf(to), to: to, proto: unix.IPPROTO_TCP, dport: 80})
				return e.Rule != nil && *e.Rule == name
			})
		}
	}
	return h
}

func dnsKeys(u *lab.Uplink) string { return fmt.Sprintf("dns = [%q, %q]\n", u.DNS, u.DNS6) }

// domainRules end every configuration: their addresses stay where they are.
func domainRules(policy string) string {
	text := ""
	for _, name := range []string{"one", "two"} {
		text += fmt.Sprintf("\n[[rule]]\nname = %q\ndomains = [\"%s.example\"]\npolicy = %q\n", name, name, policy)
	}
	return text
}

// withUplinks adds keys to the uplinks of a configuration.
func (h *ruleHouse) withUplinks(text string, keys func(*lab.Uplink) string) string {
	for _, u := range h.Uplinks {
		table := fmt.Sprintf("[uplink.%s]\n", u.Name)
		text = strings.Replace(text, table, table+keys(u), 1)
	}
	return text
}

func (h *ruleHouse) setUplink(verb, name string) error {
	out, errOut, code, err := h.Command("uplink", verb, name)
	if err != nil || code != 0 {
		return fmt.Errorf("agent uplink %s %s: exit %d: %w: %s%s", verb, name, code, err, out, errOut)
	}
	return nil
}

// oneIn is true once in n.
func (h *explainHouse) oneIn(n int) bool { return h.random.IntN(n) == 0 }

func (h *explainHouse) pick(all ...string) string { return all[h.random.IntN(len(all))] }

// randomText is a configuration.
func (h *explainHouse) randomText() string {
	text := h.text(h.randomPolicies(), h.randomForwards(), domainRules(h.pick("default", "a", "b")))
	off, pin := h.oneIn(4), h.Uplinks[h.random.IntN(3)]
	return h.withUplinks(text, func(u *lab.Uplink) string {
		keys := dnsKeys(u)
		if h.oneIn(3) {
			keys += "ipv6 = \"prefix\"\n"
		}
		if u == pin && h.oneIn(2) {
			keys += fmt.Sprintf("destinations = [%q, %q]\n", hosts(200)[0], hosts(200)[1])
		}
		if off && u == h.Uplinks[1] {
			keys += "enabled = false\n"
		}
		return keys + "bandwidth = { down = \"100mbit\", up = \"50mbit\" }\n"
	})
}

// randomTrouble takes an uplink out in some way, or none; end puts it back.
func (h *explainHouse) randomTrouble(ctx context.Context) (what string, end func()) {
	s, err := h.Status(ctx)
	must(h.t, err)
	var used []*lab.Uplink
	for _, u := range h.Uplinks[:3] {
		if h.state(s, u) == api.Up {
			used = append(used, u)
		}
	}
	u := used[h.random.IntN(len(used))]
	wait := func(state api.State) {
		_, err := h.Wait(ctx, func(s api.Status) bool { return h.state(s, u) == state })
		must(h.t, err)
	}
	switch {
	case h.oneIn(4):
		must(h.t, h.setUplink("disable", u.Name))
		return u.Name + " is disabled", func() { must(h.t, h.setUplink("enable", u.Name)) }
	case h.Switch == nil && h.oneIn(4):
		h.cut = u
		must(h.t, u.Carrier(false))
		wait(api.Down)
		return u.Name + " has no carrier", func() {
			must(h.t, u.Carrier(true))
			wait(api.Up)
			h.cut = nil
		}
	}
	return "none", func() {}
}

func (h *explainHouse) state(s api.Status, u *lab.Uplink) api.State {
	for _, x := range s.Uplinks {
		if x.Name == u.Name {
			return x.State
		}
	}
	return api.Disabled
}

// randomPolicies are policies and rules about the house's people.
func (h *explainHouse) randomPolicies() string {
	var b strings.Builder
	r := h.random
	uplinks := func() string {
		names := []string{h.name(0), h.name(1), h.name(2)}
		r.Shuffle(3, func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:1+r.IntN(3)]
		var tiers []string
		for len(names) > 0 {
			n := 1 + r.IntN(len(names))
			tiers = append(tiers, `["`+strings.Join(names[:n], `", "`)+`"]`)
			names = names[n:]
		}
		return "tiers = [" + strings.Join(tiers, ", ") + "]\n"
	}
	often := func() string {
		text := ""
		if h.oneIn(2) {
			text = fmt.Sprintf("weights = { %s = %d, %s = %d }\n", h.name(0), 1+r.IntN(4), h.name(1), 1+r.IntN(4))
		} else if h.oneIn(3) {
			text = "balance = \"capacity\"\n"
		}
		if h.oneIn(2) {
			text += fmt.Sprintf("sticky = %q\n", h.pick("source", "source-destination"))
		}
		return text
	}
	b.WriteString("\n[policy.default]\n" + often())
	for _, name := range []string{"a", "b"} {
		tiers := uplinks()
		fmt.Fprintf(&b, "[policy.%s]\n%s", name, tiers)
		more := often()
		if strings.Contains(more, "weights") && !(strings.Contains(tiers, h.name(0)) && strings.Contains(tiers, h.name(1))) {
			_, more, _ = strings.Cut(more, "\n")
		}
		b.WriteString(more)
		if h.oneIn(2) {
			b.WriteString("fallback = \"default\"\n")
		}
	}
	for range r.IntN(8) {
		b.WriteString("[[rule]]\n")
		local := h.oneIn(4)
		if local {
			b.WriteString("local = true\n")
		}
		protocols := []string{`"tcp"`, `"udp"`, `["tcp", "udp"]`, `"icmp"`, `["icmp", "tcp"]`}
		for _, key := range []string{
			"from = [" + h.pick(`"192.168.0.10"`, `"192.168.0.0/24", "fd00:1::/64"`, `"192.168.0.12/31", "fd00:1::c"`, `"fd00:7::/64", "192.168.7.0/24"`) + "]",
			"to = [" + h.pick(`"198.51.100.0/25"`, `"198.51.100.1", "2001:db8:ffff::1"`, `"2001:db8:ffff::/120", "198.51.100.200"`) + "]",
			"domains = [" + h.pick(`"one.example"`, `"two.example"`) + "]",
			"interfaces = [" + fmt.Sprintf("%q", h.pick(h.LAN, h.gained)) + "]",
			"macs = [" + h.pick(fmt.Sprintf("%q", h.macs[0]), fmt.Sprintf("%q, %q", h.macs[1], h.macs[2]), `"02:00:00:00:00:01"`) + "]",
			"dscp = [" + h.pick(`"ef"`, `"ef", "cs1"`) + "]",
			"source_ports = [" + h.pick(`"20000-40000"`, `"1024-30000"`) + "]",
			"ports = [" + h.pick(`443`, `"1-100"`, `"80-500", 22`) + "]",
		} {
			kind := key[:strings.Index(key, " ")]
			if h.oneIn(4) && !(local && slices.Contains([]string{"from", "interfaces", "macs"}, kind)) {
				b.WriteString(key + "\n")
				if strings.HasSuffix(kind, "ports") {
					protocols = protocols[:3] // those that have them
				}
			}
		}
		if h.oneIn(4) {
			b.WriteString("protocol = " + h.pick(protocols...) + "\n")
		}
		if local && h.oneIn(2) {
			fmt.Fprintf(&b, "uid = [%d]\n", uid)
		}
		b.WriteString(h.pick(`policy = "a"`, `policy = "b"`, `policy = "default"`, fmt.Sprintf("uplink = %q", h.name(r.IntN(3))), `action = "bypass"`) + "\n")
	}
	return b.String()
}

// forwardedPorts are those that may lead to somebody.
var forwardedPorts = []uint16{8000, 8001, 8002, 8003}

// randomForwards are port forwards to all who are in the LANs.
func (h *explainHouse) randomForwards() string {
	text := ""
	for _, v6 := range []bool{false, true} {
		for _, port := range forwardedPorts {
			if h.oneIn(5) {
				continue
			}
			to, six := lab.ClientAddress(h.random.IntN(4))
			if v6 {
				to = six
			}
			if h.oneIn(4) {
				if to = otherClient.Addr(); v6 {
					to = otherClient6.Addr()
				}
			}
			var more []string
			if h.oneIn(4) {
				more = append(more, fmt.Sprintf("uplinks = [%q]", h.name(h.random.IntN(3))))
			}
			if h.oneIn(4) {
				more = append(more, "hairpin = false")
			}
			if h.oneIn(4) {
				more = append(more, map[bool]string{false: `sources = ["198.51.100.0/25", "192.168.0.8/29"]`, true: `sources = ["2001:db8:ffff::/112", "fd00:1::8/125"]`}[v6])
			}
			text += forward(h.pick("tcp", "tcp", "udp"), fmt.Sprint(port), netip.AddrPortFrom(to, uint16(80+h.random.IntN(3))).String(), more...)
		}
	}
	return text
}

// randomPacket is a packet of somebody in the house or in the internet.
func (h *explainHouse) randomPacket() packet {
	r := h.random
	x := try{address: r.IntN(4), other: h.oneIn(4), router: h.oneIn(5), host: []byte{0, 1, 100, 200}[r.IntN(4)], sport: uint16(1024 + r.IntN(60000)),
		dport: []uint16{22, 80, 443, 444}[r.IntN(4)], proto: []uint8{unix.IPPROTO_TCP, udp, icmp}[r.IntN(3)], dscp: []uint8{0, 0, 8, 46}[r.IntN(4)], only: []int{4, 6}[r.IntN(2)]}
	if x.router && h.users && h.oneIn(2) {
		x.uid = uid
	}
	in := h.oneIn(4)
	if in || h.oneIn(5) { // to a public address
		x.dport, x.proto = forwardedPorts[r.IntN(len(forwardedPorts))], []uint8{unix.IPPROTO_TCP, unix.IPPROTO_TCP, udp}[r.IntN(3)]
		x.router = false
	} else {
		return h.packets(x)[0]
	}
	p := h.packets(x)[0]
	v6 := p.to.Is6()
	all := slices.DeleteFunc(slices.Clone(h.Uplinks[:3]), func(u *lab.Uplink) bool { return u == h.cut })
	u := all[r.IntN(len(all))]
	if in {
		p.ns, p.from = h.Internet, internet(v6).Addr()
	}
	client := p.from
	p.to = addressOf(u, v6)
	if in && v6 && h.oneIn(4) {
		p.to = outside(u, 0, client)
	}
	return p
}

// tryPacket sends a random packet, and says of what kinds it was and what was
// wrong with it.
func (h *explainHouse) tryPacket(ctx context.Context) map[string]string {
	h.t.Helper()
	p := h.randomPacket()
	request := h.request(p)
	if i := slices.IndexFunc(h.Uplinks, func(u *lab.Uplink) bool { return u.Delegated.Contains(p.to) }); i >= 0 {
		request.Interface = h.Uplinks[i].Interface
	}
	client := p.ns != h.Internet && p.ns != h.Topology.Router
	if client && h.oneIn(3) {
		h.forgetClient(p.ns)
	}
	e, err := api.Dial(h.Socket()).Explain(ctx, request)
	if err != nil {
		return map[string]string{"not explained": fmt.Sprintf("%s: %v", p, err)}
	}
	wrong := ""
	unknown := slices.ContainsFunc(e.Why, func(s string) bool { return strings.HasPrefix(s, "The hardware address") })
	if unknown || client && h.oneIn(3) {
		request.MAC = [6]byte(macOf(h.t, p.ns))
		given, err := api.Dial(h.Socket()).Explain(ctx, request)
		must(h.t, err)
		if !mayBe(e, given) {
			wrong = fmt.Sprintf("%s: explained as %s %q, and with its hardware address as %s %q", p, kindOf(e), e.Why, kindOf(given), given.Why)
		}
		e = given
	}
	if wrong == "" && !e.Agrees {
		wrong = fmt.Sprintf("%s: the kernel does not agree: %q", p, e.Why)
	}
	kinds := map[string]string{}
	said := func(part string) bool {
		return slices.ContainsFunc(e.Why, func(s string) bool { return strings.Contains(s, part) })
	}
	went := h.judge(p, e, func(kind string) { kinds[kind] = "" })
	if wrong == "" && went != "" {
		wrong = fmt.Sprintf("%s: went %s, explained as %s %q", p, went, kindOf(e), e.Why)
	}
	for kind, is := range map[string]bool{"remembered": said(" keeps this client"), "by domain": e.Rule != nil && (*e.Rule == "one" || *e.Rule == "two"), "incoming": p.ns == h.Internet, "with an unknown address": unknown,
		"by prefix": e.Source != nil && e.Uplink != nil && slices.ContainsFunc(h.Uplinks, func(u *lab.Uplink) bool { return u.Delegated.Contains(*e.Source) })} {
		if is {
			kinds[kind] = ""
		}
	}
	for kind := range kinds {
		kinds[kind] = wrong
		wrong = "" // told once
	}
	return kinds
}

// mayBe reports whether what was said of a packet is true of it when more is
// known.
func mayBe(e, more api.Explanation) bool {
	return sameIfSaid(e.Policy, more.Policy) && sameIfSaid(e.Uplink, more.Uplink) && sameIfSaid(e.Interface, more.Interface) && sameIfSaid(e.Gateway, more.Gateway) &&
		sameIfSaid(e.Source, more.Source) && sameIfSaid(e.Table, more.Table) && sameIfSaid(e.Rule, more.Rule) &&
		!slices.ContainsFunc(more.Candidates, func(m api.MemberStatus) bool { return !slices.Contains(e.Candidates, m) })
}

// sameIfSaid reports whether a says nothing, or the same as b.
func sameIfSaid[T comparable](a, b *T) bool { return a == nil || b != nil && *a == *b }

// judge sends a packet and returns "" if it went where it was said to go.
func (h *explainHouse) judge(p packet, e api.Explanation, is func(kind string)) string {
	h.t.Helper()
	const leads = "A port forward leads it on to "
	dropped, here := false, false
	var to netip.AddrPort
	for _, s := range e.Why {
		if rest, ok := strings.CutPrefix(s, leads); ok {
			to = netip.MustParseAddrPort(strings.TrimSuffix(rest, "."))
		}
		dropped = dropped || strings.Contains(s, "drops it") || strings.HasPrefix(s, "It is dropped") || strings.HasPrefix(s, "It is answered with")
		here = here || s == "It is for the router itself."
	}
	const soon, later = 100 * time.Millisecond, 2 * time.Second
	switch {
	case slices.ContainsFunc(e.Why, func(s string) bool { return strings.HasPrefix(s, "Answers go nowhere") }):
		is("unanswered")
		if _, failed := h.follow(p, nil, p.destination(), soon); failed == answered {
			return failed
		}
	case to.IsValid() && !dropped:
		is("forwarded")
		a, failed := h.follow(p, h.inside[to.Addr()], destination{to.Addr(), to.Port(), p.proto}, later)
		want := p.from
		if p.ns != h.Internet {
			is("from a LAN to a public address")
			want = *e.Source
		}
		if failed != "" || a.from != want {
			return fmt.Sprintf("to %s from %s %s", to, a.from, failed)
		}
	case here:
		is("to the router")
		if a, failed := h.follow(p, nil, p.destination(), map[bool]time.Duration{true: later, false: soon}[p.proto == unix.IPPROTO_TCP]); failed != answered && p.proto == unix.IPPROTO_TCP {
			return fmt.Sprintf("unanswered from %s %s", a.from, failed)
		}
	case dropped || e.Table == nil:
		is("dropped")
		w := h.witness
		if i := slices.IndexFunc(h.Uplinks, func(u *lab.Uplink) bool { return u.Delegated.Contains(p.to) }); i >= 0 {
			w = h.inside[p.from]
		}
		if to.IsValid() {
			w = h.inside[to.Addr()]
		}
		a, failed := h.follow(p, w, p.destination(), soon)
		if failed == refused {
			is("refused")
		}
		if failed == "" || failed == answered {
			return fmt.Sprintf("from %s %s", a.from, failed)
		}
	default:
		is(map[bool]string{true: "one uplink", false: "several"}[len(e.Candidates) == 1])
		a, failed := h.follow(p, h.witness, p.destination(), later)
		if !h.landed(p, e, a, failed) {
			return fmt.Sprintf("from %s %s", a.from, failed)
		}
	}
	return ""
}

// answered is what became of a packet whose sender got an answer that nobody is
// there: no closed port is silent.
const answered = "answered"

// follow sends a packet and says with which address a witness saw it, there and
// with that destination; without a witness, whether it was answered. To see the
// answer, too, it waits for that of TCP where the packet came from the internet.
func (h *explainHouse) follow(p packet, w *witness, to destination, patience time.Duration) (arrival, string) {
	h.t.Helper()
	if w != nil {
		w.forget(to)
	}
	file, err := p.open()
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		h.t.Fatalf("sending %s: %v", p, err)
	}
	if err != nil {
		return arrival{}, answered
	}
	if file == nil {
		return arrival{}, refused
	}
	defer file.Close()
	var seen *arrival
	closed := false                                                             // the kernel tells it once
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) { // a condition with a deadline
		if w != nil && seen == nil {
			if a, ok := w.find(to); ok {
				seen = &a
			}
		}
		failed := socketError(h.t, file)
		closed = closed || errors.Is(failed, unix.ECONNREFUSED)
		switch {
		case seen != nil && (closed || p.ns != h.Internet || p.proto != unix.IPPROTO_TCP):
			return *seen, ""
		case unreachable(failed):
			return arrival{}, refused
		case closed && w == nil:
			return arrival{}, answered
		case time.Now().After(end) && seen != nil:
			return *seen, "unanswered"
		case time.Now().After(end):
			return arrival{}, lost
		}
	}
}

func socketError(t *testing.T, file *os.File) unix.Errno {
	t.Helper()
	raw, err := file.SyscallConn()
	must(t, err)
	failed := 0
	must(t, raw.Control(func(fd uintptr) { failed, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) }))
	must(t, err)
	return unix.Errno(failed)
}

// landed reports whether a packet to the internet went where it was said to go.
func (h *explainHouse) landed(p packet, e api.Explanation, a arrival, failed string) bool {
	// A client's TCP puts a hash of its own on its packets, which stays on them
	// within one computer and decides instead of addresses and ports
	// (skb_set_hash_from_sk).
	hashed := p.proto == unix.IPPROTO_TCP && p.ns != h.Topology.Router && len(e.Candidates) > 1
	if e.Source != nil && !hashed {
		return failed == "" && a.from == *e.Source
	}
	return failed == "" && len(e.Candidates) > 1 && slices.ContainsFunc(h.Uplinks, func(u *lab.Uplink) bool {
		return (addressOf(u, p.to.Is6()) == a.from || u.Delegated.Contains(a.from)) && slices.ContainsFunc(e.Candidates, func(m api.MemberStatus) bool { return m.Uplink == u.Name })
	})
}

// kindOf sums an explanation up.
func kindOf(e api.Explanation) string {
	rule, policy, uplink, source := "no rule", "no policy", "no uplink", "as nobody"
	if e.Rule != nil {
		rule = fmt.Sprintf("rule %q", *e.Rule)
	}
	if e.Policy != nil {
		policy = "policy " + *e.Policy
	}
	if e.Uplink != nil {
		uplink = "uplink " + *e.Uplink
	}
	if e.Source != nil {
		source = "as " + e.Source.String()
	}
	return fmt.Sprintf("%s, %s, %s of %v, %s", rule, policy, uplink, e.Candidates, source)
}
