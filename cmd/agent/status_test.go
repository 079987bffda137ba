package main

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

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
			Config: api.ConfigStatus{Generation: 7, LoadedAt: new(now), Error: new("agent.toml:3: uplink.dsl.weight: 300 is too much\nagent.toml:9: x: unknown key")},
			Uplinks: []api.UplinkStatus{
				{Name: "cable", ID: 1, State: api.Up, Since: new(now.Add(-26*time.Hour - 1500*time.Millisecond)), Interface: "eth2",
					Gateway: new(netip.MustParseAddr("24.19.12.1")), Gateway6: new(netip.MustParseAddr("fe80::c1")),
					Addresses: []netip.Addr{netip.MustParseAddr("24.19.12.45"), netip.MustParseAddr("2001:db8:c::45")},
					RTT:       new(12.345), Jitter: new(0.5), Loss: new(0.0), Connections: new(1234), RxBytes: new(uint64(123456789012)), TxBytes: new(uint64(1023))},
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
			},
			Warnings: []string{"lan interface wlan0 does not exist (yet): correct router.lan if it never will"},
			Drift:    api.DriftStatus{Repairs: 2, LastRepair: new(now)}},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if err := printStatus(&b, s, now); err != nil {
				t.Fatal(err)
			}
			golden := "testdata/status-" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
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
