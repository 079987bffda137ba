//go:build linux

package lab

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Ancillary loads of the kernel's classic packet filter (linux/filter.h).
const (
	skfProtocol   = 0xfffff000 + 0
	skfPacketType = 0xfffff000 + 4
)

// packetHost is the type of packets sent to the interface's own hardware address (linux/if_packet.h).
const packetHost = 0

// leakFilter passes the unicast packets whose source is not in allowed; without allowed, all. For sockets that see packets from the IP header on.
func leakFilter(allowed []netip.Prefix) []unix.SockFilter {
	var f filter
	f.load(skfPacketType)
	f.unless(packetHost, filter{drop})

	v4 := filter{}
	for _, p := range []string{"0.0.0.0/32", "169.254.0.0/16"} {
		v4.dropIf(12, netip.MustParsePrefix(p))
	}
	for _, p := range []string{"224.0.0.0/4", "255.255.255.255/32"} {
		v4.dropIf(16, netip.MustParsePrefix(p))
	}
	v6 := filter{}
	for _, p := range []string{"::/128", "fe80::/10"} {
		v6.dropIf(8, netip.MustParsePrefix(p))
	}
	v6.dropIf(24, netip.MustParsePrefix("ff00::/8"))
	v6.dropNeighbourDiscovery()
	for _, p := range allowed {
		if p.Addr().Is4() {
			v4.dropIf(12, p.Masked())
		} else {
			v6.dropIf(8, p.Masked())
		}
	}
	v4 = append(v4, pass)
	v6 = append(v6, pass)

	f.load(skfProtocol)
	f.only(unix.ETH_P_IP, v4)
	f.only(unix.ETH_P_IPV6, v6)
	return append(f, drop)
}

var (
	pass = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: snapLength}
	drop = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
)

// filter is a program in the making.
type filter []unix.SockFilter

// load loads a 32-bit word.
func (f *filter) load(offset uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// loadByte loads a byte.
func (f *filter) loadByte(offset uint32) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset})
}

// unless runs body if the loaded value is not k. Body has at most 255 instructions.
func (f *filter) unless(k uint32, body filter) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(body)), K: k})
	*f = append(*f, body...)
}

// only runs body, which may be long and does not come back, if the loaded value is k.
func (f *filter) only(k uint32, body filter) {
	f.unless(k, filter{{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(body))}})
	*f = append(*f, body...)
}

// dropIf drops packets whose address at offset is in p.
func (f *filter) dropIf(offset uint32, p netip.Prefix) {
	address := p.Addr().AsSlice()
	var words []unix.SockFilter // built backwards: the jumps skip what follows
	body := filter{drop}
	for i := len(address) - 4; i >= 0; i -= 4 {
		bits := min(max(p.Bits()-8*i, 0), 32)
		if bits == 0 {
			continue
		}
		mask := ^uint32(0) << (32 - bits)
		words = []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset + uint32(i)},
			{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(body)), K: binary.BigEndian.Uint32(address[i:]) & mask},
		}
		body = append(filter(words), body...)
	}
	*f = append(*f, body...)
}

// dropNeighbourDiscovery drops ICMPv6 types 133 to 137.
func (f *filter) dropNeighbourDiscovery() {
	f.loadByte(6)
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 4, K: unix.IPPROTO_ICMPV6})
	f.loadByte(40)
	*f = append(*f,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 2, K: 133},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jt: 1, K: 137},
		drop)
}
