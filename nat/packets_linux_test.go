package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// spy is somebody else's table that notes the mark of each packet behind our
// restore, by its length.
const spy = `table inet spy {
	set seen { typeof meta length . meta mark; flags dynamic; size 65535; }
	chain note { type filter hook prerouting priority 0; iifname "eth0" update @seen { meta length . meta mark }; }
}`

var seen = regexp.MustCompile(`(\d+) \. (0x[0-9a-f]+|\d+)`)

// TestKernelRulesPackets: real packets get, in the kernel, the policy of the
// first rule that matches.
func TestKernelRulesPackets(t *testing.T) {
	k, client := newKernel(t), newKernel(t)
	needNFT(t)
	if err := lab.Veth(k.ns, "eth0", client.ns, "lan0"); err != nil {
		t.Fatal(err)
	}
	for ns, name := range map[*lab.NS]string{k.ns: "eth0", client.ns: "lan0"} {
		if err := ns.Up(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.ns.WaitRunning("eth0"); err != nil {
		t.Fatal(err)
	}
	router, err := k.ns.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	lan, err := client.ns.Link("lan0")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(11, 12))
	spec := ruleSpec(randomRules(r)...)
	spec.Lists = testLists
	k.write(Compile(spec)) // has the kernel load conntrack
	k.nft(spy)
	if err := k.ns.Do(func() error { return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_checksum", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	fillLists(t, k)
	const packets, shortest = 300, 100
	matched := 0
	for range 15 {
		rules := randomRules(r)
		for i := range rules {
			rules[i].Local, rules[i].UIDs = false, nil
		}
		spec := ruleSpec(rules...)
		spec.Lists = testLists
		want := Compile(spec)
		k.write(want)
		k.nft("", "flush", "set", "inet", "spy", "seen")
		marks := map[int]uint32{}
		described := map[int]packet{}
		err := client.ns.Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for i := range packets {
				p := randomClientPacket(r)
				mark := firstMatch(rules, &p, listed)
				if mark == markOf(99) {
					mark = 0
				}
				if mark != 0 {
					matched++
				}
				marks[shortest+i], described[shortest+i] = mark, p
				header := append(append([]byte{}, router.Attrs().HardwareAddr...), p.mac[:]...)
				if err := unix.Sendto(fd, append(header, p.bytes(shortest+i)...), 0, &unix.SockaddrLinklayer{Ifindex: lan.Attrs().Index}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := map[int]uint32{}
		for deadline := time.Now().Add(5 * time.Second); len(got) < packets && time.Now().Before(deadline); {
			for _, m := range seen.FindAllStringSubmatch(k.nft("", "-n", "list", "set", "inet", "spy", "seen"), -1) {
				length, err1 := strconv.Atoi(m[1])
				mark, err2 := strconv.ParseUint(m[2], 0, 32)
				if err1 != nil || err2 != nil {
					t.Fatal(m)
				}
				if _, ok := marks[length]; ok {
					got[length] = uint32(mark)
				}
			}
		}
		if len(got) < packets {
			t.Errorf("%d packets arrived, of %d", len(got), packets)
		}
		for length, mark := range got {
			if mark != marks[length] {
				t.Fatalf("packet %+v got mark %#x, wanted %#x\nrules %+v\n%s", described[length], mark, marks[length], rules, want)
			}
		}
	}
	t.Logf("%d packets matched", matched)
}

// randomClientPacket is a packet of the kind that randomRules match.
func randomClientPacket(r *rand.Rand) packet {
	p := packet{in: "eth0", proto: []uint8{1, 6, 17, 47}[r.IntN(4)], sport: uint16(r.IntN(9)), dport: uint16(r.IntN(9)), dscp: uint8(r.IntN(4)), mac: [6]byte{5: byte(r.IntN(4))}}
	p.src, p.dst = netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))}), netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))})
	if p.proto != 1 && r.IntN(3) == 0 { // conntrack takes ICMP over IPv6 for invalid
		p.src, p.dst = netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))}), netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(9))})
	}
	return p
}

// bytes is the packet as an Ethernet frame's type and payload of that length.
// Nobody looks at the checksums of transport.
func (p packet) bytes(length int) []byte {
	var b []byte
	if p.src.Is4() {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
		header := []byte{0x45, p.dscp << 2, byte(length >> 8), byte(length), 0, 0, 0, 0, 64, p.proto, 0, 0}
		header = append(append(header, p.src.AsSlice()...), p.dst.AsSlice()...)
		sum := uint32(0)
		for i := 0; i < len(header); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(header[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(header[10:], ^uint16(sum>>16+sum))
		b = append(b, header...)
	} else {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
		b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(p.dscp)<<22)
		b = append(binary.BigEndian.AppendUint16(b, uint16(length-40)), p.proto, 64)
		b = append(append(b, p.src.AsSlice()...), p.dst.AsSlice()...)
	}
	transport := make([]byte, length+2-len(b))
	switch p.proto {
	case unix.IPPROTO_TCP:
		transport[12], transport[13] = 5<<4, 2 // header length, SYN
		transport[14] = 1                      // window
		fallthrough
	case unix.IPPROTO_UDP:
		binary.BigEndian.PutUint16(transport, p.sport)
		binary.BigEndian.PutUint16(transport[2:], p.dport)
		if p.proto == unix.IPPROTO_UDP {
			binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
		}
	case unix.IPPROTO_ICMP:
		transport[0] = 8
	}
	return append(b, transport...)
}
