package routes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kernel reads and writes routing in the network namespace it was opened in.
// It is used by one goroutine at a time, but for NeighbourFailed.
type Kernel struct {
	h      *netlink.Handle // rules, links, addresses, neighbours, writes
	strict *netlink.Handle // route dumps: filtered in the kernel; rule dumps fail under strict checking
	noIPv6 bool
	failed map[neighbourKey]bool // the newest Facts.FailedNeighbours

	mu    sync.Mutex
	heard map[neighbourKey]bool // that failed since the newest Facts

	attempt *attempt // since the newest Read
}

type neighbourKey struct {
	index int
	addr  netip.Addr
}

// timeout bounds every exchange with the kernel.
const timeout = 5 * time.Second

// Open connects to the kernel's routing (rtnetlink(7)). It needs no
// privileges; Apply does.
func Open() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a routing socket: %w", err)
	}
	k := &Kernel{h: h, attempt: newAttempt()}
	if k.strict, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		err = k.strict.SetStrictCheck(true)
	}
	if err == nil {
		err = errors.Join(k.h.SetSocketTimeout(timeout), k.strict.SetSocketTimeout(timeout))
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("opening a routing socket: %w", err)
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		k.noIPv6 = true
	}
	return k, nil
}

// Close frees the sockets.
func (k *Kernel) Close() {
	k.h.Close()
	if k.strict != nil {
		k.strict.Close()
	}
}

func (k *Kernel) families() []Family {
	if k.noIPv6 {
		return []Family{IPv4}
	}
	return []Family{IPv4, IPv6}
}

// retry repeats a dump that a concurrent change made inconsistent
// (NLM_F_DUMP_INTR): its results must not be used.
func retry[T any](dump func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == 30 {
			return v, err
		}
		time.Sleep(time.Millisecond)
	}
}

// Read returns everything we own in the kernel: the rules and routes with our
// protocol number.
func (k *Kernel) Read() (Spec, error) {
	k.attempt = newAttempt()
	var s Spec
	for _, f := range k.families() {
		rules, err := k.rules(f)
		if err != nil {
			return Spec{}, err
		}
		for _, r := range rules {
			if r.Protocol == Protocol {
				s.Rules = append(s.Rules, ruleFromKernel(f, r))
			}
		}
		own := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: Protocol}
		list, err := retry(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(int(f), own, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return Spec{}, fmt.Errorf("listing routes with protocol %d (%s): %w", Protocol, f, err)
		}
		for _, r := range list {
			s.Routes = append(s.Routes, routeFromKernel(f, r))
		}
	}
	return s, nil
}

func (k *Kernel) rules(f Family) ([]netlink.Rule, error) {
	rules, err := retry(func() ([]netlink.Rule, error) { return k.h.RuleList(int(f)) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		option := "CONFIG_IP_MULTIPLE_TABLES"
		if f == IPv6 {
			option = "CONFIG_IPV6_MULTIPLE_TABLES"
		}
		return nil, fmt.Errorf("listing policy rules (%s): the kernel has none: it was built without %s: %w", f, option, err)
	case err != nil:
		return nil, fmt.Errorf("listing policy rules (%s): %w", f, err)
	}
	return rules, nil
}

// NeighbourFailed takes in what Watch heard of a neighbour. With traffic to it
// the kernel asks for it again at once, so that a list would show it as one
// that is being asked for, and not as one that does not answer. It may be
// called by any goroutine.
func (k *Kernel) NeighbourFailed(index int, a netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.heard == nil {
		k.heard = map[neighbourKey]bool{}
	}
	k.heard[neighbourKey{index, a}] = true
}

// Facts reads links, addresses, the main table's default routes, resolved and
// failed neighbours, foreign rules on marks and for table main, and foreign
// routes in our tables.
func (k *Kernel) Facts() (Facts, error) {
	failed := map[neighbourKey]bool{}
	k.mu.Lock()
	heard := k.heard
	k.heard = nil
	k.mu.Unlock()
	f := Facts{NoIPv6: k.noIPv6}
	links, err := retry(k.h.LinkList)
	if err != nil {
		return Facts{}, fmt.Errorf("listing interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		link := Link{Name: a.Name, Index: a.Index, Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
			PointToPoint: a.RawFlags&unix.IFF_POINTOPOINT != 0, MTU: a.MTU}
		if s := a.Statistics; s != nil {
			link.RxBytes, link.TxBytes, link.RxPackets, link.TxPackets = s.RxBytes, s.TxBytes, s.RxPackets, s.TxPackets
		}
		f.Links = append(f.Links, link)
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return Facts{}, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		if addr, ok := addrFromKernel(a); ok {
			f.Addrs = append(f.Addrs, addr)
		}
	}
	for _, family := range k.families() {
		if err := k.defaults(family, &f); err != nil {
			return Facts{}, err
		}
		rules, err := k.rules(family)
		if err != nil {
			return Facts{}, err
		}
		main := func(r netlink.Rule) bool {
			return r.Protocol != Protocol && r.Table == TableMain && r.SuppressPrefixlen < 0
		}
		if !slices.ContainsFunc(rules, main) {
			f.NoMain = append(f.NoMain, family)
		}
		for _, r := range rules {
			if r.Protocol != Protocol && (r.Mark != 0 || r.Mask != nil) {
				m := ForeignMark{Family: family, Priority: r.Priority, Mark: r.Mark, Mask: ^uint32(0), Protocol: r.Protocol}
				if r.Mask != nil {
					m.Mask = *r.Mask
				}
				f.Marks = append(f.Marks, m)
			}
		}
		if err := k.intruders(family, rules, &f); err != nil {
			return Facts{}, err
		}
		neighbours, err := retry(func() ([]netlink.Neigh, error) { return k.h.NeighList(0, int(family)) })
		if err != nil {
			return Facts{}, fmt.Errorf("listing neighbours (%s): %w", family, err)
		}
		for _, n := range neighbours {
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			key := neighbourKey{n.LinkIndex, unmap(family, ip)}
			switch {
			case n.State&unix.NUD_FAILED != 0, n.State&unix.NUD_INCOMPLETE != 0 && (k.failed[key] || heard[key]):
				failed[key] = true
				f.FailedNeighbours = append(f.FailedNeighbours, Neighbour{Index: key.index, Addr: key.addr})
			case n.State&(unix.NUD_INCOMPLETE|unix.NUD_NOARP) == 0 && len(n.HardwareAddr) == 6:
				f.Neighbours = append(f.Neighbours, Neighbour{Index: key.index, Addr: key.addr, MAC: [6]byte(n.HardwareAddr)})
			}
		}
	}
	k.failed = failed
	return f, nil
}

// defaults adds the default routes of table main to f, a multipath route as
// one entry a nexthop, and the prefixes that were delegated.
func (k *Kernel) defaults(family Family, f *Facts) error {
	var found []DefaultRoute
	var delegated []netip.Prefix
	err := func() error {
		_, err := retry(func() (struct{}, error) {
			found, delegated = nil, nil
			return struct{}{}, k.strict.RouteListFilteredIter(int(family), &netlink.Route{Table: TableMain}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
				if dst := prefixFromKernel(family, r.Dst); dst.Bits() != 0 && answered(r.Type) && r.Protocol != Protocol && delegable(dst) {
					delegated = append(delegated, dst)
				}
				if prefixFromKernel(family, r.Dst).Bits() != 0 || r.Type != unix.RTN_UNICAST || r.Protocol == Protocol {
					return true
				}
				hops := r.MultiPath
				if len(hops) == 0 {
					hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Flags: r.Flags}}
				}
				for _, h := range hops {
					d := DefaultRoute{Family: family, Index: h.LinkIndex, Metric: uint32(r.Priority), OnLink: h.Flags&unix.RTNH_F_ONLINK != 0}
					if gw, ok := netip.AddrFromSlice(h.Gw); ok && !gw.IsUnspecified() {
						d.Gateway = unmap(family, gw)
					}
					found = append(found, d)
				}
				return true
			})
		})
		return err
	}()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("listing default routes of table main (%s): %w", family, err)
	}
	f.Defaults = append(f.Defaults, found...)
	for _, p := range delegated {
		if !slices.Contains(f.Delegated, p) {
			f.Delegated = append(f.Delegated, p)
		}
	}
	return nil
}

// answered reports whether a route of this type leads nowhere.
func answered(routeType int) bool {
	return routeType == unix.RTN_UNREACHABLE || routeType == unix.RTN_BLACKHOLE || routeType == unix.RTN_PROHIBIT
}

// delegable reports whether a provider may have delegated p: it is a public
// IPv6 prefix (RFC 4291, 2.5.4), no longer than that of one LAN, and no block of
// a provider's own.
func delegable(p netip.Prefix) bool {
	return p.Addr().Is6() && p.Addr().As16()[0]>>5 == 1 && p.Bits() >= 24 && p.Bits() <= 64
}

// intruders adds to f what others have put into the tables that our rules lead
// to: one list, however many tables.
func (k *Kernel) intruders(family Family, rules []netlink.Rule, f *Facts) error {
	ours := map[int]bool{}
	for _, rule := range rules {
		if rule.Protocol == Protocol {
			ours[rule.Table] = true
		}
	}
	delete(ours, TableMain)
	delete(ours, unix.RT_TABLE_UNSPEC) // of rules that look no table up
	if len(ours) == 0 {
		return nil
	}
	list, err := retry(func() ([]netlink.Route, error) {
		var found []netlink.Route
		err := k.strict.RouteListFilteredIter(int(family), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if ours[r.Table] && r.Protocol != Protocol {
				found = append(found, r)
			}
			return true
		})
		return found, err
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("listing the routes of others in our tables (%s): %w", family, err)
	}
	for _, r := range list {
		f.Intruders = append(f.Intruders, ForeignRoute{Family: family, Table: r.Table, Dst: prefixFromKernel(family, r.Dst),
			Metric: uint32(r.Priority), Protocol: uint8(r.Protocol)})
	}
	return nil
}

// MainPrefixes returns what is reached without any uplink's gateway: the
// destinations of table main other than the defaults, and the router's own
// addresses, which need not be in any of those (PPP, loopback).
func (k *Kernel) MainPrefixes() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, family := range k.families() {
		list, err := retry(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(int(family), &netlink.Route{Table: TableMain}, netlink.RT_FILTER_TABLE)
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("listing table main (%s): %w", family, err)
		}
		for _, r := range list {
			if p := prefixFromKernel(family, r.Dst); p.Bits() > 0 {
				all = append(all, p)
			}
		}
		addrs, err := retry(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, int(family)) })
		if err != nil {
			return nil, fmt.Errorf("listing addresses (%s): %w", family, err)
		}
		for _, n := range addrs {
			if a, ok := addrFromKernel(n); ok {
				all = append(all, netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()))
			}
		}
	}
	return all, nil
}

// Apply carries out the operations in order. It goes on after those that the
// kernel refuses, and leaves out what would be unsafe without them, such as
// rules that lead to a table whose route was refused. It remembers that until
// the next Read, so the stages of one change may be applied one by one. The
// error tells all that was not done; what was done stays, and the next Read
// tells what that is.
func (k *Kernel) Apply(ops []Op) error { return k.attempt.apply(ops, k.apply) }

func (k *Kernel) apply(op Op) error {
	switch {
	case op.Rule != nil && op.Verb == Add:
		if err := k.h.RuleAdd(ruleToKernel(*op.Rule)); !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	case op.Rule != nil:
		if err := k.h.RuleDel(ruleToKernel(*op.Rule)); !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	case op.Verb == Replace:
		return k.h.RouteReplace(routeToKernel(*op.Route))
	default:
		if err := k.h.RouteDel(routeToKernel(*op.Route)); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}
}

// hint says what to do about the errors that people meet.
func hint(op Op, err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (it needs root, or CAP_NET_ADMIN)"
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return " (the gateway is in no subnet of the interface: correct it, or write gateway = \"ADDRESS onlink\")"
	case errors.Is(err, unix.EINVAL) && op.Route != nil && len(op.Route.Nexthops) > 1:
		return " (if every multipath route fails so, the kernel was built without CONFIG_IP_ROUTE_MULTIPATH)"
	}
	return ""
}

func ruleToKernel(r Rule) *netlink.Rule {
	n := netlink.NewRule() // a literal would mean suppress 0, goto 0
	n.Family, n.Priority, n.Table, n.Protocol = int(r.Family), r.Priority, r.Table, Protocol
	if r.Mask != 0 {
		n.Mark, n.Mask = r.Mark, &r.Mask
	}
	if r.From.IsValid() {
		n.Src = ipNet(r.From)
	}
	if r.SuppressDefault {
		n.SuppressPrefixlen = 0
	}
	if r.Goto != 0 {
		n.Goto = r.Goto
	}
	if r.Forwarded {
		n.Invert, n.IifName = true, "lo"
	}
	if r.Unreachable {
		n.Type = unix.RTN_UNREACHABLE
	}
	return n
}

func ruleFromKernel(f Family, n netlink.Rule) Rule {
	r := Rule{Family: f, Priority: n.Priority, Table: n.Table, Mark: n.Mark, SuppressDefault: n.SuppressPrefixlen == 0,
		Goto: max(n.Goto, 0), Forwarded: n.Invert && n.IifName == "lo"}
	r.Unreachable = r.Table == 0 && r.Goto == 0 // the library does not read a rule's type
	if n.Mask != nil {
		r.Mask = *n.Mask
	}
	if n.Src != nil {
		r.From = prefixFromKernel(f, n.Src)
	}
	return r
}

func routeToKernel(r Route) *netlink.Route {
	n := &netlink.Route{Family: int(r.Family), Table: r.Table, Dst: ipNet(r.Dst), Priority: int(r.Metric), Protocol: Protocol, Type: unix.RTN_UNICAST}
	if r.Source.IsValid() {
		n.Src = r.Source.AsSlice()
	}
	if r.Unreachable {
		n.Type = unix.RTN_UNREACHABLE
	}
	if r.Blackhole {
		n.Type = unix.RTN_BLACKHOLE
	}
	if len(r.Nexthops) == 1 {
		h := r.Nexthops[0]
		n.LinkIndex, n.Gw, n.Flags = h.Index, gateway(h), nexthopFlags(h)
		if n.Gw == nil && r.Family == IPv4 {
			n.Scope = netlink.SCOPE_LINK
		}
		return n
	}
	for _, h := range r.Nexthops {
		n.MultiPath = append(n.MultiPath, &netlink.NexthopInfo{LinkIndex: h.Index, Gw: gateway(h), Hops: h.Weight - 1, Flags: nexthopFlags(h)})
	}
	return n
}

func gateway(h Nexthop) net.IP {
	if !h.Gateway.IsValid() {
		return nil
	}
	return h.Gateway.AsSlice()
}

func nexthopFlags(h Nexthop) int {
	if h.OnLink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

func routeFromKernel(f Family, n netlink.Route) Route {
	r := Route{Family: f, Table: n.Table, Dst: prefixFromKernel(f, n.Dst), Metric: uint32(n.Priority), Unreachable: n.Type == unix.RTN_UNREACHABLE, Blackhole: n.Type == unix.RTN_BLACKHOLE}
	if src, ok := netip.AddrFromSlice(n.Src); ok {
		r.Source = unmap(f, src)
	}
	switch {
	case r.Unreachable, r.Blackhole:
	case len(n.MultiPath) > 0:
		for _, h := range n.MultiPath {
			r.Nexthops = append(r.Nexthops, nexthopFromKernel(f, h.LinkIndex, h.Gw, h.Flags, h.Hops+1))
		}
	default:
		r.Nexthops = []Nexthop{nexthopFromKernel(f, n.LinkIndex, n.Gw, n.Flags, 1)}
	}
	return r
}

// nexthopFromKernel maps a dead nexthop (RTNH_F_DEAD: its device went down and
// the kernel kept the rest of the multipath route) to weight 0, which no Spec
// wants, so that Diff replaces the route.
func nexthopFromKernel(f Family, index int, gw net.IP, flags, weight int) Nexthop {
	h := Nexthop{Index: index, Interface: fmt.Sprintf("if%d", index), Weight: weight, OnLink: flags&unix.RTNH_F_ONLINK != 0}
	if a, ok := netip.AddrFromSlice(gw); ok && !a.IsUnspecified() {
		h.Gateway = unmap(f, a)
	}
	if flags&unix.RTNH_F_DEAD != 0 {
		h.Weight = 0
	}
	return h
}

func addrFromKernel(a netlink.Addr) (Addr, bool) {
	if a.IPNet == nil {
		return Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(a.IPNet.IP)
	if !ok {
		return Addr{}, false
	}
	f := IPv6
	if ip.Unmap().Is4() {
		f, ip = IPv4, ip.Unmap()
	}
	bits, _ := a.IPNet.Mask.Size()
	addr := Addr{Index: a.LinkIndex, Prefix: netip.PrefixFrom(ip, bits), Secondary: a.Flags&unix.IFA_F_SECONDARY != 0,
		Global: a.Scope < unix.RT_SCOPE_LINK,
		Usable: a.Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 && (a.Flags&unix.IFA_F_TENTATIVE == 0 || a.Flags&unix.IFA_F_OPTIMISTIC != 0)}
	if a.Peer != nil {
		addr.Peer = prefixFromKernel(f, a.Peer)
	}
	return addr, true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixFromKernel converts a destination; nil is the default.
func prefixFromKernel(f Family, n *net.IPNet) netip.Prefix {
	if n == nil {
		return f.Default()
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return f.Default()
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(unmap(f, ip), bits)
}

func unmap(f Family, a netip.Addr) netip.Addr {
	if f == IPv4 {
		return a.Unmap()
	}
	return a
}

// Watch calls changed whenever the kernel reports a change that may matter:
// links, addresses, rules, default routes, our own routes, delegated IPv6
// prefixes, and those neighbours
// that neighbour says yes to. It carries no details: the state is read anew,
// because IPv4 sends no message for routes that die with their device and an
// overflow loses messages anyway. Only of these neighbours it tells, before,
// which have failed (see Kernel.NeighbourFailed). Neither function may block. Watch returns nil when ctx ends.
func Watch(ctx context.Context, neighbour func(netip.Addr) bool, failed func(int, netip.Addr), changed func()) error {
	for {
		if err := watch(ctx, neighbour, failed, changed); !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// Overflow: after the error, the kernel goes on losing messages without
		// a word until the queue is empty (NETLINK_S_CONGESTED), so it takes a
		// new socket.
	}
}

func watch(ctx context.Context, neighbour func(netip.Addr) bool, failed func(int, netip.Addr), changed func()) error {
	c, err := mdnetlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("opening a routing monitor: %w", err)
	}
	defer c.Close()
	if err := c.SetReadBuffer(8 << 20); err != nil {
		return fmt.Errorf("routing monitor: setting its buffer: %w", err)
	}
	for _, g := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE} {
		if err := c.JoinGroup(g); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("routing monitor: joining group %d: %w", g, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	changed() // what happened before the groups were joined
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("routing monitor: %w", err)
		}
		some := false
		for _, m := range messages {
			some = matters(m, neighbour, failed) || some
		}
		if some {
			changed()
		}
	}
}

// matters filters the flood of a router that runs a routing daemon or has many
// clients: of the routes only defaults, our own and those of delegated prefixes count
// (struct rtmsg, linux/rtnetlink.h), of the neighbours only those asked for (struct ndmsg,
// linux/neighbour.h). It tells which of these have failed.
func matters(m mdnetlink.Message, neighbour func(netip.Addr) bool, failed func(int, netip.Addr)) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && (m.Data[1] == 0 || m.Data[5] == Protocol || m.Data[0] == unix.AF_INET6 && m.Data[4] == TableMain && answered(int(m.Data[7])))
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if len(m.Data) < unix.SizeofNdMsg {
			return false
		}
		state := binary.NativeEndian.Uint16(m.Data[8:])
		if state&(unix.NUD_DELAY|unix.NUD_PROBE) != 0 && m.Header.Type == unix.RTM_NEWNEIGH {
			return false // known as before; the kernel makes sure every half a minute
		}
		ad, err := mdnetlink.NewAttributeDecoder(m.Data[unix.SizeofNdMsg:])
		if err != nil {
			return false
		}
		for ad.Next() {
			a, ok := netip.AddrFromSlice(ad.Bytes())
			if ad.Type() != unix.NDA_DST || !ok {
				continue
			}
			if !neighbour(a) {
				return false
			}
			if state&unix.NUD_FAILED != 0 && m.Header.Type == unix.RTM_NEWNEIGH {
				failed(int(binary.NativeEndian.Uint32(m.Data[4:])), a)
			}
			return true
		}
		return false
	}
	return true
}
