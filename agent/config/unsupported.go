package config

import (
	"net/netip"
	"strings"
)

// gap is a part of the contract that has no behaviour yet. To give a key its
// behaviour, delete its row.
type gap struct {
	path    string         // as in the contract; what stands below it is meant too
	whole   bool           // one error for the table instead of one for each key in it
	does    func(any) bool // which values mean what the program does now; nil: none
	subject string         // what it is that comes later
	instead string         // what to do until then
}

const removeKey = "remove this key"

// unsupported lists everything without behaviour.
var unsupported = []gap{
	{"rule.[].domains", false, emptyList, "rules by domain come", removeKey},

	{"uplink.*.bandwidth", true, nil, "balancing by bandwidth comes", removeKey},
	{"uplink.*.ipv6", false, not("prefix"), "IPv6 prefix translation comes", `write "masquerade", "routed" or "off"`},
	{"uplink.*.mtu", false, is(0), "setting the MTU comes", "write 0 or remove this key"},

	{"policy.*.balance", false, is("weight"), "other ways to balance come", `write "weight" or remove this key`},
	{"policy.*.sticky", false, is("connection"), "keeping a client on one uplink comes", `write "connection" or remove this key`},
	{"policy.*.sticky_timeout", false, nil, "keeping a client on one uplink comes", removeKey},

	{"port_forward.[].port", false, singlePort, "forwarding a range of ports comes", "write one port"},
	{"port_forward.[].to", false, singlePort, "forwarding to a range of ports comes", "write one port"},
	{"port_forward.[].sources", false, emptyList, "limiting a port forward to some clients comes", "write [] or remove this key"},
	{"port_forward.[].hairpin", false, is(false), "reaching port forwards from the LAN comes", "write false or remove this key"},

	{"hooks.on_change", false, emptyList, "hooks come", "write [] or remove this key"},
	{"hooks.hook_timeout", false, nil, "hooks come", removeKey},

	{"api.http", false, is(""), "metrics and the status page come", `write "" or remove this key`},
}

func is[T comparable](v T) func(any) bool  { return func(val any) bool { return val == any(v) } }
func not[T comparable](v T) func(any) bool { return func(val any) bool { return val != any(v) } }

func emptyList(val any) bool {
	switch v := val.(type) {
	case []string:
		return len(v) == 0
	case []netip.Prefix:
		return len(v) == 0
	}
	return false
}

func singlePort(val any) bool {
	switch v := val.(type) {
	case PortRange:
		return v.Lo == v.Hi
	case endpoint:
		return v.ports.Lo == v.ports.Hi
	}
	return false
}

// problem says that the gap is one.
func (g *gap) problem() string {
	return "not supported yet: " + g.subject + " in a later version; " + g.instead
}

// findGap returns the row for exactly this path in terms of the contract.
func findGap(gaps []gap, parts []string) *gap {
	for i := range gaps {
		if matches(gaps[i].path, parts) {
			return &gaps[i]
		}
	}
	return nil
}

func matches(pattern string, parts []string) bool {
	want := strings.Split(pattern, ".")
	if len(want) != len(parts) {
		return false
	}
	for i, w := range want {
		switch {
		case w == parts[i], w == "*", w == "[]" && strings.HasPrefix(parts[i], "["):
		default:
			return false
		}
	}
	return true
}
