package sysctl

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePorts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]PortRange{
		"":              nil,
		"0":             {{0, 0}},
		"53":            {{53, 53}},
		"53,8000-8010":  {{53, 53}, {8000, 8010}},
		"0-65535":       {{0, 65535}},
		"1,2-3,65535":   {{1, 1}, {2, 3}, {65535, 65535}},
		"51820-51820,5": nil,
		",":             nil,
		"53,":           nil,
		"1-":            nil,
		"-1":            nil,
		"3-2":           nil,
		"1-2-3":         nil,
		"65536":         nil,
		"1 2":           nil,
		"+1":            nil,
		"0x10":          nil,
		"2,2":           nil,
		"1-5,5":         nil,
		"4000000000000": nil,
	} {
		got, err := parsePorts(text)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got)\n%s", text, diff)
		}
		if wrong := want == nil && text != ""; wrong != (err != nil) {
			t.Errorf("%q: %v", text, err)
		} else if wrong && !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_local_reserved_ports=") {
			t.Errorf("%q: the error does not say what to do: %v", text, err)
		}
	}
}

// everySecond is the list of that many ports that do not touch.
func everySecond(n int) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprint(30000+2*i))
	}
	return strings.Join(words, ",")
}

// TestMostRanges: what would be a large set is refused, with a remedy.
func TestMostRanges(t *testing.T) {
	t.Parallel()
	if got, err := parsePorts(everySecond(mostRanges)); err != nil || len(got) != mostRanges {
		t.Errorf("%d, %v", len(got), err)
	}
	if got, err := parsePorts(everySecond(mostRanges + 1)); err == nil || got != nil || !strings.Contains(err.Error(), "join those that are close together") {
		t.Errorf("%d, %v", len(got), err)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		kernel map[string]string
		want   Ports
		fails  string
	}{
		{"a kernel that knows neither", nil, Ports{}, ""},
		{"nothing reserved", map[string]string{portRange: "32768\t60999", reservedPorts: ""}, Ports{First: 32768}, ""},
		{"some reserved", map[string]string{portRange: "1024\t65535", reservedPorts: "40000,51821-51829"}, Ports{1024, []PortRange{{40000, 40000}, {51821, 51829}}}, ""},
		{"the range is damaged", map[string]string{portRange: "many", reservedPorts: "40000"}, Ports{Reserved: []PortRange{{40000, 40000}}}, `sysctl -w net.ipv4.ip_local_port_range="32768 60999"`},
		{"the list is damaged", map[string]string{portRange: "32768\t60999", reservedPorts: "x"}, Ports{First: 32768}, `"x" is no port`},
		{"no end", map[string]string{reservedPorts: strings.Repeat("1", longestList+1)}, Ports{}, "does not end within 262144 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := newKernel(t, c.kernel).Ports()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("%v, wanted %q", err, c.fails)
			}
		})
	}
}

// TestLongestList: the list that takes most bytes is not taken for endless, and
// the parser sees all of it.
func TestLongestList(t *testing.T) {
	t.Parallel()
	var words []string
	for i := 0; i+1 < 1<<16; i += 3 {
		words = append(words, fmt.Sprintf("%d-%d", i, i+1))
	}
	text := strings.Join(words, ",")
	k := newKernel(t, map[string]string{reservedPorts: text})
	if got, err := k.readList(reservedPorts); err != nil || got != text {
		t.Errorf("%d of %d bytes, %v", len(got), len(text), err)
	}
}

// A list is never cut: one byte more or less than the first buffer holds.
func TestListOfAPage(t *testing.T) {
	t.Parallel()
	for _, n := range []int{4094, 4095, 4096, 4097} {
		text := strings.Repeat("1", n)
		k := newKernel(t, map[string]string{reservedPorts: text})
		if got, err := k.readList(reservedPorts); err != nil || got != text {
			t.Errorf("%d of %d bytes, %v", len(got), n, err)
		}
	}
	k := newKernel(t, map[string]string{reservedPorts: ""})
	if err := os.Truncate(k.path(reservedPorts), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := k.readList(reservedPorts); err != nil || got != "" {
		t.Errorf("of nothing: %q, %v", got, err)
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"", "53", "53,8000-8010", "0-65535", "3-2", "1,,2", "65536"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parsePorts(text)
		if err != nil {
			if all != nil || len(err.Error()) > 1000 {
				t.Errorf("%v beside %v", all, err)
			}
			return
		}
		if len(all) > mostRanges || !slices.IsSortedFunc(all, func(a, b PortRange) int { return int(a.Hi) - int(b.Lo) + 1 }) {
			t.Errorf("%q: %v", text, all)
		}
		for _, r := range all {
			if r.Lo > r.Hi {
				t.Errorf("%q: %v", text, r)
			}
		}
	})
}
