package config

import (
	"net/netip"
	"slices"
	"time"
)

// Rule is one [[rule]] entry: where traffic goes that all of its matches fit.
// Each list means any of its elements; an empty one fits everything. The first
// rule that fits wins; what fits none goes to the policy "default".
type Rule struct {
	Name        string         // as written, or such as "rule 3", counted from 1 over all files
	From, To    []netip.Prefix // of either family; they may overlap
	Domains     []string       // "example.org", or "*.example.org" for all below it; in order
	Interfaces  []string       // those of Router.LAN that it comes in by
	MACs        [][6]byte      // of the sender
	Protocols   []uint8        // IPPROTO_ numbers in ascending order; "icmp" is 1 and 58; never empty where there are ports
	Ports       []PortRange    // destination; they may overlap
	SourcePorts []PortRange    // they may overlap
	DSCP        []uint8        // 0 to 63, in ascending order
	Hours       *Hours         // nil: all day
	Days        []time.Weekday // in ascending order from Sunday; empty: every day
	Local       bool           // the router's own traffic; false: that of clients
	UIDs        []uint32       // users whose traffic it is, with Local only

	// Exactly one of these is set.
	Policy string
	Uplink string // this one or nothing
	Bypass bool   // routing is left alone

	Pos string // "file:line" of the entry's header
}

// RuleUplinks returns the uplinks that rules name instead of a policy, in the
// order of c.Uplinks.
func (c *Config) RuleUplinks() []string {
	named := map[string]bool{}
	for i := range c.Rules {
		named[c.Rules[i].Uplink] = true
	}
	var names []string
	for i := range c.Uplinks {
		if named[c.Uplinks[i].Name] {
			names = append(names, c.Uplinks[i].Name)
		}
	}
	return names
}

// Bypasses reports whether a rule leaves routing alone.
func (c *Config) Bypasses() bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.Bypass })
}

// PortRange is a range of ports, both ends included. It is zero where none is given.
type PortRange struct{ Lo, Hi uint16 }

// Hours is a span of each day by the clock on the wall, from From until just
// before To, both since midnight. To is at most 24 hours; where it is before
// From, the span goes on over midnight until To of the next day.
type Hours struct{ From, To time.Duration }
