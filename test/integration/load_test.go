//go:build linux

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// load is traffic on every uplink that must not notice anything: long TCP
// connections, 1 kHz UDP both ways and one way, and new connections all the
// time.
type load struct {
	t       *testing.T
	h       *house
	streams *lab.Streams
	oneWay  []*lab.OneWay
	churn   *lab.Churn
	leaves  *lab.Uplink // an uplink that is removed meanwhile: short connections on it may fail
}

// startLoad opens n long connections, in both families, and at least one UDP
// stream per uplink.
func startLoad(ctx context.Context, t *testing.T, h *house, n int) *load {
	t.Helper()
	l := &load{t: t, h: h}
	var err error
	targets := func(i int) (lab.Socket, netip.AddrPort) {
		if i%2 == 1 {
			return lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress6, lab.PortTCP)
		}
		return lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)
	}
	if l.streams, err = lab.StartStreams(ctx, h.Client(), n, targets, lab.StreamOptions{Interval: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	// The server tells after the first packets which uplink a stream is on.
	covered := map[netip.Addr]bool{}
	for len(covered) < len(h.Uplinks) || len(l.oneWay) < 2*len(h.Uplinks) {
		o, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, 0), 0)
		if err != nil {
			t.Fatal(err)
		}
		l.oneWay = append(l.oneWay, o)
		for len(h.Server.Flow(o.Flow).Sources) == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // a condition, bounded by ctx
		}
		for _, a := range h.Server.Flow(o.Flow).Addresses() {
			covered[a] = true
		}
		if len(l.oneWay) > 20 {
			break
		}
	}
	l.churn = lab.StartChurn(ctx, h.Client(), 4, 5*time.Millisecond, targets)
	return l
}

// check ends the load and asserts the zeros.
func (l *load) check() {
	l.t.Helper()
	churn, streams := l.churn.Stop(), l.streams.Stop()
	l.t.Logf("long connections: %s", streams)
	l.t.Logf("new connections: %s", churn)
	if streams.Broken > 0 {
		l.t.Errorf("%d of %d long connections broke: %v", streams.Broken, streams.Opened, streams.Samples)
	}
	allowed := 0
	if l.leaves != nil {
		allowed = churn.ByAddr[netip.Addr{}] + churn.ByAddr[l.leaves.Address.Addr()] + churn.ByAddr[l.leaves.Address6.Addr()]
	}
	if churn.Failed > allowed {
		l.t.Errorf("%d new connections failed: %v", churn.Failed, churn.Samples)
	}
	for _, o := range l.oneWay {
		sent := o.Stop()
		r := l.settled(o.Flow, sent)
		l.t.Logf("1 kHz UDP from %v: %d of %d received, longest outage %v", r.Addresses(), r.Received, sent, r.Outage)
		if r.Received != sent || len(r.Addresses()) != 1 {
			l.t.Errorf("UDP stream: %d of %d received, from %v", r.Received, sent, r.Addresses())
		}
	}
	l.h.noLeaks()
}

// settled waits until a flow's last packets have arrived.
func (l *load) settled(flow uint64, sent int) lab.FlowReport {
	end := time.Now().Add(5 * time.Second)
	for {
		r := l.h.Server.Flow(flow)
		if r.Received >= sent || time.Now().After(end) {
			return r
		}
		time.Sleep(time.Millisecond)
	}
}

// uplinkTables is a configuration with the uplinks in a given order and weight.
func uplinkTables(h *house, order []int, weights []int, more ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s[router]\nlan = [%q]\n", rig.LinksOnly, h.LAN)
	for k, i := range order {
		u := h.Uplinks[i]
		fmt.Fprintf(&b, "[uplink.%s]\ninterface = %q\ngateway = %q\ngateway6 = %q\nweight = %d\n", u.Name, u.Interface, u.Gateway, u.Gateway6, weights[k])
		if h.Switch != nil {
			fmt.Fprintf(&b, "addresses = [%q, %q]\n", u.Address.Addr(), u.Address6.Addr())
		}
	}
	return b.String() + strings.Join(more, "\n")
}

// TestReloadUnderLoad: 100 reloads that change weights and order and add and
// remove an uplink disturb nothing on the other uplinks.
func TestReloadUnderLoad(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, 2*time.Minute)
			h := newHouse(t, topology, lab.Options{Uplinks: 3})
			last := h.Uplinks[2]
			h.start(ctx, uplinkTables(h, []int{0, 1}, []int{3, 1}))
			before := idsOf(ctx, t, h)
			// The load is on the two uplinks that stay.
			all := h.Uplinks
			h.Uplinks = all[:2]
			l := startLoad(ctx, t, h, 200)
			h.Uplinks, l.leaves = all, last
			random := rand.New(rand.NewPCG(1, 2))
			for i := range 100 {
				order := []int{0, 1}
				if i%3 == 0 {
					order = append(order, 2)
				}
				random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				weights := []int{1 + random.IntN(5), 1 + random.IntN(5), 1}
				if err := h.Reconfigure(ctx, uplinkTables(h, order, weights)); err != nil {
					t.Fatal(err)
				}
			}
			l.check()
			for name, id := range idsOf(ctx, t, h) {
				if was, ok := before[name]; ok && was != id && name != last.Name {
					t.Errorf("uplink %s had id %d and now has %d", name, was, id)
				}
			}
		})
	}
}

// TestKillUnderLoad: 50 kill -9 and restarts disturb nothing, and ids stay.
func TestKillUnderLoad(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	text := uplinkTables(h, []int{0, 1}, []int{3, 1})
	h.start(ctx, text)
	before := idsOf(ctx, t, h)
	l := startLoad(ctx, t, h, 200)
	for range 50 {
		if err := h.End(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := h.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	l.check()
	for name, id := range idsOf(ctx, t, h) {
		if before[name] != id {
			t.Errorf("uplink %s had id %d and now has %d", name, before[name], id)
		}
	}
}

func idsOf(ctx context.Context, t *testing.T, h *house) map[string]int {
	t.Helper()
	s, err := h.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, u := range s.Uplinks {
		ids[u.Name] = u.ID
	}
	return ids
}
