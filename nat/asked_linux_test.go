package nat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// check compares a walk with the kernel.
func (k *kernel) check(w *Walk) string {
	k.t.Helper()
	text := ""
	if err := k.ns.Do(func() (err error) { text, err = k.table.Check(w); return err }); err != nil {
		k.t.Fatal(err)
	}
	return text
}

// walked is a packet's walk: forwarded, or the router's own.
func walked(rules Ruleset, p packet) *Walk {
	w := &Walk{walker{rules: rules, holds: listed}, p}
	switch {
	case p.in == "":
		w.w.sent(&w.p)
	case p.toUs && w.w.hook(Prerouting, &w.p), !p.toUs:
		w.w.forwarded(&w.p, nil)
	}
	return w
}

// TestCheck: the kernel says what the compiled rules say, whatever they are.
func TestCheck(t *testing.T) {
	k := newKernel(t)
	r := rand.New(rand.NewPCG(11, 12))
	asked, found, kinds := 0, 0, map[string]int{}
	try := func(rules Ruleset, packets int, random func() packet) {
		t.Helper()
		if err := k.tryWrite(k.read(), rules); err != nil {
			t.Fatalf("%v\n%s", err, rules)
		}
		for range packets {
			p := random()
			w := walked(rules, p)
			if text := k.check(w); text != "" || w.Err() != nil {
				t.Fatalf("packet %+v: %s, %v\n%s", p, text, w.Err(), rules)
			}
			for _, x := range w.Lookups() {
				asked++
				if x.Says != "" {
					found++
				}
				kinds[fmt.Sprintf("%d fields, named %v", len(x.Fields), x.Set != "")]++
			}
		}
	}
	for range 40 {
		s := randomSpec(r)
		try(Compile(s), 10, func() packet { p, _ := randomPacket(r, &s); return p })
	}
	for range 60 {
		s := ruleSpec(randomRules(r)...)
		s.LAN, s.Lists = []string{"eth0", "eth9"}, testLists
		try(Compile(s), 10, func() packet {
			p := packet{in: "eth0", out: "eth1", proto: []uint8{1, 6, 17, 47}[r.IntN(4)], sport: uint16(r.IntN(9)), dport: uint16(r.IntN(9)), uid: uint32(r.IntN(4)), mac: [6]byte{5: byte(r.IntN(4))}, conn: fresh()}
			p.src, p.dst = netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))}), netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))})
			if r.IntN(3) == 0 {
				p.src, p.dst = netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))}), netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))})
			}
			if r.IntN(4) == 0 {
				p.in = ""
			}
			return p
		})
	}
	forwards := changed(separate(), forwardsOfAllKinds)
	try(Compile(forwards), 400, func() packet {
		ports := []uint16{0, 21, 22, 23, 80, 443, 444, 445, 446, 7999, 8000, 8010, 8011, 9999, 10000, 20000, 20001, 29999, 30000, 65535}
		from := addrs("203.0.113.0", "203.0.113.255", "203.0.114.0", "198.51.101.0", "192.168.0.77", "2001:db8::1", "2001:db9::", "fd00:1::77")
		p := packet{in: []string{"eth0", "eth1", "eth2"}[r.IntN(3)], out: "eth0", src: from[r.IntN(len(from))], proto: []uint8{1, 6, 17}[r.IntN(3)], dport: ports[r.IntN(len(ports))], toUs: true, conn: fresh()}
		p.dst = forwards.Uplinks[r.IntN(2)].Public[index(p.src.Is6())]
		return p
	})
	t.Logf("%d look-ups, %d of them found something: %v", asked, found, kinds)
	if found < 1000 || asked-found < 1000 || len(kinds) < 6 {
		t.Error("the packets are all alike")
	}
}

// TestCheckEdges: the kernel finds the same keys in and out at the edges of each
// element, in sets of each kind.
func TestCheckEdges(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	touching := []PolicyRule{}
	for i := range 40 {
		touching = append(touching, PolicyRule{Ports: []PortRange{{uint16(100 + 10*i), uint16(109 + 10*i)}}, Policy: markOf(10 + i%2)})
	}
	for name, rules := range map[string][]PolicyRule{
		"single values":             manyRules("from", 300),
		"single values, families":   manyRules("from, both families", 300),
		"values, no verdicts":       {{To: manyHosts(300), Policy: markOf(10)}},
		"ranges":                    {{To: manyPrefixes(300, 0), Policy: markOf(10)}},
		"ranges with verdicts":      manyRules("to", 300),
		"ports":                     manyRules("ports", 300),
		"ranges that touch":         touching,
		"to the last address":       {{To: append(manyPrefixes(30, 0), nets("255.0.0.0/8")...), Policy: markOf(10)}},
		"from the first address":    {{To: append(manyPrefixes(30, 0), nets("0.0.0.0/20")...), Policy: markOf(10)}},
		"together":                  manyRules("from . port", 300),
		"ranges together":           manyRules("to . ports", 300),
		"hardware addresses, ports": manyMACs(300),
		"pieces":                    {{To: manyPrefixes(20000, 0), Policy: markOf(10)}},
		"pieces with verdicts":      {{To: manyPrefixes(10000, 0), Policy: markOf(10)}, {To: manyPrefixes(10000, 1), Policy: markOf(11)}},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			want := Compile(ruleSpec(rules...))
			k.write(want)
			if len(want.Sets) == 0 {
				t.Fatal("there is no set")
			}
			in, out := 0, 0
			for _, s := range want.Sets {
				for range 300 {
					key := s.keyNear(r)
					a := Asked{Set: s.Name, Fields: s.Fields, Key: key}
					if i := slices.IndexFunc(s.Elements, func(e Element) bool { return e.holds(s.values(key)) }); i >= 0 {
						in++
						a.Says = says(true)
						if s.Verdicts {
							a.Says = s.Elements[i].Verdict.String()
						}
					} else {
						out++
					}
					var element parts
					var found bool
					if err := k.ns.Do(func() (err error) { element, found, err = k.table.element(a.Set, a.Fields, a.Key); return err }); err != nil {
						t.Fatal(err)
					}
					if text := a.otherThan(element, found); text != "" {
						t.Fatal(text)
					}
				}
			}
			t.Logf("%d sets: %d keys in, %d out", len(want.Sets), in, out)
			if in < 100 || out < 20 {
				t.Error("the keys are all alike")
			}
		})
	}
}

func manyHosts(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		all[i] = prefix32([4]byte{20, 0, byte(i >> 7), byte(2 * i)})
	}
	return all
}

func manyMACs(n int) []PolicyRule {
	var rules []PolicyRule
	for i := range n {
		rules = append(rules, PolicyRule{MACs: [][6]byte{{2, 0, 0, 0, byte(i >> 8), byte(i)}}, Ports: []PortRange{{uint16(i), uint16(2 * i)}}, Policy: markOf(10 + i%2)})
	}
	return rules
}

// values cuts a key into those of the set's fields.
func (s Set) values(key string) []string {
	var all []string
	for _, f := range s.Fields {
		all, key = append(all, key[:fieldBytes(f)]), key[fieldBytes(f):]
	}
	return all
}

// keyNear is a key in some element, or outside: most often just outside.
func (s Set) keyNear(r *rand.Rand) string {
	e := s.Elements[r.IntN(len(s.Elements))]
	key := ""
	for i, lo := range s.values(e.Lo) {
		value := []byte([]string{lo, s.values(e.Hi)[i]}[r.IntN(2)])
		switch r.IntN(9) {
		case 0:
			value[0] ^= 0x80
		case 1, 2, 3:
			step := byte(1 + r.IntN(2)*254) // one more, or one less
			for j := len(value) - 1; j >= 0; j-- {
				value[j] += step
				if step == 1 && value[j] != 0 || step == 255 && value[j] != 255 {
					break
				}
			}
		}
		key += string(value)
	}
	return key
}

// writeAs loads rules whose texts in the kernel say that they are others.
func (k *kernel) writeAs(rules, others Ruleset) {
	k.t.Helper()
	err := k.ns.Do(func() error {
		if err := k.table.Delete(); err != nil {
			return err
		}
		for _, b := range difference(State{}, rules) {
			for i, c := range rules.Chains {
				for j, rule := range c.Rules {
					for m := range b.messages {
						b.messages[m].Data = bytes.ReplaceAll(b.messages[m].Data, []byte(rule.Fingerprint()), []byte(others.Chains[i].Rules[j].Fingerprint()))
					}
				}
			}
			if err := k.table.commit("writing", b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	if s := k.read(); !s.Satisfies(others) {
		k.t.Fatalf("that is seen without looking into sets: %v", s.Missing(others))
	}
}

// TestCheckDiffers: what somebody else has put in place of our rules or their
// sets is told.
func TestCheckDiffers(t *testing.T) {
	client := packet{in: "eth0", out: "eth1", src: a("10.0.0.7"), dst: a("20.0.7.9"), proto: 6, dport: 1007, conn: fresh()}
	stranger := packet{in: "eth1", out: "eth0", src: a("203.0.113.9"), dst: a("198.18.1.2"), proto: 6, dport: 80, toUs: true, conn: fresh()}
	stranger6 := stranger
	stranger6.src, stranger6.dst, stranger6.proto, stranger6.dport = a("fd00::1"), a("2001:db8:1::2"), 17, 10007
	forwards := changed(separate(), forwardsOfAllKinds)
	verdict := func(s *Set) {
		for i := range s.Elements {
			s.Elements[i].Verdict = Verdict{Kind: Drop}
		}
	}
	none := func(s *Set) { // where nobody asks
		for i := range s.Elements {
			s.Elements[i].Lo = "\xf0\x00\x00" + string([]byte{byte(i)}) + s.Elements[i].Lo[4:]
			s.Elements[i].Hi = "\xf0\x00\x00" + string([]byte{byte(i)}) + s.Elements[i].Hi[4:]
		}
	}
	inSet := func(change func(*Set)) func(*Ruleset) {
		return func(r *Ruleset) {
			for i := range r.Sets {
				r.Sets[i].Elements = slices.Clone(r.Sets[i].Elements)
				change(&r.Sets[i])
			}
		}
	}
	inRules := func(change func(Statement) Statement) func(*Ruleset) {
		return func(r *Ruleset) {
			for i := range r.Chains {
				r.Chains[i].Rules = slices.Clone(r.Chains[i].Rules)
				for j, rule := range r.Chains[i].Rules {
					r.Chains[i].Rules[j] = slices.Clone(rule)
					for n, s := range rule {
						r.Chains[i].Rules[j][n] = change(s)
					}
				}
			}
		}
	}
	inDNAT := func(change func(*DNATEntry)) func(*Ruleset) {
		return inRules(func(s Statement) Statement {
			if d, ok := s.(DNAT); ok {
				d.Entries = slices.Clone(d.Entries)
				for i := range d.Entries {
					change(&d.Entries[i])
				}
				return d
			}
			return s
		})
	}
	for _, c := range []struct {
		name   string
		spec   Spec
		packet packet
		change func(*Ruleset)
		want   string
	}{
		{"single values, other verdicts", ruleSpec(manyRules("from", 100)...), client, inSet(verdict), "has drop for 10.0.0.7, wanted is goto policy-11-"},
		{"single values, others", ruleSpec(manyRules("from", 100)...), client, inSet(none), "has nothing for 10.0.0.7, wanted is goto policy-11-"},
		{"ranges, other verdicts", ruleSpec(manyRules("to", 100)...), client, inSet(verdict), "has drop for 20.0.7.9, wanted is goto policy-11-"},
		{"values, others", ruleSpec(PolicyRule{To: append(manyPrefixes(100, 0), nets("20.0.7.0/24")...), Policy: markOf(10)}), client, inSet(none), "has nothing for 20.0.7.9, wanted is an element"},
		{"together", ruleSpec(manyRules("from . port", 100)...), client, inSet(verdict), "has drop for 1007 . 10.0.0.7, wanted is goto policy-11-"},
		{"ranges together", ruleSpec(manyRules("to . ports", 100)...), client, inSet(verdict), "has drop for 1007 . 20.0.7.9, wanted is goto policy-11-"},
		{"pieces", ruleSpec(PolicyRule{To: append(manyPrefixes(5000, 0), nets("20.0.7.0/24")...), Policy: markOf(10)}), client, inSet(func(s *Set) {
			if !s.Verdicts {
				none(s)
			}
		}), "has nothing for 20.0.7.9, wanted is an element"},
		{"a piece's place", ruleSpec(PolicyRule{To: append(manyPrefixes(5000, 0), nets("20.0.7.0/24")...), Policy: markOf(10)}), client, inSet(func(s *Set) {
			if s.Verdicts {
				verdict(s)
			}
		}), "has drop for 20.0.7.9, wanted is goto list-"},
		{"a port forward", forwards, stranger, inDNAT(func(e *DNATEntry) { e.To = netip.AddrPortFrom(e.To.Addr().Next(), e.To.Port()) }), "has 192.168.0.11 . 8080 for tcp . 80, wanted is 192.168.0.10 . 8080"},
		{"a port forward to another port", forwards, stranger, inDNAT(func(e *DNATEntry) { e.To = netip.AddrPortFrom(e.To.Addr(), e.To.Port()+1) }), "has 192.168.0.10 . 8081 for tcp . 80, wanted is 192.168.0.10 . 8080"},
		{"another port's forward", forwards, stranger, inDNAT(func(e *DNATEntry) {
			if e.Port == 80 {
				e.Port, e.Last = 79, 79
			}
		}), "has nothing for tcp . 80, wanted is 192.168.0.10 . 8080"},
		{"a port forward by source", forwards, stranger6, inDNAT(func(e *DNATEntry) { e.To = netip.AddrPortFrom(e.To.Addr().Next(), e.To.Port()) }), "has fd00:1::21 for udp . 10007 . fd00::1, wanted is fd00:1::20"},
		{"verdicts", separate(), client, inRules(func(s Statement) Statement {
			if m, ok := s.(Map); ok && len(m.Entries) == 2 {
				m.Entries = []MapEntry{{m.Entries[0].Value, m.Entries[1].Verdict}, {m.Entries[1].Value, m.Entries[0].Verdict}}
				return m
			}
			return s
		}), `in chain bind has goto leave-2-cable for "eth1", wanted is goto leave-1-dsl`},
		{"values of a rule", ruleSpec(PolicyRule{Protocols: []uint8{6, 17, 47}, Policy: markOf(10)}), client, inRules(func(s Statement) Statement {
			if m, ok := s.(Match); ok && m.Field == Protocol && len(m.Values) == 3 {
				m.Values = []Value{m.Values[1], m.Values[2]}
				return m
			}
			return s
		}), "a set of rule 1 in chain rules has nothing for tcp, wanted is an element"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKernel(t)
			want, have := Compile(c.spec), Compile(c.spec)
			c.packet.conn = fresh()
			w := walked(want, c.packet)
			k.write(want)
			if text := k.check(w); text != "" {
				t.Fatalf("before anybody changes anything: %s", text)
			}
			c.change(&have)
			k.writeAs(have, want)
			if text := k.check(w); !strings.Contains(text, c.want) {
				t.Errorf("%q, wanted %q", text, c.want)
			}
			k.write(Compile(separate()))
			k.nft("flush chain inet multiroute restore")
			if text := k.check(w); text != "chain restore has no rules" {
				t.Errorf("without rules: %q", text)
			}
			k.nft("add rule inet multiroute restore accept")
			if text := k.check(w); text != "chain restore has other rules" {
				t.Errorf("with another rule: %q", text)
			}
			k.nft("delete table inet multiroute")
			if text := k.check(w); text != "chain restore has no rules" {
				t.Errorf("without the table: %q", text)
			}
		})
	}
}

// TestCheckMany: thousands of port forwards and prefixes are asked for in no
// time.
func TestCheckMany(t *testing.T) {
	k := newKernel(t)
	spec := many(2, 0)
	spec.Policies = ruleSpec().Policies
	spec.Rules = []PolicyRule{{To: manyPrefixes(100000, 0), Policy: markOf(10)}, {Policy: markOf(11)}}
	for i := range 10000 {
		spec.Forwards = append(spec.Forwards, PortForward{Protocol: 6, Port: uint16(i + 1), To: netip.MustParseAddrPort("192.168.0.10:80")})
	}
	rules := Compile(spec)
	k.write(rules)
	for name, p := range map[string]packet{
		"port forward": {in: "wan1", out: "eth0", src: a("203.0.113.9"), dst: a("198.18.1.2"), proto: 6, dport: 9999, toUs: true, conn: fresh()},
		"prefix":       {in: "eth0", out: "wan1", src: a("192.168.0.7"), dst: manyPrefixes(100000, 0)[70000].Addr().Next(), proto: 6, dport: 80, conn: fresh()},
	} {
		w := walked(rules, p)
		start := time.Now()
		text := k.check(w)
		took := time.Since(start)
		t.Logf("%s: %v, %d look-ups", name, took, len(w.Lookups()))
		if text != "" || took > time.Second || len(w.Lookups()) < 3 {
			t.Errorf("%s: %s", name, text)
		}
	}
}
