package web

import (
	"net/netip"
	"time"

	"multiroute/agent/api"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// sample is a snapshot in which every metric has a value: two uplinks, one of
// them just died.
func sample() *Snapshot {
	a := netip.MustParseAddr
	n := &Snapshot{
		Time: noon,
		Status: api.Status{Version: "test", Ready: true, Config: api.ConfigStatus{Generation: 2, LoadedAt: ptr(noon.Add(-time.Hour))},
			Uplinks: []api.UplinkStatus{
				{Name: "dsl", ID: 1, State: api.Up, Since: ptr(noon.Add(-time.Hour)), Interface: "eth1", Gateway: ptr(a("192.0.2.1")), Addresses: []netip.Addr{a("192.0.2.9")},
					RTT: ptr(12.3), Jitter: ptr(1.5), Loss: ptr(0.0), Connections: ptr(42), RxBytes: ptr(uint64(1e6)), TxBytes: ptr(uint64(2e5))},
				{Name: "cable", ID: 2, State: api.Down, Reason: ptr("no answer from 1.1.1.1 <for> 1s"), Since: ptr(noon.Add(-2 * time.Second)), Until: ptr(noon.Add(8 * time.Second)),
					Interface: "eth2", Loss: ptr(100.0), Connections: ptr(0)},
			},
			Policies: []api.PolicyStatus{
				{Name: "default", ID: 3, Tier: ptr(0), Members: []api.MemberStatus{{Uplink: "dsl", Weight: 3}, {Uplink: "dsl", Weight: 2}}},
				{Name: "voice", ID: 4},
			},
			Warnings: []string{"something is <odd>"}, Drift: api.DriftStatus{Repairs: 7}},
		Legs: []Leg{
			{Uplink: "dsl", Family: "ipv4", RTT: 12300 * time.Microsecond, Jitter: 1500 * time.Microsecond, Sent: 100, Answers: 99, Ignored: 1},
			{Uplink: "dsl", Family: "ipv6"},
			{Uplink: "cable", Family: "ipv4", Loss: 100, Sent: 50, Answers: 40},
		},
		Traffic:     map[string]Traffic{"dsl": {InPackets: 1000, OutPackets: 900, InBytes: 1e6, OutBytes: 2e5}},
		Connections: map[string]int{"dsl": 42, "cable": 0},
		Conntrack:   &Conntrack{Entries: 50, Limit: 65536, InsertFailed: 1, Dropped: 2, EarlyDropped: 3},
		Events: []api.Event{
			{ID: 1, Time: noon.Add(-time.Hour), Uplink: "dsl", To: api.Up, Cause: api.CauseStart},
			{ID: 2, Time: noon.Add(-2 * time.Second), Uplink: "cable", From: api.Up, To: api.Down, Reason: "no answer from 1.1.1.1 <for> 1s", Cause: api.CauseProbes,
				Noticed: noon.Add(-3 * time.Second), Routed: noon.Add(-2 * time.Second)},
		},
		Transitions: map[Transition]uint64{{Uplink: "cable", To: api.Down, Cause: api.CauseProbes}: 1},
		Writes:      Writes{Routes: 20, NFTables: 2, Sysctls: 9},
		Reloads:     Reloads{Applied: 1, Invalid: 2, Refused: 3},
	}
	n.Failovers.Observe(600 * time.Millisecond)
	n.Failovers.Observe(time.Minute)
	return n
}
