//go:build linux

package integration

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestConnectionsBefore: what began before the agent did. Connections that use
// an uplink's address go on: the router's own, those to its services, and
// clients' that somebody else's masquerade serves. Connections that are not
// NATed stop leaking, and begin anew with NAT.
func TestConnectionsBefore(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Forward: true, DefaultRoutes: true})
	router, dsl := h.Topology.Router, h.Uplinks[0]
	service, err := lab.NewServer(router)
	must(t, err)
	defer service.Close()
	tcp := netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)
	options := lab.StreamOptions{Interval: 10 * time.Millisecond}

	own, err := lab.StartStreams(ctx, router, 20, bound(dsl.Address.Addr(), tcp), options)
	must(t, err)
	inbound, err := lab.StartStreams(ctx, h.Internet, 20, lab.To(netip.AddrPortFrom(dsl.Address.Addr(), lab.PortTCP)), options)
	must(t, err)
	// A one-way stream that nobody NATs: it leaks now, and would for ever.
	leaking, err := lab.StartOneWay(ctx, h.Client(), lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, 0), 0)
	must(t, err)
	until(t, "the stream leaks", func() bool { return h.Leaks() != nil })
	// Somebody else's masquerade, as a router had it before.
	must(t, router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "old", Family: nftables.TableFamilyINet})
		policy := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
			Priority: nftables.ChainPriorityNATSource, Policy: &policy})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(dsl.Interface), make([]byte, 16-len(dsl.Interface))...)},
			&expr.Masq{}}})
		return c.Flush()
	}))
	clients, err := lab.StartStreams(ctx, h.Client(), 20, lab.To(tcp), options)
	must(t, err)

	h.start(ctx, rig.Config(h.Topology, nil))
	before := leaked(t, h)
	until(t, "the stream goes on with NAT", func() bool {
		for _, a := range h.Server.Flow(leaking.Flow).Addresses() {
			for _, u := range h.Uplinks {
				if a == u.Address.Addr() {
					return true
				}
			}
		}
		return false
	})
	for name, s := range map[string]*lab.Streams{"the router's own": own, "to the router's service": inbound, "clients', NATed by another program": clients} {
		already := s.Report().Pings
		until(t, name+" connections go on", func() bool { return s.Report().Pings >= already+200 || s.Report().Broken > 0 })
		if r := s.Stop(); r.Broken > 0 {
			t.Errorf("%s: %s", name, r)
		}
	}
	leaking.Stop()
	if after := leaked(t, h); after != before {
		t.Errorf("%d packets leaked after the agent was ready", after-before)
	}
	h.leaksBefore = before
}

// leaked counts the leaks that all providers saw.
func leaked(t *testing.T, h *house) uint64 {
	t.Helper()
	var total uint64
	for _, u := range h.Uplinks {
		n, _, err := u.Provider.Leaks()
		must(t, err)
		total += n
	}
	return total
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
