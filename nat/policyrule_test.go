package nat

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// ruleSpec is a house with rules and some policies: voice, video, and one that
// leaves routing alone.
func ruleSpec(rules ...PolicyRule) Spec {
	s := separate()
	s.Policies = []Policy{defaultPolicy, {Name: "voice", ID: 10, Mark: markOf(10)}, {Name: "video", ID: 11, Mark: markOf(11)}, {Name: "bypass", ID: 12, Mark: markOf(12), Bypass: true}}
	s.Rules = rules
	return s
}

// mixedRules are rules of many kinds.
func mixedRules() []PolicyRule {
	voice, video, bypass := markOf(10), markOf(11), markOf(12)
	return []PolicyRule{
		{From: nets("192.168.0.20/32", "192.168.7.0/24", "fd00:1::20/128"), Policy: voice},
		{From: nets("192.168.0.30/32", "fd00:1::30/128"), Policy: video},
		{From: nets("192.168.0.20/30"), Policy: video},
		{To: nets("203.0.113.0/24"), Ports: []PortRange{{5060, 5061}, {10000, 10000}}, Protocols: []uint8{17}, Policy: voice},
		{To: nets("203.0.113.0/24"), Ports: []PortRange{{80, 80}}, Protocols: []uint8{6}, Policy: video},
		{DSCP: []uint8{46, 26}, Policy: voice},
		{MACs: [][6]byte{{2, 0, 0, 0, 0, 1}}, Interfaces: []string{"eth0"}, Policy: video},
		{MACs: [][6]byte{{2, 0, 0, 0, 0, 2}}, Interfaces: []string{"eth9"}, Policy: voice},
		{SourcePorts: []PortRange{{1, 1023}}, Policy: bypass},
		{Protocols: []uint8{47}, Policy: bypass},
		{From: nets("0.0.0.0/0"), To: nets("198.51.100.0/24", "2001:db8:ffff::/48"), Policy: video},
		{Local: true, UIDs: []uint32{1000, 1001}, Policy: voice},
		{Local: true, UIDs: []uint32{1002}, Policy: bypass},
		{Local: true, To: nets("203.0.113.7/32"), Ports: []PortRange{{25, 25}}, Policy: video},
	}
}

// firstMatch is what the rules say, rule by rule: the mark of the policy.
func firstMatch(rules []PolicyRule, p *packet, holds func(set, key string) bool) uint32 {
	from := Packet{In: p.in, Source: p.src, Destination: p.dst, SourcePort: p.sport, DestPort: p.dport, Protocol: p.proto, MAC: p.mac, DSCP: p.dscp, UID: p.uid}
	for _, r := range rules {
		if r.Matches(from, holds) {
			return r.Policy
		}
	}
	return 0
}

// randomRules makes rules with few different values, so that they overlap, and
// often the shape of the one before.
func randomRules(r *rand.Rand) []PolicyRule {
	prefix := func() netip.Prefix {
		if r.IntN(3) == 0 {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(8))}), 122+r.IntN(7))
		}
		if r.IntN(40) == 0 {
			return nets("0.0.0.0/0", "::/0")[r.IntN(2)]
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(8))}), 27+r.IntN(6))
	}
	port := func() PortRange {
		lo := uint16(r.IntN(6))
		return PortRange{lo, lo + uint16(r.IntN(3))}
	}
	var rules []PolicyRule
	shape := 0
	for range 1 + r.IntN(14) {
		if r.IntN(4) == 0 {
			shape = r.IntN(1 << 12)
		}
		x := PolicyRule{Policy: markOf(9 + r.IntN(4)), Local: shape&1 != 0 && shape&2 != 0}
		if r.IntN(20) == 0 {
			x.Policy = markOf(99) // of no policy
		}
		if shape&4 != 0 {
			x.From = some(r, prefix)
		}
		if shape&8 != 0 {
			x.To = some(r, prefix)
		}
		if shape&16 != 0 {
			x.Ports = some(r, port)
		}
		if shape&32 != 0 {
			x.SourcePorts = some(r, port)
		}
		if shape&64 != 0 {
			x.Protocols = some(r, func() uint8 { return []uint8{1, 6, 17, 47}[r.IntN(4)] })
		}
		if shape&128 != 0 && shape&2 != 0 {
			x.DSCP = some(r, func() uint8 { return uint8(r.IntN(3)) })
		}
		if shape&256 != 0 && !x.Local {
			x.Interfaces = some(r, func() string { return []string{"eth0", "eth9"}[r.IntN(2)] })
		}
		if shape&(1024|2048) == 1024|2048 {
			x.ToLists = some(r, func() string { return testLists[r.IntN(len(testLists))] })
		}
		if shape&512 != 0 {
			if x.Local {
				x.UIDs = some(r, func() uint32 { return uint32(r.IntN(3)) })
			} else {
				x.MACs = some(r, func() [6]byte { return [6]byte{5: byte(r.IntN(3))} })
			}
		}
		rules = append(rules, x)
	}
	return rules
}

// testLists are lists of addresses; listed says what is in them.
var testLists = []string{"domain-x", "domain-y", "domain-z"}

// listed: an address's last byte decides.
func listed(set, key string) bool {
	i := slices.Index(testLists, set[:len(set)-1])
	return i >= 0 && (set[len(set)-1] == '4') == (len(key) == 4) && key[len(key)-1]>>i&1 == 1
}

func some[T any](r *rand.Rand, one func() T) []T {
	var all []T
	for range 1 + r.IntN(3) {
		all = append(all, one())
	}
	return all
}

// TestPolicyRulesRandom: whatever rules there are and whatever packet comes, it
// gets the policy of the first rule that matches.
func TestPolicyRulesRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	matched, grouped := 0, 0
	for range 4000 {
		rules := randomRules(r)
		spec := ruleSpec(rules...)
		spec.LAN, spec.Lists = []string{"eth0", "eth9"}, testLists
		compiled := Compile(spec)
		checkSound(t, compiled)
		grouped += len(compiled.Sets)
		for range 20 {
			p := packet{in: "eth0", proto: []uint8{1, 6, 17, 47}[r.IntN(4)], sport: uint16(r.IntN(9)), dport: uint16(r.IntN(9)), dscp: uint8(r.IntN(4)), uid: uint32(r.IntN(4)), mac: [6]byte{5: byte(r.IntN(4))}, conn: fresh()}
			if r.IntN(2) == 0 {
				p.in = "eth9"
			}
			p.src, p.dst = netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))}), netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))})
			if r.IntN(3) == 0 {
				p.src, p.dst = netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))}), netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))})
			}
			w := &walker{rules: compiled, holds: listed}
			if r.IntN(4) == 0 {
				p.in, p.out = "", "eth1"
			}
			want := firstMatch(rules, &p, listed)
			if want == markOf(99) {
				want = 0
			}
			if want != 0 {
				matched++
			}
			before := p
			if p.in == "" {
				w.hook(Output, &p)
			} else {
				w.hook(Prerouting, &p)
			}
			if p.mark != want || w.err != nil {
				t.Fatalf("packet %+v got mark %#x, wanted %#x, %v\nway %q\nrules %+v\n%s", before, p.mark, want, w.err, w.trace, rules, compiled)
			}
		}
	}
	t.Logf("%d packets matched, %d sets", matched, grouped)
	if matched < 10000 || grouped < 3000 {
		t.Errorf("too little was tried: %d packets matched, %d sets", matched, grouped)
	}
}

// manyRules are n rules of one shape.
func manyRules(shape string, n int) []PolicyRule {
	var rules []PolicyRule
	for i := range n {
		x := PolicyRule{Policy: markOf(10 + i%2)}
		host := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		switch shape {
		case "from":
			x.From = []netip.Prefix{netip.PrefixFrom(host, 32)}
		case "from, both families":
			x.From = []netip.Prefix{netip.PrefixFrom(host, 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 128)}
		case "to":
			x.To = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)}
		case "ports":
			x.Ports = []PortRange{{uint16(1000 + 3*i), uint16(1001 + 3*i)}}
		case "from . port":
			x.From = []netip.Prefix{netip.PrefixFrom(host, 32)}
			x.Ports = []PortRange{{uint16(1000 + i), uint16(1000 + i)}}
			x.Protocols = []uint8{6}
		case "to . ports":
			x.To = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)}
			x.Ports = []PortRange{{80, 90}, {443, 443}, {uint16(1000 + i), uint16(2000 + i)}}
		}
		rules = append(rules, x)
	}
	return rules
}

var shapes = []string{"from", "from, both families", "to", "ports", "from . port", "to . ports"}

// TestPolicyRulesMany: a thousand rules of one shape are one rule in the kernel,
// for each family.
func TestPolicyRulesMany(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape, func(t *testing.T) {
			compiled := Compile(ruleSpec(manyRules(shape, 1000)...))
			checkSound(t, compiled)
			want := 1
			if strings.Contains(shape, "both") {
				want = 2
			}
			if got := len(compiled.Chain(rulesChain).Rules); got != want {
				t.Errorf("%d rules, wanted %d", got, want)
			}
			if got := len(compiled.Sets); got != want {
				t.Errorf("%d sets, wanted %d", got, want)
			}
			// One more rule changes one set, and no other rule.
			more := Compile(ruleSpec(manyRules(shape, 1001)...))
			if commands := compiled.State().Commands(more); len(commands) != 1+3*want {
				t.Errorf("one rule more takes %d commands", len(commands))
			}
		})
	}
}

// TestPolicyRulesSets: which rules become one look-up.
func TestPolicyRulesSets(t *testing.T) {
	voice, video := markOf(10), markOf(11)
	from := func(policy uint32, list ...string) PolicyRule { return PolicyRule{From: nets(list...), Policy: policy} }
	port := func(r PolicyRule, lo, hi uint16) PolicyRule { r.Ports = []PortRange{{lo, hi}}; return r }
	for _, c := range []struct {
		name  string
		rules []PolicyRule
		want  []string // the chain's rules, and what is in the sets
	}{
		{"one rule", []PolicyRule{from(voice, "10.0.0.1/32")}, []string{"ip saddr 10.0.0.1 goto policy-10-voice"}},
		{"neighbours become a prefix", []PolicyRule{from(voice, "10.0.0.1/32"), from(voice, "10.0.0.0/32")}, []string{"ip saddr 10.0.0.0/31 goto policy-10-voice"}},
		{"or a range", []PolicyRule{from(voice, "10.0.0.1/32"), from(voice, "10.0.0.2/31")}, []string{"ip saddr 10.0.0.1-10.0.0.3 goto policy-10-voice"}},
		{"the first wins: cut", []PolicyRule{from(voice, "10.0.0.4/32"), from(video, "10.0.0.0/29")},
			[]string{"ip saddr vmap @", "10.0.0.0/30 : goto policy-11-video, 10.0.0.4 : goto policy-10-voice, 10.0.0.5-10.0.0.7 : goto policy-11-video"}},
		{"never reached", []PolicyRule{from(voice, "10.0.0.0/8"), from(video, "10.0.0.0/8")}, []string{"ip saddr 10.0.0.0/8 goto policy-10-voice"}},
		{"several fields", []PolicyRule{port(from(voice, "10.0.0.1/32"), 80, 80), port(from(video, "10.0.0.2/32"), 80, 90)},
			[]string{"meta l4proto { tcp, udp } th dport . ip saddr vmap @", "80 . 10.0.0.1 : goto policy-10-voice, 80-90 . 10.0.0.2 : goto policy-11-video"}},
		{"several fields that overlap", []PolicyRule{port(from(voice, "10.0.0.1/32"), 80, 80), port(from(video, "10.0.0.0/31"), 80, 90)},
			[]string{"meta l4proto { tcp, udp } th dport 80 ip saddr 10.0.0.1 goto policy-10-voice", "meta l4proto { tcp, udp } th dport 80-90 ip saddr 10.0.0.0/31 goto policy-11-video"}},
		{"families apart", []PolicyRule{from(voice, "10.0.0.1/32", "fd00::1/128"), from(video, "10.0.0.3/32", "fd00::3/128")},
			[]string{"ip saddr vmap @", "ip6 saddr vmap @", "10.0.0.1 : goto policy-10-voice, 10.0.0.3 : goto policy-11-video", "fd00::1 : goto policy-10-voice, fd00::3 : goto policy-11-video"}},
		{"other shapes between with one target", []PolicyRule{from(voice, "10.0.0.1/32"), {To: nets("10.1.0.0/16"), Policy: voice}, from(voice, "10.0.0.9/32")},
			[]string{"ip saddr { 10.0.0.1, 10.0.0.9 } goto policy-10-voice", "ip daddr 10.1.0.0/16 goto policy-10-voice"}},
		{"other shapes between with another", []PolicyRule{from(voice, "10.0.0.1/32"), {To: nets("10.1.0.0/16"), Policy: video}, from(voice, "10.0.0.9/32")},
			[]string{"ip saddr 10.0.0.1 goto policy-10-voice", "ip daddr 10.1.0.0/16 goto policy-11-video", "ip saddr 10.0.0.9 goto policy-10-voice"}},
		{"everything", []PolicyRule{{Policy: voice}, from(video, "10.0.0.1/32")}, []string{"goto policy-10-voice", "ip saddr 10.0.0.1 goto policy-11-video"}},
		{"all of IPv4", []PolicyRule{from(voice, "0.0.0.0/1", "128.0.0.0/1")}, []string{"meta nfproto ipv4 goto policy-10-voice"}},
		{"most of IPv4", []PolicyRule{from(voice, "0.0.0.0/1", "128.0.0.0/2")}, []string{"ip saddr 0.0.0.0-191.255.255.255 goto policy-10-voice"}},
		{"no protocol can have the ports", []PolicyRule{{Protocols: []uint8{1}, Ports: []PortRange{{80, 80}}, Policy: voice}, {Policy: video}}, []string{"goto policy-11-video"}},
		{"families that never meet", []PolicyRule{{From: nets("10.0.0.0/8"), To: nets("fd00::/8"), Policy: voice}, {Policy: video}}, []string{"goto policy-11-video"}},
		{"any port", []PolicyRule{{Ports: []PortRange{{0, 65535}}, Policy: voice}}, []string{"meta l4proto { tcp, udp } goto policy-10-voice"}},
		{"a policy that is not there", []PolicyRule{{From: nets("10.0.0.0/8"), Policy: markOf(99)}}, []string{"ip saddr 10.0.0.0/8 return"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiled := Compile(ruleSpec(c.rules...))
			var got []string
			for _, r := range compiled.Chain(rulesChain).Rules {
				text := r.String()
				if before, _, ok := strings.Cut(text, "@"); ok {
					text = before + "@"
				}
				got = append(got, text)
			}
			for _, s := range compiled.Sets {
				var texts []string
				for _, e := range s.Elements {
					texts = append(texts, s.text(e))
				}
				got = append(got, strings.Join(texts, ", "))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestWalkRules: what becomes of packets that a rule matches.
func TestWalkRules(t *testing.T) {
	voice, bypass := markOf(10), markOf(12)
	all := func(policy uint32, local bool) []PolicyRule { return []PolicyRule{{Local: local, Policy: policy}} }
	internet, client := a("198.51.100.1"), a("192.168.0.10")
	shared := func(s Spec) Spec { r := server(); r.Policies, r.Rules = s.Policies, s.Rules; return r }
	for _, c := range []struct {
		name       string
		spec       Spec
		packet     packet
		way        string
		routed     uint32 // the mark that routing sees
		mark, conn uint32 // in the end
	}{
		{name: "a client's", spec: ruleSpec(all(voice, false)...), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: fresh()}, routed: voice, mark: voice, conn: markOf(1)},
		{name: "its second packet", spec: ruleSpec(all(voice, false)...), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: known(markOf(1), statusSNAT)}, routed: markOf(1), mark: markOf(1), conn: markOf(1)},
		{name: "a rule for the router is none for clients", spec: ruleSpec(all(voice, true)...), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: fresh()}, conn: markOf(1)},
		{name: "from no LAN", spec: ruleSpec(all(voice, false)...), packet: packet{in: "eth7", out: "eth1", src: client, dst: internet, conn: fresh()}, conn: markOf(1)},
		{name: "from outside", spec: ruleSpec(all(voice, false)...), packet: packet{in: "eth2", src: internet, dst: a("198.18.2.2"), toUs: true, conn: fresh()}, way: "received", mark: markOf(2), conn: markOf(2)},
		{name: "a client on the uplinks' interface", spec: shared(ruleSpec(all(voice, false)...)), packet: packet{in: "eth0", out: "eth0", src: client, dst: internet, nexthop: a("192.168.0.252"), conn: fresh()}, routed: voice, mark: voice, conn: markOf(2)},
		{name: "from outside there", spec: shared(ruleSpec(all(voice, false)...)), packet: packet{in: "eth0", src: internet, dst: a("192.168.0.1"), mac: [6]byte{2, 0, 0, 0, 1, 2}, toUs: true, conn: fresh()}, way: "received", mark: markOf(2), conn: markOf(2)},
		{name: "the router's own", spec: ruleSpec(all(voice, true)...), packet: packet{out: "eth1", src: a("192.168.0.1"), dst: internet, conn: fresh()}, way: "sent", mark: voice, conn: markOf(1)},
		{name: "a rule for clients is none for the router", spec: ruleSpec(all(voice, false)...), packet: packet{out: "eth1", src: a("192.168.0.1"), dst: internet, conn: fresh()}, way: "sent", conn: markOf(1)},
		{name: "a probe", spec: ruleSpec(all(voice, true)...), packet: packet{out: "eth1", src: a("192.168.0.1"), dst: internet, mark: markOf(1), conn: fresh()}, way: "sent", mark: markOf(1), conn: markOf(1)},
		{name: "the router's own to the LAN", spec: ruleSpec(all(voice, true)...), packet: packet{out: "eth0", src: a("192.168.0.1"), dst: client, conn: fresh()}, way: "sent"},
		{name: "the router's own, began before", spec: ruleSpec(all(voice, true)...), packet: packet{out: "eth1", src: a("192.168.0.1"), dst: internet, conn: known(0, 0)}, way: "sent"},
		{name: "the router's own, IPv6, no rule", spec: ruleSpec(PolicyRule{Local: true, UIDs: []uint32{7}, Policy: voice}), packet: packet{out: "eth1", src: a("fd00:1::1"), dst: a("2001:db8::1"), conn: fresh()}, way: "sent", mark: markOf(9), conn: markOf(1)},
		{name: "bypass by an uplink", spec: ruleSpec(all(bypass, false)...), packet: packet{in: "eth0", out: "eth1", src: client, dst: internet, conn: fresh()}, routed: bypass, mark: bypass, conn: markOf(1)},
		{name: "bypass by something else", spec: ruleSpec(all(bypass, false)...), packet: packet{in: "eth0", out: "wg0", src: client, dst: internet, conn: fresh()}, routed: bypass, mark: bypass, conn: bypass},
		{name: "its second packet", spec: ruleSpec(all(bypass, false)...), packet: packet{in: "eth0", out: "wg0", src: client, dst: internet, conn: known(bypass, 0)}, routed: bypass, mark: bypass, conn: bypass},
		{name: "its second packet, with another program's mark", spec: ruleSpec(all(bypass, false)...), packet: packet{in: "eth0", out: "wg0", src: client, dst: internet, mark: 5, conn: known(bypass, 0)}, routed: bypass | 5, mark: bypass | 5, conn: bypass},
		{name: "bypass of the router's own, second packet", spec: ruleSpec(all(bypass, true)...), packet: packet{out: "wg0", src: a("10.9.0.1"), dst: internet, conn: known(bypass, 0)}, way: "sent", mark: bypass, conn: bypass},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &walker{rules: Compile(c.spec)}
			p := c.packet
			var passed bool
			var routed uint32
			switch c.way {
			case "received":
				passed = w.received(&p)
			case "sent":
				passed = w.sent(&p)
			default:
				passed = w.forwarded(&p, func(p *packet) { routed = p.mark })
			}
			got := fmt.Sprintf("passed %v, routed with %#x, mark %#x, connection %#x", passed, routed, p.mark, p.conn.mark)
			if want := fmt.Sprintf("passed true, routed with %#x, mark %#x, connection %#x", c.routed, c.mark, c.conn); got != want || w.err != nil {
				t.Errorf("got  %s\nwant %s\nway: %q %v", got, want, w.trace, w.err)
			}
		})
	}
}

// TestElementList: no list outgrows a message, and all elements are in some
// list.
func TestElementList(t *testing.T) {
	for _, shape := range shapes {
		for _, set := range Compile(ruleSpec(manyRules(shape, 3000)...)).Sets {
			n := 0
			for chunk := range newElementList(set).chunks() {
				if len(chunk) > maxList {
					t.Errorf("%s: a list of %d bytes", shape, len(chunk))
				}
				for len(chunk) > 0 {
					length := int(binary.NativeEndian.Uint16(chunk))
					chunk = chunk[(length+3)&^3:]
					n++
				}
			}
			want := len(set.Elements)
			if len(set.Fields) == 1 && set.ranges() {
				want *= 2
			}
			if n != want {
				t.Errorf("%s: %d elements, wanted %d", shape, n, want)
			}
		}
	}
}

func BenchmarkCompileRules(b *testing.B) {
	for _, shape := range shapes {
		spec := ruleSpec(manyRules(shape, 1000)...)
		b.Run(strings.ReplaceAll(shape, " ", ""), func(b *testing.B) {
			for b.Loop() {
				Compile(spec)
			}
		})
	}
	spec := ruleSpec(PolicyRule{To: manyPrefixes(100000, 0), Policy: markOf(10)}, PolicyRule{To: manyPrefixes(100000, 1), Policy: markOf(11)})
	b.Run("prefixes", func(b *testing.B) {
		for b.Loop() {
			Compile(spec)
		}
	})
}

// manyPrefixes are n prefixes that do not touch.
func manyPrefixes(n, from int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		x := uint32(from+3*i) << 8
		all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x+0x01000000))), 24)
	}
	return all
}

// The router's own new TCP connections that a rule gives to what nobody carries
// are reset; all else goes on to routing, which knows.
func TestRefused(t *testing.T) {
	t.Parallel()
	rule := PolicyRule{Local: true, UIDs: []uint32{0}, Policy: markOf(10)}
	spec := ruleSpec(rule, PolicyRule{Policy: markOf(10)})
	spec.Refused = []Refusal{{markOf(10), false}}
	spec.Pinned = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:ffff::/48")}
	to4, to6 := a("203.0.113.9"), a("2001:db8::1")
	for name, c := range map[string]struct {
		packet packet
		reset  bool
	}{
		"TCP":                                {packet{out: "eth1", src: a("192.168.0.1"), dst: to4, proto: 6, conn: fresh()}, true},
		"to where an uplink is the only way": {packet{out: "eth1", src: a("192.168.0.1"), dst: a("198.51.100.7"), proto: 6, conn: fresh()}, false},
		"UDP":                                {packet{out: "eth1", src: a("192.168.0.1"), dst: to4, proto: 17, conn: fresh()}, false},
		"the other family":                   {packet{out: "eth1", src: a("fd00:1::1"), dst: to6, proto: 6, conn: fresh()}, false},
		"a client's":                         {packet{in: "eth0", out: "eth1", src: a("192.168.0.20"), dst: to4, proto: 6, conn: fresh()}, false},
	} {
		w := &walker{rules: Compile(spec)}
		p := c.packet
		passed := false
		if p.in == "" {
			passed = w.sent(&p)
		} else {
			passed = w.forwarded(&p, func(*packet) {})
		}
		if p.reset != c.reset || passed == c.reset || p.mark != markOf(10) {
			t.Errorf("%s: passed %v, reset %v, mark %#x\n%s", name, passed, p.reset, p.mark, strings.Join(w.trace, "\n"))
		}
	}
}
