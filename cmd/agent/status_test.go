package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/api"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

func TestPrintStatus(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	tests := map[string]api.Status{
		"starting": {Version: "1.2.3", PID: 42, Config: api.ConfigStatus{Generation: 1}},
		"all": {Version: "1.2.3", PID: 42, Ready: true,
			Config: api.ConfigStatus{Generation: 7, LoadedAt: new(now), ConfirmBy: new(now.Add(44600 * time.Millisecond)), Error: new("agent.toml:3: uplink.dsl.weight: 300 is too much\nagent.toml:9: x: unknown key")},
			Uplinks: []api.UplinkStatus{
				{Name: "cable", ID: 1, State: api.Up, Since: new(now.Add(-26*time.Hour - 1500*time.Millisecond)), Interface: "eth2",
					Gateway: new(netip.MustParseAddr("24.19.12.1")), Gateway6: new(netip.MustParseAddr("fe80::c1")),
					Addresses: []netip.Addr{netip.MustParseAddr("24.19.12.45"), netip.MustParseAddr("2001:db8:c::45")},
					RTT:       new(12.345), Jitter: new(0.5), Loss: new(0.0), Connections: new(1234), RxBytes: new(uint64(123456789012)), TxBytes: new(uint64(1023)), RxRate: new(48.25e6), TxRate: new(1200.0)},
				{Name: "dsl-with-a-long-name", ID: 2, State: api.Down, Reason: new("interface ppp0 does not exist (yet)"), Since: new(now.Add(-9 * time.Second)),
					Interface: "ppp0", Connections: new(0)},
				{Name: "fibre", ID: 6, State: api.Degraded, Reason: new("25% of the probes of the last 10s were lost"), Since: new(now.Add(-70 * time.Second)),
					Interface: "eth3", RTT: new(0.42), Loss: new(25.0)},
				{Name: "cable2", ID: 7, State: api.Down, Reason: new("no answer from 1.1.1.1, 8.8.8.8, 9.9.9.9"), Since: new(now.Add(-2 * time.Second)),
					Until: new(now.Add(7900 * time.Millisecond)), Interface: "eth4", Loss: new(100.0)},
				{Name: "sat", ID: 8, State: api.Disabled, Reason: new("disabled by hand"), Until: new(now.Add(10 * time.Minute)), Interface: "eth5", RTT: new(712.6), Loss: new(1.54)},
				{Name: "over", ID: 9, State: api.Down, Reason: new("no answer from 1.1.1.1"), Until: new(now.Add(-time.Second)), Interface: "eth6"},
				{Name: "lte", ID: 4, State: api.Disabled, Reason: new("enabled = false in the configuration"), Interface: "wwan0", RxBytes: new(uint64(1024))},
			},
			Policies: []api.PolicyStatus{
				{Name: "default", ID: 3, Tier: new(0), Members: []api.MemberStatus{{Uplink: "cable", Weight: 2}, {Uplink: "lte", Weight: 1}}},
				{Name: "voice", ID: 5},
				{Name: "bulk", ID: 10, Tier: new(1), Members: []api.MemberStatus{{Uplink: "lte", Weight: 5}}},
			},
			Warnings: []string{"lan interface wlan0 does not exist (yet): correct router.lan if it never will"},
			Drift:    api.DriftStatus{Repairs: 2, LastRepair: new(now)}},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareGolden(t, name, statusLines(s, now, format{}))
			if name != "all" {
				return
			}
			for _, width := range []int{40, 80, 120} {
				lines := statusLines(s, now, format{width: width})
				for _, line := range lines {
					if n := utf8.RuneCountInString(line); n > width {
						t.Errorf("%d columns at a width of %d: %q", n, width, line)
					}
				}
				compareGolden(t, fmt.Sprint(name, "-", width), lines)
			}
			compareGolden(t, name+"-80-colour", statusLines(s, now, format{width: 80, colour: true}))
		})
	}
}

// compareGolden compares lines with a file.
func compareGolden(t *testing.T, name string, lines []string) {
	t.Helper()
	golden, got := "testdata/status-"+name+".golden", strings.Join(lines, "\n")+"\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: (-want +got)\n%s", name, diff)
	}
}

// TestNarrow: no terminal is so narrow that something goes wrong.
func TestNarrow(t *testing.T) {
	t.Parallel()
	s := api.Status{Uplinks: []api.UplinkStatus{{Name: "dsl", State: api.Up}}, Warnings: []string{"a warning\x1b[2J with ünusual characters and a-very-long-word-that-fits-nowhere"}}
	for width := 1; width < 100; width++ {
		for i, line := range statusLines(s, time.Now(), format{width: width}) {
			if n := utf8.RuneCountInString(line); n > width && (width >= len("UPLINK  STATE") || !strings.HasPrefix(line, "dsl") && !strings.HasPrefix(line, "UPLINK")) {
				t.Errorf("width %d, line %d has %d: %q", width, i, n, line)
			}
			if strings.ContainsRune(line, '\x1b') {
				t.Errorf("an escape code of somebody else in %q", line)
			}
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	for bits, want := range map[float64]string{0: "0 bit/s", 999: "999 bit/s", 999.6: "1.0 kbit/s", 1500: "1.5 kbit/s", 48.25e6: "48 Mbit/s", 999.6e6: "1.0 Gbit/s", 1e16: "10000 Tbit/s"} {
		if got := rate(&bits); got != want {
			t.Errorf("%v: %q, want %q", bits, got, want)
		}
	}
}

func TestMilliseconds(t *testing.T) {
	t.Parallel()
	for ms, want := range map[float64]string{0: "<0.1ms", 0.049: "<0.1ms", 0.05: "0.1ms", 0.42: "0.4ms", 9.94: "9.9ms", 9.96: "10ms", 712.6: "713ms"} {
		if got := milliseconds(&ms); got != want {
			t.Errorf("%v: %q, want %q", ms, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1 << 30: "1.0 GiB", 1 << 40: "1.0 TiB", 1 << 60: "1048576.0 TiB"} {
		if got := size(&n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{"": {}, "a\n": {"a"}, "a\nb\n": {"a", "b"}} {
		if diff := cmp.Diff(want, lines(text)); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", text, diff)
		}
	}
}
