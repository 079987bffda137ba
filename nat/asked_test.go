package nat

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// askedText is a look-up in a line.
func askedText(a Asked) string {
	return fmt.Sprintf("%s/%d/%d %s %x: %s", a.Chain, a.Rule, a.number, a.Set, a.Key, a.Says)
}

// TestAsked: a walk tells what it has looked up, and where.
func TestAsked(t *testing.T) {
	prefix := func(text string) span { return prefixSpan(netip.MustParsePrefix(text)) }
	addresses := setOf(Source4, []span{prefix("192.168.0.0/28"), prefix("192.168.0.20/32")})
	addresses.Name = "rules-addresses"
	port := func(n byte) string { return string([]byte{0, n}) }
	pairs := Set{Name: "rules-pairs", Fields: []Field{Source4, DestPort}, Verdicts: true, Elements: []Element{
		{string([]byte{192, 168, 0, 0}) + port(80), string([]byte{192, 168, 0, 255}) + port(90), Verdict{Goto, "deep"}}}}
	dynamic := Dynamic{Name: "sticky-x", Fields: []Field{Source4}, Packets: true}
	to := netip.MustParseAddrPort
	dnat := func(d DNAT) Rule { return Rule{d} }
	deep := func(rules ...Rule) Ruleset {
		return Ruleset{Sets: []Set{addresses, pairs}, Dynamic: []Dynamic{dynamic}, Chains: []Chain{
			{Name: "base", Type: Filter, Hook: Prerouting, Rules: rules}, {Name: "deep", Rules: []Rule{{Match{Field: Protocol, Values: []Value{tcp, udp}}, Verdict{Kind: Drop}}}}}}
	}
	four, six := Packet{In: "eth0", Source: a("192.168.0.20"), Destination: a("203.0.113.1"), Protocol: 6, DestPort: 80}, Packet{In: "eth0", Source: a("fd00::1"), Destination: a("2001:db8::1"), Protocol: 6, DestPort: 80}
	for _, c := range []struct {
		name   string
		rules  Ruleset
		packet Packet
		want   []string
	}{
		{"single values are compared without a set", deep(Rule{Match{Field: Protocol, Values: []Value{tcp}}}), four, nil},
		{"bits are compared without a set", deep(Rule{Match{Field: ConnStatus, Op: NoBit, Values: []Value{snat, dnatted}}}), four, nil},
		{"values", deep(Rule{Match{Field: Protocol, Values: []Value{tcp, udp}}}), four, []string{"base/0/0  06: an element"}},
		{"none of the values", deep(Rule{Match{Field: Protocol, Op: IsNot, Values: []Value{tcp, udp}}, Verdict{Kind: Drop}}), four, []string{"base/0/0  06: an element"}},
		{"other values", deep(Rule{}, Rule{Match{Field: Protocol, Values: []Value{udp, icmp6()}}, Verdict{Kind: Drop}}), four, []string{"base/1/0  06: "}},
		{"verdicts", deep(Rule{Map{Field: InInterface, Entries: []MapEntry{{ifname("eth0"), Verdict{Goto, "deep"}}}}}), four,
			[]string{fmt.Sprintf("base/0/0  %x: goto deep", ifname("eth0").Raw), "deep/0/0  06: an element"}},
		{"no verdict", deep(Rule{Map{Field: InInterface, Entries: []MapEntry{{ifname("eth1"), Verdict{Goto, "deep"}}}}}), four, []string{fmt.Sprintf("base/0/0  %x: ", ifname("eth0").Raw)}},
		{"a named set", deep(Rule{Lookup{Fields: addresses.Fields, Set: addresses.Name}}), four, []string{"base/0/0 rules-addresses c0a80014: an element"}},
		{"the other family is not looked up", deep(Rule{Lookup{Fields: addresses.Fields, Set: addresses.Name}}), six, nil},
		{"a named map, behind others", deep(Rule{Match{Field: Protocol, Values: []Value{tcp, udp}}, Lookup{Fields: addresses.Fields, Set: addresses.Name}, Lookup{Fields: pairs.Fields, Map: true, Set: pairs.Name}}), four,
			[]string{"base/0/0  06: an element", "base/0/1 rules-addresses c0a80014: an element", "base/0/2 rules-pairs c0a800140050: goto deep", "deep/0/0  06: an element"}},
		{"behind a dynamic set", deep(Rule{Lookup{Fields: dynamic.Fields, Set: dynamic.Name}, Match{Field: Protocol, Values: []Value{tcp, udp}}}), four, []string{"base/0/1  06: an element"}},
		{"a port", deep(dnat(DNAT{Entries: []DNATEntry{{Protocol: 6, Port: 80, To: to("192.168.0.9:8080")}}})), four, []string{"base/0/0  060050: 192.168.0.9 . 8080"}},
		{"the same port", deep(dnat(DNAT{KeepPort: true, Entries: []DNATEntry{{Protocol: 6, Port: 80, To: to("192.168.0.9:80")}}})), four, []string{"base/0/0  060050: 192.168.0.9"}},
		{"no such port", deep(dnat(DNAT{Entries: []DNATEntry{{Protocol: 17, Port: 80, To: to("192.168.0.9:8080")}}})), four, []string{"base/0/0  060050: "}},
		{"a port of the other family is looked up", deep(dnat(DNAT{Entries: []DNATEntry{{Protocol: 6, Port: 80, To: to("192.168.0.9:8080")}}}), dnat(DNAT{IPv6: true, Entries: []DNATEntry{{Protocol: 6, Port: 80, To: to("[fd00::9]:8080")}}})), six,
			[]string{"base/0/0  060050: 192.168.0.9 . 8080", "base/1/0  060050: fd00::9 . 8080"}},
		{"a source of the other family is not", deep(dnat(DNAT{BySource: true, Entries: []DNATEntry{{Protocol: 6, Port: 80, Last: 90, Source: nets("0.0.0.0/0")[0], To: to("192.168.0.9:8080")}}})), six, nil},
		{"by source", deep(dnat(DNAT{IPv6: true, BySource: true, Entries: []DNATEntry{{Protocol: 6, Port: 80, Last: 90, Source: nets("fd00::/8")[0], To: to("[fd00::9]:8080")}}})), six,
			[]string{"base/0/0  060050fd" + strings.Repeat("00", 14) + "01: fd00::9 . 8080"}},
	} {
		w := c.rules.Walk(c.packet, func(string, string) bool { return true })
		w.Prerouting()
		var got []string
		for _, x := range w.Lookups() {
			got = append(got, askedText(x))
		}
		if diff := cmp.Diff(c.want, got); diff != "" || w.Err() != nil {
			t.Errorf("%s: %v (-wanted +got):\n%s", c.name, w.Err(), diff)
		}
	}
}

func icmp6() Value { return Value{Text: "icmpv6", Raw: "\x3a"} }
