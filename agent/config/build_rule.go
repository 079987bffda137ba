package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// buildRule makes rule number i, counted from 1 over all files.
func (r *reader) buildRule(s *spec, n *node, i int) Rule {
	rule := Rule{
		Name:        cmp.Or(value[string](s, n, "name"), fmt.Sprintf("rule %d", i)),
		From:        orNil(value[[]netip.Prefix](s, n, "from")),
		To:          orNil(value[[]netip.Prefix](s, n, "to")),
		Domains:     orNil(value[[]string](s, n, "domains")),
		Interfaces:  orNil(value[[]string](s, n, "interfaces")),
		Ports:       orNil(value[[]PortRange](s, n, "ports")),
		SourcePorts: orNil(value[[]PortRange](s, n, "source_ports")),
		Local:       value[bool](s, n, "local"),
		Policy:      value[string](s, n, "policy"),
		Uplink:      value[string](s, n, "uplink"),
		Bypass:      value[string](s, n, "action") == "bypass",
		Pos:         r.where(n),
	}
	for _, m := range value[[]mac](s, n, "macs") {
		rule.MACs = append(rule.MACs, m)
	}
	for _, name := range value[[]string](s, n, "protocol") {
		rule.Protocols = append(rule.Protocols, findProtocol(name).numbers...)
	}
	if len(rule.Protocols) == 0 && len(rule.Ports)+len(rule.SourcePorts) > 0 {
		rule.Protocols = []uint8{syscall.IPPROTO_TCP, syscall.IPPROTO_UDP}
	}
	for _, name := range value[[]string](s, n, "dscp") {
		rule.DSCP = append(rule.DSCP, dscpNames[name])
	}
	if h := value[Hours](s, n, "hours"); h != (Hours{}) {
		rule.Hours = &h
	}
	for _, name := range value[[]string](s, n, "days") {
		rule.Days = append(rule.Days, time.Weekday(slices.Index(dayNames, name)))
	}
	rule.UIDs = append(rule.UIDs, value[[]uint32](s, n, "uid")...)
	rule.Domains = sorted(rule.Domains) // as they are needed whenever something happens
	rule.Protocols, rule.DSCP, rule.Days = sorted(rule.Protocols), sorted(rule.DSCP), sorted(rule.Days)
	return rule
}

// sorted sorts a list in place and returns it without what is in it twice.
func sorted[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return slices.Compact(list)
}
