//go:build linux

package integration

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestFamilyDies: an uplink that loses IPv6 alone stays up, and that failover is
// told like any other: in the log with its steps, on the page, and to Prometheus.
// That IPv4 is busy on it meanwhile speaks for IPv4 only.
func TestFamilyDies(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.HTTP = "127.0.0.1:9780"
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	a := h.Uplinks[0]
	six := `family="ipv6",uplink="` + a.Name + `"} `
	h.exports(ctx, "multiroute_uplink_family_up{"+six+"1")
	for range 10 { // among them some on this uplink
		c, err := h.Client().DialTCP(ctx, lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortDiscard))
		must(t, err)
		defer c.Close()
		go func() {
			for chunk := make([]byte, 1400); ; passes(ctx, 10*time.Millisecond) {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		}()
	}
	passes(ctx, 2*time.Second)
	var faults []lab.Fault
	for _, target := range lab.Targets6 {
		faults = append(faults, lab.Fault{Far: target})
	}
	must(t, a.Provider.Break(faults...))
	h.exports(ctx, "multiroute_uplink_family_up{"+six+"0", `multiroute_uplink_family_up{family="ipv4",uplink="`+a.Name+`"} 1`,
		`multiroute_uplink_up{uplink="`+a.Name+`"} 1`, "multiroute_failover_duration_seconds_count 1")
	page, err := h.Get(ctx, "/")
	must(t, err)
	if !strings.Contains(page, "IPv6 is lost") || !strings.Contains(page, "(moved within ") {
		t.Errorf("the page does not say what happened:\n%s", page)
	}
	told := false
	for line := range strings.Lines(h.Log()) {
		told = told || strings.Contains(line, "uplink change done") && strings.Contains(line, "family=ipv6") && strings.Contains(line, "cause="+string(api.CauseProbes)) &&
			strings.Contains(line, "routed_after=") && strings.Contains(line, "done_after=")
	}
	if !told {
		t.Error("the log lacks the failover, or its steps")
	}
}
