// Package config turns TOML text into a validated Config. It is pure: it reads
// the files it is handed, never the kernel, the clock or the environment.
//
// Every key is validated, and a key that nobody knows is a mistake: nothing a
// user writes is ever silently ignored.
package config

import (
	"net/netip"
	"time"
)

// Config is a complete, validated configuration. It is never changed after
// Load or Parse returned it.
type Config struct {
	Router       Router
	Uplinks      []Uplink // in reading order; names are unique
	Policies     []Policy // in reading order; "default" is always there
	Rules        []Rule   // in reading order, the first match wins
	PortForwards []PortForward
	Hooks        Hooks
	API          API
	Files        []string // the files that were read, in reading order
}

// Router is the [router] table: what concerns no single uplink.
type Router struct {
	LAN           []string       // interfaces with clients behind them; empty on a server that serves only itself
	MarkMask      uint32         // contiguous bits of packet and connection mark that are ours
	TableBase     int            // routing table of id N is TableBase+N
	RuleBase      int            // first priority of our ip rules
	ManageSysctls bool           // false: check and warn only
	Guard         bool           // nothing enters unasked, nothing leaves un-NATed
	Routed        []netip.Prefix // sources that may leave un-NATed
}

// Uplink is one [uplink.NAME] table.
type Uplink struct {
	Name         string
	Interface    string
	Gateway      Gateway      // IPv4
	Gateway6     Gateway      // IPv6
	Addresses    []netip.Addr // own addresses on Interface; empty: those of the gateway's subnet
	IPv6         IPv6Mode
	Prefix6      Prefix6        // with IPv6Prefix
	Weight       int            // 1..256
	Bandwidth    Bandwidth      // what the line can carry
	DNS          []netip.Addr   // always reached through this uplink
	Destinations []netip.Prefix // always reached through this uplink
	MTU          int            // bytes; 0: the interface's
	Metered      bool           // paid by volume
	Enabled      bool
	Health       Health
	Pos          string // "file:line" of the table's first header, for warnings
}

// Bandwidth is what a line can carry, in bits a second; 0: not known.
type Bandwidth struct{ Down, Up int64 }

// GatewayMode says where an uplink's gateway comes from.
type GatewayMode int

// The ways to name a gateway.
const (
	GatewayAuto    GatewayMode = iota // learned from the kernel's default routes in table main
	GatewayAddress                    // Gateway.Addr
	GatewayNone                       // point to point: no gateway needed
	GatewayOff                        // this family is not used here (gateway6 only)
)

// Gateway is the next hop of an uplink in one family.
type Gateway struct {
	Mode   GatewayMode
	Addr   netip.Addr // valid only in mode GatewayAddress
	OnLink bool       // written "ADDRESS onlink": reachable although in no subnet of the interface
}

// IPv6Mode says what happens to IPv6 sources that leave an uplink.
type IPv6Mode int

// The IPv6 modes.
const (
	IPv6Masquerade IPv6Mode = iota // NATed to the uplink's own address
	IPv6Prefix                     // NATed one to one to the uplink's own prefix
	IPv6Routed                     // only sources in Router.Routed leave, un-NATed
	IPv6Off                        // no IPv6 on this uplink
)

// PortForward is one [[port_forward]] entry.
type PortForward struct {
	Name     string
	Protocol uint8          // IPPROTO_TCP or IPPROTO_UDP
	Ports    PortRange      // on the uplink's address
	To       netip.Addr     // the server behind the router
	ToPorts  PortRange      // as many as Ports, one for one, or a single one for all of them
	Uplinks  []string       // empty: all
	Sources  []netip.Prefix // clients that may use it, of To's family; empty: all; they may overlap
	Hairpin  bool           // clients in the LAN may use it by the uplinks' addresses, too
}

// Hooks is the [hooks] table.
type Hooks struct {
	OnChange []string      // absolute paths of programs that run when an uplink's state changes
	Timeout  time.Duration // for each of them
}

// API is the [api] table.
type API struct {
	Socket string // absolute path of the control socket
	Group  string // its members may read
	HTTP   string // address and port of metrics and the status page; empty: none
}

// Uplink returns the uplink called name, or nil.
func (c *Config) Uplink(name string) *Uplink {
	for i := range c.Uplinks {
		if c.Uplinks[i].Name == name {
			return &c.Uplinks[i]
		}
	}
	return nil
}

// Policy returns the policy called name, or nil.
func (c *Config) Policy(name string) *Policy {
	for i := range c.Policies {
		if c.Policies[i].Name == name {
			return &c.Policies[i]
		}
	}
	return nil
}
