package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// DNAT NATs the destination by transport protocol and destination port, with
// BySource by the packet's source, too; no entry, no NAT. One look-up, however
// many entries. All entries are of one family.
type DNAT struct {
	IPv6     bool
	KeepPort bool // the destination port stays what it was
	BySource bool // entries may be ranges of ports and name sources
	Entries  []DNATEntry
}

// DNATEntry is one entry of a DNAT.
type DNATEntry struct {
	Protocol uint8
	Port     uint16
	Last     uint16         // the last port of a range; BySource only
	Source   netip.Prefix   // BySource only
	To       netip.AddrPort // its port says nothing with KeepPort
}

func (d DNAT) String() string {
	family, source := "ip", ""
	if d.IPv6 {
		family = "ip6"
	}
	if d.BySource {
		source = " . " + family + " saddr"
	}
	b := fmt.Appendf(nil, "dnat %s to meta l4proto . th dport%s map { ", family, source)
	for i, e := range d.Entries { // there may be ten thousand of them, and each pass asks
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(append(b, protocolText(e.Protocol)...), " . "...)
		b = strconv.AppendUint(b, uint64(e.Port), 10)
		if d.BySource {
			if e.Last != e.Port {
				b = strconv.AppendUint(append(b, '-'), uint64(e.Last), 10)
			}
			b = append(b, " . "...)
			if e.Source.IsSingleIP() {
				b = e.Source.Addr().AppendTo(b)
			} else {
				b = e.Source.AppendTo(b)
			}
		}
		b = e.To.Addr().AppendTo(append(b, " : "...))
		if !d.KeepPort {
			b = strconv.AppendUint(append(b, " . "...), uint64(e.To.Port()), 10)
		}
	}
	return string(append(b, " }"...))
}

// dnat looks the address and port up. With BySource it does so in a set of
// ranges of several fields, each of which has two keys.
func (e *encoded) dnat(d DNAT) {
	family, typ, port, source := byte(unix.NFPROTO_IPV4), nftables.TypeIPAddr, reg32(1), Source4
	if d.IPv6 {
		family, typ, port, source = unix.NFPROTO_IPV6, nftables.TypeIP6Addr, reg32(4), Source6
	}
	keys, data := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, typ
	if d.BySource {
		keys = append(keys, typ)
		e.require(source)
	}
	if !d.KeepPort {
		data = nftables.MustConcatSetType(typ, nftables.TypeInetService)
	}
	set := &nftables.Set{Anonymous: true, Constant: true, IsMap: true, Concatenation: true, Interval: d.BySource,
		KeyType: nftables.MustConcatSetType(keys...), DataType: data, KeyByteOrder: binaryutil.BigEndian}
	elements := make([]nftables.SetElement, len(d.Entries))
	for i, x := range d.Entries {
		elements[i] = d.element(x)
	}
	lookup := &expr.Lookup{SourceRegister: reg32(0), DestRegister: reg, IsDestRegSet: true}
	e.sets = append(e.sets, encodedSet{set, elements, lookup})
	e.fetch(Protocol, 0, reg32(0))
	e.fetch(DestPort, 0, reg32(1))
	if d.BySource {
		e.fetch(source, 0, reg32(2))
	}
	// NAT for one family leaves packets of the other alone (nft_nat_inet_eval).
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: reg}
	if !d.KeepPort {
		nat.RegProtoMin = port
	}
	e.add(lookup, nat)
}

func (d DNAT) element(x DNATEntry) nftables.SetElement {
	key := func(port uint16, source []byte) []byte {
		return slices.Concat([]byte{x.Protocol, 0, 0, 0}, padded(port), source)
	}
	element := nftables.SetElement{Key: key(x.Port, nil), Val: x.To.Addr().AsSlice()}
	if !d.KeepPort {
		element.Val = append(element.Val, padded(x.To.Port())...)
	}
	if d.BySource {
		all := prefixes([]netip.Prefix{x.Source})[0]
		element.Key, element.KeyEnd = key(x.Port, []byte(all.Raw)), key(x.Last, []byte(all.Hi))
	}
	return element
}

// padded is a port in a concatenation, where each part takes whole registers.
func padded(port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, port), 0, 0)
}

// fields are those that the DNAT looks up.
func (d DNAT) fields() []Field {
	switch {
	case !d.BySource:
		return []Field{Protocol, DestPort}
	case d.IPv6:
		return []Field{Protocol, DestPort, Source6}
	}
	return []Field{Protocol, DestPort, Source4}
}

// entry returns the entry for a packet; false: there is none.
func (d DNAT) entry(protocol uint8, source netip.Addr, port uint16) (DNATEntry, bool) {
	i := slices.IndexFunc(d.Entries, func(e DNATEntry) bool {
		switch {
		case e.Protocol != protocol:
			return false
		case d.BySource:
			return e.Port <= port && port <= e.Last && e.Source.Contains(source)
		}
		return e.Port == port
	})
	if i < 0 {
		return DNATEntry{}, false
	}
	return d.Entries[i], true
}
