package config

import (
	"cmp"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// build makes the Config of a merged tree, with defaults where keys are absent
// or bad, and reports what does not fit together. The result is only right if
// nothing was reported.
func (r *reader) build(root *node, s *spec, whole bool) *Config {
	cfg := &Config{
		Router: buildRouter(s.children["router"], root.get("router")),
		Hooks:  buildHooks(s.children["hooks"], root.get("hooks")),
		API:    buildAPI(s.children["api"], root.get("api")),
		Files:  r.files,
	}
	for _, name := range root.get("uplink").names() {
		n := root.get("uplink").get(name)
		cfg.Uplinks = append(cfg.Uplinks, r.buildUplink(name, n, root.get("health"), s))
	}
	for _, name := range root.get("policy").names() {
		cfg.Policies = append(cfg.Policies, buildPolicy(name, root.get("policy").get(name), s.children["policy"].named))
	}
	if cfg.Policy("default") == nil {
		cfg.Policies = append(cfg.Policies, Policy{Name: "default"})
	}
	for i, n := range root.get("rule").entries() {
		cfg.Rules = append(cfg.Rules, r.buildRule(s.children["rule"].list, n, i+1))
	}
	for _, n := range root.get("port_forward").entries() {
		cfg.PortForwards = append(cfg.PortForwards, buildPortForward(s.children["port_forward"].list, n))
	}
	if whole {
		r.crossCheck(root, cfg)
	}
	return cfg
}

func buildRouter(s *spec, n *node) Router {
	return Router{
		LAN:           orNil(value[[]string](s, n, "lan")),
		MarkMask:      value[uint32](s, n, "mark_mask"),
		TableBase:     value[int](s, n, "table_base"),
		RuleBase:      value[int](s, n, "rule_base"),
		ManageSysctls: value[bool](s, n, "manage_sysctls"),
		Guard:         value[bool](s, n, "guard"),
		Routed:        orNil(value[[]netip.Prefix](s, n, "routed")),
	}
}

func buildHooks(s *spec, n *node) Hooks {
	return Hooks{OnChange: orNil(value[[]string](s, n, "on_change")), Timeout: value[time.Duration](s, n, "hook_timeout")}
}

func buildAPI(s *spec, n *node) API {
	return API{Socket: value[string](s, n, "socket"), Group: value[string](s, n, "group"), HTTP: value[string](s, n, "http")}
}

func (r *reader) buildUplink(name string, n, health *node, root *spec) Uplink {
	s := root.children["uplink"].named
	u := Uplink{
		Name:         name,
		Interface:    value[string](s, n, "interface"),
		Gateway:      value[Gateway](s, n, "gateway"),
		Gateway6:     value[Gateway](s, n, "gateway6"),
		Addresses:    orNil(value[[]netip.Addr](s, n, "addresses")),
		Prefix6:      value[Prefix6](s, n, "prefix6"),
		Weight:       value[int](s, n, "weight"),
		Bandwidth:    buildBandwidth(s.children["bandwidth"], n.get("bandwidth")),
		DNS:          orNil(value[[]netip.Addr](s, n, "dns")),
		Destinations: orNil(value[[]netip.Prefix](s, n, "destinations")),
		MTU:          value[int](s, n, "mtu"),
		Metered:      value[bool](s, n, "metered"),
		Enabled:      value[bool](s, n, "enabled"),
		Pos:          r.where(n),
	}
	switch value[string](s, n, "ipv6") {
	case "prefix":
		u.IPv6 = IPv6Prefix
	case "routed":
		u.IPv6 = IPv6Routed
	case "off":
		u.IPv6 = IPv6Off
	default:
		u.IPv6 = IPv6Masquerade
	}
	if u.IPv6 == IPv6Off || u.Gateway6.Mode == GatewayOff { // each means both
		u.IPv6, u.Gateway6 = IPv6Off, Gateway{Mode: GatewayOff}
	}
	u.Health = buildHealth(&u, root.children["health"], health, n.get("health"))
	return u
}

func buildBandwidth(s *spec, n *node) Bandwidth {
	return Bandwidth{Down: value[int64](s, n, "down"), Up: value[int64](s, n, "up")}
}

func buildPolicy(name string, n *node, s *spec) Policy {
	p := Policy{Name: name, Tiers: orNil(value[[][]string](s, n, "tiers"))}
	switch value[string](s, n, "balance") {
	case "capacity":
		p.Balance = BalanceCapacity
	case "latency":
		p.Balance = BalanceLatency
	}
	switch value[string](s, n, "sticky") {
	case "source":
		p.Sticky = StickySource
	case "source-destination":
		p.Sticky = StickySourceDestination
	}
	if p.Sticky != StickyConnection {
		p.StickyTimeout = value[time.Duration](s, n, "sticky_timeout")
	}
	if value[string](s, n, "failback") == "all" {
		p.Failback = FailbackAll
	}
	if value[string](s, n, "fallback") == "default" {
		p.Fallback = FallbackDefault
	}
	for _, up := range n.get("weights").names() {
		if w, ok := n.get("weights").get(up).val.(int); ok {
			if p.Weights == nil {
				p.Weights = map[string]int{}
			}
			p.Weights[up] = w
		}
	}
	return p
}

func buildPortForward(s *spec, n *node) PortForward {
	port, to := value[PortRange](s, n, "port"), value[endpoint](s, n, "to")
	f := PortForward{
		Name:     value[string](s, n, "name"),
		Protocol: syscall.IPPROTO_TCP,
		Ports:    port,
		To:       to.addr,
		ToPorts:  cmp.Or(to.ports, port),
		Uplinks:  orNil(value[[]string](s, n, "uplinks")),
		Sources:  orNil(value[[]netip.Prefix](s, n, "sources")),
		Hairpin:  value[bool](s, n, "hairpin"),
	}
	if value[string](s, n, "protocol") == "udp" {
		f.Protocol = syscall.IPPROTO_UDP
	}
	return f
}

// orNil gives empty lists one form, so that equal configurations compare equal.
func orNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return slices.Clone(list)
}
