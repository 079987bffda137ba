package config

import (
	"slices"
	"time"
)

// Policy is one [policy.NAME] table: who may carry the traffic that rules send there.
type Policy struct {
	Name          string
	Tiers         [][]string     // uplinks, the best tier first; nil: one tier with every uplink
	Weights       map[string]int // by uplink name; overrides Uplink.Weight
	Balance       Balance
	Sticky        Sticky
	StickyTimeout time.Duration // how long a client who begins no connections is remembered; 0 with StickyConnection
	Failback      Failback
	Fallback      FallbackMode
}

// Members are the uplinks that may carry the policy: those of its tiers, or all.
func (p Policy) Members(all []Uplink) []string {
	if len(p.Tiers) > 0 {
		return slices.Concat(p.Tiers...)
	}
	var names []string
	for i := range all {
		names = append(names, all[i].Name)
	}
	return names
}

// Weight is the configured weight of an uplink in the policy.
func (p Policy) Weight(u *Uplink) int {
	if w, ok := p.Weights[u.Name]; ok {
		return w
	}
	return u.Weight
}

// Balance says by what the members of a policy share new connections.
type Balance int

// The ways to share.
const (
	BalanceWeight   Balance = iota // their weights
	BalanceCapacity                // the bandwidth that is free
	BalanceLatency                 // most to the quickest
)

// Sticky says what stays on one uplink together.
type Sticky int

// The things that stay together.
const (
	StickyConnection        Sticky = iota // a connection
	StickySource                          // all that a client's address does
	StickySourceDestination               // all between a client's address and another address
)

// Failback says what moves when a better tier returns.
type Failback int

// The ways to move back.
const (
	FailbackNew Failback = iota // new connections
	FailbackAll                 // the others too
)

// FallbackMode says what happens when no member of a policy is usable.
type FallbackMode int

// The ways to go on.
const (
	FallbackReject  FallbackMode = iota // refused at once
	FallbackDefault                     // the policy "default" carries it; never set on that one itself
)
