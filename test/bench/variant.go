//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// variant is one way to be a router. All of them exist at the same time, and are measured in turn.
type variant struct {
	id      string
	what    string
	uplinks int
	// start makes the router of a house work. What it returns as a missing error keeps this variant, and nothing else, from being measured.
	start func(ctx context.Context, b *bench, h *house) error

	base    *variant // with rules only: what it is compared with; nil: nothing
	missing string   // why it is not measured
	house   *house
	track   *track
	rounds  []round
}

// missingError says that something that a variant needs is not here.
type missingError struct{ reason string }

func (e missingError) Error() string { return e.reason }

// variants lists them; the first is what all others are compared with. With another agent there are two more.
func variants(against bool) []*variant {
	all := []*variant{
		{id: "A", what: "one uplink, a bare masquerade", uplinks: 1, start: startMasquerade},
		{id: "B", what: "agent, 2 uplinks, guard", uplinks: 2, start: startAgent(true, false)},
		{id: "C", what: "agent, 2 uplinks, no guard", uplinks: 2, start: startAgent(false, false)},
		{id: "D", what: "agent, 64 uplinks, guard", uplinks: 64, start: startAgent(true, false)},
		{id: "E", what: "Shorewall, 2 providers, balance", uplinks: 2, start: startShorewall},
		{id: "F", what: "the least with marks, 2 uplinks", uplinks: 2, start: startFloor},
	}
	if against {
		all = append(all,
			&variant{id: "G", what: "the other agent, as B", uplinks: 2, start: startAgent(true, true)},
			&variant{id: "H", what: "the other agent, as C", uplinks: 2, start: startAgent(false, true)})
	}
	return all
}

// open builds the house and makes its router work.
func (v *variant) open(ctx context.Context, b *bench) (err error) {
	if v.house, err = newHouse(v.uplinks); err != nil {
		return err
	}
	if err = v.start(ctx, b, v.house); err == nil {
		v.track, err = newTrack(v.house)
	}
	if missing := (missingError{}); errors.As(err, &missing) {
		v.missing = missing.reason
		v.house.Close()
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s (%s): %w", v.id, v.what, err)
	}
	return nil
}

func (v *variant) close() {
	if v.track != nil {
		v.track.close()
	}
	if v.house != nil {
		v.house.Close()
	}
}

// startMasquerade makes the least that works: table ip nat { chain postrouting { oifname "eth1" masquerade } }, and forwarding.
func startMasquerade(_ context.Context, _ *bench, h *house) error {
	c, err := nftables.New(nftables.WithNetNSFd(h.Router.FD()))
	if err != nil {
		return err
	}
	var name [16]byte
	copy(name[:], h.Uplinks[0].Interface)
	table := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name[:]},
		&expr.Masq{},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing rules: %w", err)
	}
	return h.Router.Sysctl("net/ipv4/ip_forward", "1")
}

// startAgent runs the real agent, or the other one to compare it with.
func startAgent(guard, other bool) func(context.Context, *bench, *house) error {
	return func(ctx context.Context, b *bench, h *house) error {
		program := b.program
		if other {
			program = b.against
		}
		a, err := b.agent(program, h.Router)
		if err != nil {
			return err
		}
		if err := a.Configure(config(h, guard, nil)); err != nil {
			return err
		}
		return a.Run(ctx)
	}
}

// config writes an agent's configuration for a house.
func config(h *house, guard bool, weights []int) string {
	return strings.Replace(rig.Config(h.Topology, weights), "[router]\n", fmt.Sprintf("[router]\nguard = %v\n", guard), 1)
}

// agent prepares an agent in a folder of its own.
func (b *bench) agent(program string, router *lab.NS) (*rig.Agent, error) {
	b.agents++
	folder := filepath.Join(b.folder, fmt.Sprintf("agent%d", b.agents))
	if err := os.Mkdir(folder, 0o750); err != nil {
		return nil, err
	}
	return rig.New(program, folder, router), nil
}
