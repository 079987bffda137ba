//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestSharedTraffic: what each of the uplinks on one NIC carries is told apart, in
// both families, for clients and for the router itself.
func TestSharedTraffic(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]lab.Options{"LAN apart": {}, "LAN on the NIC": {LANOnNIC: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewSingleNIC, o)
			h.HTTP = "127.0.0.1:9780"
			h.start(ctx, rig.Config(h.Topology, nil))
			for _, from := range []*lab.NS{h.Client(), h.Topology.Router} {
				for _, to := range []netip.Addr{lab.InternetAddress, lab.InternetAddress6} {
					h.countedFor(ctx, from, to)
				}
			}
			h.waits(ctx, "bytes and rates in the status", func(s api.Status) bool {
				for _, u := range s.Uplinks {
					if u.RxBytes == nil || u.TxBytes == nil || u.RxRate == nil || u.TxRate == nil {
						return false
					}
				}
				return true
			})
			h.unchanged()
		})
	}
}

// countedFor has a host talk over one uplink, and wants that to be counted there
// and nowhere else.
func (h *house) countedFor(ctx context.Context, from *lab.NS, to netip.Addr) {
	h.t.Helper()
	const packets, size = 300, 1000
	before := h.traffic(ctx)
	c, err := from.DialUDP(lab.Socket{}, netip.AddrPortFrom(to, lab.PortEcho))
	must(h.t, err)
	defer c.Close()
	answer := make([]byte, 2*size)
	seen := netip.AddrPort{}
	for range packets {
		_, err := c.Write(make([]byte, size))
		must(h.t, err)
		must(h.t, c.SetReadDeadline(time.Now().Add(2*time.Second)))
		n, err := c.Read(answer)
		must(h.t, err)
		line, _, _ := bytes.Cut(answer[:n], []byte("\n"))
		seen, err = netip.ParseAddrPort(string(line))
		must(h.t, err)
	}
	var after map[string]float64
	counted := func() bool {
		for _, u := range h.Uplinks {
			carries := seen.Addr() == u.Address.Addr() || seen.Addr() == u.Address6.Addr()
			for _, way := range []string{"receive", "transmit"} {
				key := fmt.Sprintf("multiroute_uplink_%s_%%s_total{uplink=%q}", way, u.Name)
				p, b := fmt.Sprintf(key, "packets"), fmt.Sprintf(key, "bytes")
				if more := after[p] - before[p]; carries != (more >= packets-1) || !carries && more > packets/10 {
					return false
				}
				if more := after[b] - before[b]; carries != (more >= (packets-1)*size) {
					return false
				}
			}
		}
		return true
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(500 * time.Millisecond) { // the agent answers a few times a second
		if after = h.traffic(ctx); counted() {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("%s talked to %s: %v, before %v", seen, to, after, before)
		}
	}
}

// traffic is what the metrics say of what uplinks carried.
func (h *house) traffic(ctx context.Context) map[string]float64 {
	h.t.Helper()
	text, err := h.Get(ctx, "/metrics")
	must(h.t, err)
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		var v float64
		if key, value, ok := strings.Cut(line, " "); ok && strings.HasPrefix(key, "multiroute_uplink_") {
			if _, err := fmt.Sscan(value, &v); err == nil {
				all[key] = v
			}
		}
	}
	return all
}
