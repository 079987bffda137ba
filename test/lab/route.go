//go:build linux

package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is a route of the kernel, with what a lab needs of it. The zero values mean what they mean to `ip route`.
type Route struct {
	Dst       netip.Prefix // zero: the default route of Gateway's family (without Gateway: IPv4)
	Gateway   netip.Addr
	Interface string
	Source    netip.Addr
	Table     int
	Metric    int
	Protocol  int // such as unix.RTPROT_DHCP
	Type      int // such as unix.RTN_UNREACHABLE
	OnLink    bool
}

// String writes the route as `ip route` does.
func (r Route) String() string {
	s := r.dst().String()
	if r.Type == unix.RTN_LOCAL {
		s = "local " + s
	} else if r.Type > unix.RTN_LOCAL {
		s = fmt.Sprintf("type %d %s", r.Type, s)
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Interface != "" {
		s += " dev " + r.Interface
	}
	return s
}

// dst is the destination with its default.
func (r Route) dst() netip.Prefix {
	switch {
	case r.Dst.IsValid():
		return r.Dst.Masked()
	case r.Gateway.Is6():
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	default:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
}

// AddRoute adds a route; it is an error if there is one already.
func (ns *NS) AddRoute(r Route) error { return ns.route("adding", r, ns.handle.RouteAdd) }

// ReplaceRoute adds a route in place of the one with the same destination, metric and table.
func (ns *NS) ReplaceRoute(r Route) error { return ns.route("replacing", r, ns.handle.RouteReplace) }

// DelRoute deletes a route.
func (ns *NS) DelRoute(r Route) error { return ns.route("deleting", r, ns.handle.RouteDel) }

// route does one of these with the netlink library's kind of route.
func (ns *NS) route(verb string, r Route, f func(*netlink.Route) error) error {
	dst := r.dst()
	route := &netlink.Route{
		Dst:      ipNet(dst),
		Table:    r.Table,
		Priority: r.Metric,
		Protocol: netlink.RouteProtocol(r.Protocol),
		Type:     r.Type,
		Family:   unix.AF_INET,
	}
	if dst.Addr().Is6() {
		route.Family = unix.AF_INET6
	}
	if r.Gateway.IsValid() {
		route.Gw = r.Gateway.AsSlice()
	} else if dst.Addr().Is4() && r.Type == 0 {
		route.Scope = unix.RT_SCOPE_LINK
	}
	if r.Type == unix.RTN_LOCAL {
		route.Scope = unix.RT_SCOPE_HOST
		if r.Table == 0 {
			route.Table = unix.RT_TABLE_LOCAL
		}
	}
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.Interface != "" {
		link, err := ns.Link(r.Interface)
		if err != nil {
			return fmt.Errorf("%s route %s: %w", verb, r, err)
		}
		route.LinkIndex = link.Attrs().Index
	}
	if err := f(route); err != nil {
		return fmt.Errorf("%s route %s in %s: %w", verb, r, ns.Name, err)
	}
	return nil
}
