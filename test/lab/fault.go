//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Way is the direction of a packet at a provider.
type Way int

// The ways.
const (
	BothWays     Way = iota
	FromCustomer     // what the router sends
	ToCustomer       // what the router would receive
)

// Fault says which of the packets that a provider should forward it loses in silence. Its gateway still answers. Fields left zero mean any.
type Fault struct {
	Way      Way
	Protocol uint8      // unix.IPPROTO_*; ICMP stands for ICMPv6, too
	Far      netip.Addr // the end in the internet
	Port     uint16     // of the end in the internet; TCP and UDP
	Percent  int        // of these packets, at random; 0: all of them
}

// faultTable holds the faults in the provider's namespace.
const faultTable = "faults"

// Break makes the provider have exactly these faults from now on, in one step; without any it is well again. The
// kernel may take some ten milliseconds for that step: where the length of an outage matters, use Blackhole, which is independent of it.
func (p *Provider) Break(faults ...Fault) error {
	c, err := nftables.New(nftables.WithNetNSFd(p.NS.fd))
	if err != nil {
		return fmt.Errorf("breaking %s: opening nftables: %w", p.NS.Name, err)
	}
	table := &nftables.Table{Name: faultTable, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	if len(faults) > 0 {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		for _, f := range faults {
			for _, rule := range f.rules() {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("breaking %s: %w", p.NS.Name, err)
	}
	return nil
}

// rules are the fault in nftables' words: one rule for each direction and family.
func (f Fault) rules() [][]expr.Any {
	var all [][]expr.Any
	for _, v6 := range []bool{false, true} {
		if f.Far.IsValid() && f.Far.Is6() != v6 {
			continue
		}
		if f.Way != ToCustomer {
			all = append(all, f.rule(v6, customerSide, true))
		}
		if f.Way != FromCustomer {
			all = append(all, f.rule(v6, coreSide, false))
		}
	}
	return all
}

// rule is one of them, for packets that came in by iif; out: on their way to the internet.
func (f Fault) rule(v6 bool, iif string, out bool) []expr.Any {
	family, icmp, source, destination := byte(unix.NFPROTO_IPV4), byte(unix.IPPROTO_ICMP), uint32(12), uint32(16)
	if v6 {
		family, icmp, source, destination = unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6, 8, 24
	}
	far, port := source, uint32(0)
	if out {
		far, port = destination, 2
	}
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, iif)
	// meta nfproto ipv4 iifname "customer"
	rule := append(metaIs(expr.MetaKeyNFPROTO, []byte{family}), metaIs(expr.MetaKeyIIFNAME, name)...)
	if f.Protocol != 0 {
		protocol := f.Protocol
		if protocol == unix.IPPROTO_ICMP {
			protocol = icmp
		}
		rule = append(rule, metaIs(expr.MetaKeyL4PROTO, []byte{protocol})...)
	}
	if f.Far.IsValid() {
		rule = append(rule, payloadIs(expr.PayloadBaseNetworkHeader, far, f.Far.AsSlice())...)
	}
	if f.Port != 0 {
		rule = append(rule, payloadIs(expr.PayloadBaseTransportHeader, port, binary.BigEndian.AppendUint16(nil, f.Port))...)
	}
	if f.Percent != 0 {
		// numgen random mod 100 < percent: the number is in the host's byte order, comparing begins with the first byte
		rule = append(rule,
			&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(f.Percent))})
	}
	return append(rule, &expr.Verdict{Kind: expr.VerdictDrop})
}

// metaIs compares something that the kernel knows of a packet.
func metaIs(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// payloadIs compares bytes of a packet.
func payloadIs(base expr.PayloadBase, offset uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(value))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}
