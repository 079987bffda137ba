package nat

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Matches reports whether all that the rule says fits the packet, as PolicyRule
// tells it: not by what Compile made of it. Holds tells what is in dynamic sets,
// as for Ruleset.Walk.
func (r PolicyRule) Matches(p Packet, holds func(set, key string) bool) bool {
	contains := func(list []netip.Prefix, a netip.Addr) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(x netip.Prefix) bool { return x.Contains(a) })
	}
	inRange := func(list []PortRange, port uint16) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(x PortRange) bool { return x.Lo <= port && port <= x.Hi })
	}
	protocols := r.Protocols
	ports := len(r.Ports) > 0 || len(r.SourcePorts) > 0
	if ports && len(protocols) == 0 {
		protocols = []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP}
	}
	own := p.In == ""
	return r.Local == own && contains(r.From, p.Source) && contains(r.To, p.Destination) &&
		(len(r.ToLists) == 0 || slices.ContainsFunc(r.ToLists, func(list string) bool { return inList(list, p.Destination, holds) })) &&
		(len(r.Interfaces) == 0 || slices.Contains(r.Interfaces, p.In)) &&
		(len(r.MACs) == 0 || !own && slices.Contains(r.MACs, p.MAC)) &&
		(len(protocols) == 0 || slices.Contains(protocols, p.Protocol)) &&
		(!ports || hasPorts(p.Protocol)) &&
		inRange(r.Ports, p.DestPort) && inRange(r.SourcePorts, p.SourcePort) &&
		(len(r.DSCP) == 0 || slices.Contains(r.DSCP, p.DSCP)) &&
		(len(r.UIDs) == 0 || own && slices.Contains(r.UIDs, p.UID))
}
