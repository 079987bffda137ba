//go:build linux

package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestMetrics: what Prometheus is told of an uplink that dies.
func TestMetrics(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.HTTP = "127.0.0.1:9780"
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	a, b := h.Uplinks[0].Name, h.Uplinks[1].Name
	h.exports(ctx, "multiroute_ready 1", `multiroute_uplink_up{uplink="`+a+`"} 1`, `multiroute_uplink_rtt_seconds{family="ipv4",uplink="`+a+`"} `,
		`multiroute_uplink_loss_ratio{family="ipv6",uplink="`+b+`"} 0`, `multiroute_failover_duration_seconds_count 0`, `multiroute_conntrack_entries `,
		`multiroute_uplink_connections{uplink="`+a+`"} `, `multiroute_uplink_receive_bytes_total{uplink="`+a+`"} `)
	must(t, h.Uplinks[0].Provider.Blackhole(true))
	h.becomes(ctx, h.Uplinks[0], api.Down, 10*time.Second)
	text := h.exports(ctx, `multiroute_uplink_up{uplink="`+a+`"} 0`, `multiroute_uplink_state{state="down",uplink="`+a+`"} 1`,
		`multiroute_uplink_transitions_total{cause="probes",state="down",uplink="`+a+`"} 1`, `multiroute_policy_usable{policy="default"} 1`)
	// The families die at once or one after the other, which are two failovers then.
	if !strings.Contains(text, "\nmultiroute_failover_duration_seconds_count 1\n") && !strings.Contains(text, "\nmultiroute_failover_duration_seconds_count 2\n") {
		t.Errorf("an uplink died, but was counted neither once nor twice:\n%s", text)
	}
}

// exports waits until there are lines that begin so, and returns all.
func (h *house) exports(ctx context.Context, lines ...string) string {
	h.t.Helper()
	text := ""
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(300 * time.Millisecond) {
		var err error
		if text, err = h.Get(ctx, "/metrics"); err == nil {
			missing := ""
			for _, l := range lines {
				if !strings.Contains(text, "\n"+l) {
					missing = l
				}
			}
			if missing == "" {
				return text
			}
			text = "no " + missing + " in\n" + text
		}
		if time.Now().After(end) {
			h.t.Fatalf("%v\n%s", err, text)
		}
	}
}
