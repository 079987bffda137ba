package api

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func fullStatus() Status {
	since := time.Date(2026, 11, 20, 20, 37, 0, 0, time.UTC)
	return Status{
		Version: "1.2.3", PID: 42, Ready: true,
		Config: ConfigStatus{Generation: 3, LoadedAt: &since, Error: new("agent.toml:3: no")},
		Uplinks: []UplinkStatus{
			{
				Name: "dsl", ID: 1, State: Up, Reason: new("answers"), Since: &since, Until: &since, Interface: "eth1",
				Gateway: new(netip.MustParseAddr("192.0.2.1")), Gateway6: new(netip.MustParseAddr("fe80::1")),
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, Mark: 0x01000000, Table: 20001,
				RTT: new(12.5), Jitter: new(0.25), Loss: new(0.0), Connections: new(7),
				RxBytes: new(uint64(1 << 40)), TxBytes: new(uint64(1)), RxRate: new(1.5e6), TxRate: new(0.0),
			},
			{Name: "lte", ID: 2, State: Disabled, Interface: "wwan0", Mark: 0x02000000, Table: 20002},
		},
		Policies: []PolicyStatus{
			{Name: "default", ID: 3, Tier: new(0), Members: []MemberStatus{{Uplink: "dsl", Weight: 3}}},
			{Name: "voice", ID: 4},
		},
		Drift: DriftStatus{Repairs: 1, LastRepair: &since},
	}
}

// TestStatusJSON keeps the keys stable: they are what other programs rely on.
func TestStatusJSON(t *testing.T) {
	t.Parallel()
	got, err := json.MarshalIndent(fullStatus(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
	"version": "1.2.3",
	"pid": 42,
	"ready": true,
	"config": {
		"generation": 3,
		"loaded_at": "2026-11-20T20:37:00Z",
		"error": "agent.toml:3: no",
		"confirm_by": null
	},
	"uplinks": [
		{
			"name": "dsl",
			"id": 1,
			"state": "up",
			"reason": "answers",
			"since": "2026-11-20T20:37:00Z",
			"until": "2026-11-20T20:37:00Z",
			"interface": "eth1",
			"gateway": "192.0.2.1",
			"gateway6": "fe80::1",
			"addresses": [
				"192.0.2.7"
			],
			"mark": 16777216,
			"table": 20001,
			"rtt_ms": 12.5,
			"jitter_ms": 0.25,
			"loss_percent": 0,
			"connections": 7,
			"rx_bytes": 1099511627776,
			"tx_bytes": 1,
			"rx_bits_per_second": 1500000,
			"tx_bits_per_second": 0
		},
		{
			"name": "lte",
			"id": 2,
			"state": "disabled",
			"reason": null,
			"since": null,
			"until": null,
			"interface": "wwan0",
			"gateway": null,
			"gateway6": null,
			"addresses": [],
			"mark": 33554432,
			"table": 20002,
			"rtt_ms": null,
			"jitter_ms": null,
			"loss_percent": null,
			"connections": null,
			"rx_bytes": null,
			"tx_bytes": null,
			"rx_bits_per_second": null,
			"tx_bits_per_second": null
		}
	],
	"policies": [
		{
			"name": "default",
			"id": 3,
			"tier": 0,
			"members": [
				{
					"uplink": "dsl",
					"weight": 3
				}
			]
		},
		{
			"name": "voice",
			"id": 4,
			"tier": null,
			"members": []
		}
	],
	"warnings": [],
	"drift": {
		"repairs": 1,
		"last_repair": "2026-11-20T20:37:00Z"
	}
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("unexpected JSON (-want +got):\n%s", diff)
	}
	empty, err := json.Marshal(Status{})
	if err != nil {
		t.Fatal(err)
	}
	const wantEmpty = `{"version":"","pid":0,"ready":false,"config":{"generation":0,"loaded_at":null,"error":null,"confirm_by":null},` +
		`"uplinks":[],"policies":[],"warnings":[],"drift":{"repairs":0,"last_repair":null}}`
	if diff := cmp.Diff(wantEmpty, string(empty)); diff != "" {
		t.Errorf("unexpected JSON (-want +got):\n%s", diff)
	}
}

// TestMarshalLeavesTheValueAlone: the daemon's own lists are not written to.
func TestMarshalLeavesTheValueAlone(t *testing.T) {
	t.Parallel()
	s := fullStatus()
	if _, err := json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullStatus(), s, compareAddr); diff != "" {
		t.Errorf("marshalling changed the status (-want +got):\n%s", diff)
	}
}
