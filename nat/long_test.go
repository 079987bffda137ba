package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestLongLists: packets go where the first rule that has them sends them, also
// where lists are so long that they are in pieces.
func TestLongLists(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	some := func(n int, v6 bool) []netip.Prefix {
		all := make([]netip.Prefix, n)
		for i := range all {
			if v6 {
				raw := [16]byte{0x20, 0x01, 0x0d, 0xb8}
				binary.BigEndian.PutUint32(raw[4:], r.Uint32N(1<<20)<<12)
				all[i] = netip.PrefixFrom(netip.AddrFrom16(raw), 48+4*r.IntN(4)).Masked()
			} else {
				all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 20<<24+r.Uint32N(1<<22)))), 22+r.IntN(11)).Masked()
			}
		}
		return all
	}
	lan := []netip.Prefix{netip.MustParsePrefix("192.168.0.0/25"), netip.MustParsePrefix("fd00:1::/64")}
	for name, rules := range map[string][]PolicyRule{
		"one":                                {{To: some(9000, false), Policy: markOf(10)}},
		"one, and another rule":              {{To: some(9000, false), Policy: markOf(10)}, {Policy: markOf(11)}},
		"one for the default policy":         {{To: some(9000, false)}, {Policy: markOf(11)}},
		"IPv6":                               {{To: some(9000, true), Policy: markOf(10)}, {Policy: markOf(11)}},
		"two policies":                       {{To: some(5000, false), Policy: markOf(10)}, {To: some(5000, false), Policy: markOf(11)}},
		"two policies, one unmarked":         {{To: some(5000, false)}, {To: some(5000, false), Policy: markOf(11)}, {Policy: markOf(10)}},
		"one policy, twice":                  {{To: some(5000, false), Policy: markOf(10)}, {To: some(5000, false), Policy: markOf(10)}, {Policy: markOf(11)}},
		"both directions":                    {{From: append(some(6000, false), lan...), To: some(9000, false), Policy: markOf(10)}, {Policy: markOf(11)}},
		"with ports":                         {{To: some(9000, false), Ports: []PortRange{{80, 443}}, Policy: markOf(10)}, {Policy: markOf(11)}},
		"a short list before and one behind": {{To: some(5, false), Policy: markOf(11)}, {To: some(9000, false), From: lan, Policy: markOf(10)}, {To: some(5, false), Policy: markOf(11)}},
	} {
		t.Run(name, func(t *testing.T) {
			compiled := Compile(ruleSpec(rules...))
			checkSound(t, compiled)
			in := 0
			for range 400 {
				p := packet{in: "eth0", out: "eth1", src: a("192.168.0.20"), proto: 6, sport: 1000, dport: 443, conn: fresh()}
				to := rules[r.IntN(len(rules))].To
				if p.dst = some(1, len(to) > 0 && to[0].Addr().Is6())[0].Addr(); len(to) > 0 && r.IntN(3) > 0 {
					p.dst = to[r.IntN(len(to))].Addr()
				}
				if p.dst.Is6() {
					p.src = a("fd00:1::20")
				}
				if r.IntN(3) == 0 {
					p.dport = 22
				}
				want := uint32(0)
				for _, rule := range rules {
					if has(rule.To, p.dst) && has(rule.From, p.src) && (len(rule.Ports) == 0 || p.dport >= rule.Ports[0].Lo) {
						want = rule.Policy
						in++
						break
					}
				}
				w := &walker{rules: compiled}
				if w.hook(Prerouting, &p); p.mark != want || w.err != nil {
					t.Fatalf("to %s port %d: mark %#x, wanted %#x, %v", p.dst, p.dport, p.mark, want, w.err)
				}
			}
			if in < 50 {
				t.Errorf("only %d packets matched a rule", in)
			}
			for _, s := range compiled.Sets {
				if len(s.Elements) > maxPiece && len(s.Fields) == 1 && (name != "both directions" || s.Fields[0] != Source4) {
					t.Errorf("set %s has %d elements", s.Name, len(s.Elements))
				}
			}
		})
	}
}

func has(list []netip.Prefix, a netip.Addr) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// TestLongListChange: one prefix more, or less, is one piece to write, or a few
// where it moves a cut.
func TestLongListChange(t *testing.T) {
	t.Parallel()
	all := manyPrefixes(100000, 0)
	before := Compile(ruleSpec(PolicyRule{To: all, Policy: markOf(10)})).State()
	most, sum := 0, 0
	for i := range 20 {
		at := i * 4999
		list := slices.Insert(slices.Clone(all), at, manyPrefixes(1, 3*at+1)...)
		if i%2 == 1 {
			list = slices.Delete(slices.Clone(all), at, at+1)
		}
		want := Compile(ruleSpec(PolicyRule{To: list, Policy: markOf(10)}))
		n := 0
		write, _ := before.setChanges(want)
		for _, s := range write {
			n += len(s.Elements)
		}
		most, sum = max(most, n), sum+n
	}
	if most > 8*maxPiece || sum/20 > 2*maxPiece {
		t.Errorf("%d elements are written on average, and up to %d", sum/20, most)
	}
}

func TestFollows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"\x00\x02", "\x00\x01", true},
		{"\x01\x00", "\x00\xff", true},
		{"\x01\x01", "\x00\xff", false},
		{"\x02\x00", "\x00\xff", false},
		{"\x00\x03", "\x00\x01", false},
		{"\x01\x02", "\x00\x01", false},
		{"\x00\x00", "\xff\xff", false},
	} {
		if got := follows(c.a, c.b); got != c.want {
			t.Errorf("%x follows %x: %v", c.a, c.b, got)
		}
	}
}
