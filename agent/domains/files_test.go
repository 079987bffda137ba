package domains

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func in4(set string) string { return set + "4" }
func in6(set string) string { return set + "6" }

// lines are those of the include, with lists in place of their sets.
func lines(t *testing.T, lists ...List) []string {
	t.Helper()
	text, err := Dnsmasq(lists, "inet multiroute", in4, in6)
	if err != nil || !strings.HasPrefix(text, Header) {
		t.Fatalf("%v, %q", err, text)
	}
	text = strings.TrimPrefix(text, Header)
	for i, l := range lists {
		var sets []string
		for _, s := range l.Told() {
			sets = append(sets, "4#inet#multiroute#"+s+"4,6#inet#multiroute#"+s+"6")
		}
		text = strings.ReplaceAll(text, strings.Join(sets, ","), fmt.Sprint(i))
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func TestDnsmasq(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"nothing", nil, []string{""}},
		{"both kinds", [][]string{{"google.com", "*.Example.org"}}, []string{"nftset=/example.org/0", "nftset=/google.com/0"}},
		{"a name and all below it", [][]string{{"example.org", "*.example.org"}}, []string{"nftset=/example.org/0"}},
		{"the longest name's line has all lists that it belongs to", [][]string{{"*.example.org"}, {"mail.example.org"}, {"*.org"}},
			[]string{"nftset=/example.org/0,2", "nftset=/mail.example.org/0,1,2", "nftset=/org/2"}},
		{"an exact name is nobody else's", [][]string{{"example.org"}, {"mail.example.org"}, {"badexample.org"}},
			[]string{"nftset=/badexample.org/2", "nftset=/example.org/0", "nftset=/mail.example.org/1"}},
		{"a name in two lists", [][]string{{"example.org", "a.org"}, {"b.org", "example.org"}}, []string{"nftset=/a.org/0", "nftset=/b.org/1", "nftset=/example.org/0,1"}},
	} {
		var lists []List
		for _, l := range tt.lists {
			lists = append(lists, NewList(l))
		}
		if got := lines(t, lists...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, wanted %q", tt.name, got, tt.want)
		}
	}
}

// TestDnsmasqLong: no line is longer than dnsmasq reads.
func TestDnsmasqLong(t *testing.T) {
	t.Parallel()
	var lists []List
	for i := range 30 {
		lists = append(lists, NewList([]string{strings.Repeat("long.", 40) + "example.org", fmt.Sprintf("n%d.org", i)}))
	}
	text, err := Dnsmasq(lists, "inet multiroute", in4, in6)
	if err == nil || !strings.Contains(err.Error(), "long.long.example.org") || strings.Contains(err.Error(), "n1.org") {
		t.Errorf("error %v", err)
	}
	for line := range strings.Lines(text) {
		if len(line) > 1020 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if !strings.Contains(text, lists[0].Told()[1]) || strings.Count(text, "nftset=") != 31 {
		t.Errorf("something is missing: %s", text)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	a, b, c := NewList([]string{"b.org", "*.a.org"}), NewList([]string{"*.A.org", "B.org", "b.org"}), NewList([]string{"b.org"})
	if a.ID != b.ID || a.ID == c.ID || !slices.Equal(a.Names(), []string{"b.org"}) || len(a.Sets()) != 3 {
		t.Errorf("%+v %+v %+v", a, b, c)
	}
	for _, s := range a.Sets() {
		if len(s)+1 > 31 {
			t.Errorf("set %s is too long a name for old kernels", s)
		}
	}
}

func TestResolvConf(t *testing.T) {
	t.Parallel()
	servers := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("fe80::1%eth0")}
	text := ResolvConf(servers)
	if want := Header + "nameserver 192.0.2.53\nnameserver fe80::1%eth0\n"; text != want {
		t.Errorf("%q", text)
	}
	if got := Nameservers(text + "#nameserver 1.1.1.1\nsearch x\nnameserver bad\n nameserver\t9.9.9.9 x\n"); !slices.Equal(got, append(servers, netip.MustParseAddr("9.9.9.9"))) {
		t.Errorf("%v", got)
	}
}
