//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// startFloor makes the least with which two uplinks can keep their connections: the mark of a connection goes on its packets, a rule on marks leads
// each to its uplink's table, and a multipath default spreads the new ones. No guard, no port forwards, no fixed addresses, no mask, one family.
// What it costs is the price of marks and policy rules in the kernel; nothing built on them can cost less.
func startFloor(_ context.Context, _ *bench, h *house) error {
	c, err := nftables.New(nftables.WithNetNSFd(h.Router.FD()))
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "floor", Family: nftables.TableFamilyIPv4})
	restore := c.AddChain(&nftables.Chain{Name: "restore", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
	c.AddRule(&nftables.Rule{Table: table, Chain: restore, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}})
	leave := c.AddChain(&nftables.Chain{Name: "leave", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	handle := h.Router.Handle()
	var hops []*netlink.NexthopInfo
	for i, u := range h.Uplinks {
		link, err := h.Router.Link(u.Interface)
		if err != nil {
			return err
		}
		mark := uint32(i + 1)
		var name [16]byte
		copy(name[:], u.Interface)
		c.AddRule(&nftables.Rule{Table: table, Chain: leave, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name[:]},
			&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, mark)},
			&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1},
			&expr.Masq{},
		}})
		gateway := net.IP(u.Gateway.AsSlice())
		hops = append(hops, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: gateway})
		if err := handle.RouteReplace(&netlink.Route{Table: 100 + i, LinkIndex: link.Attrs().Index, Gw: gateway, Dst: everywhere()}); err != nil {
			return fmt.Errorf("the table of %s: %w", u.Interface, err)
		}
		rule := netlink.NewRule()
		rule.Priority, rule.Mark, rule.Table, rule.Family = 100+i, mark, 100+i, netlink.FAMILY_V4
		if err := handle.RuleAdd(rule); err != nil {
			return fmt.Errorf("the rule of %s: %w", u.Interface, err)
		}
		if err := h.Router.Sysctl("net/ipv4/conf/"+u.Interface+"/rp_filter", "0"); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing rules: %w", err)
	}
	// Without "main suppress_prefixlength 0" the marks must not catch what goes to the LAN: its routes stand in each table.
	tables := []int{200}
	lan, err := h.Router.Link(h.LAN)
	if err != nil {
		return err
	}
	inside := &net.IPNet{IP: net.IP(clientAddress.Masked().Addr().AsSlice()), Mask: net.CIDRMask(clientAddress.Bits(), 32)}
	for i := range h.Uplinks {
		tables = append(tables, 100+i)
	}
	for _, t := range tables {
		if err := handle.RouteReplace(&netlink.Route{Table: t, LinkIndex: lan.Attrs().Index, Dst: inside, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("the LAN's route: %w", err)
		}
	}
	if err := handle.RouteReplace(&netlink.Route{Table: 200, MultiPath: hops, Dst: everywhere()}); err != nil {
		return fmt.Errorf("the default route: %w", err)
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Family = 32765, 200, netlink.FAMILY_V4
	if err := handle.RuleAdd(rule); err != nil {
		return fmt.Errorf("the rule of the default route: %w", err)
	}
	for key, value := range map[string]string{"net/ipv4/fib_multipath_hash_policy": "1", "net/ipv4/ip_forward": "1"} {
		if err := h.Router.Sysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

func everywhere() *net.IPNet { return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)} }
