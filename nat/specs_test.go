package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const testMask = 0xff000000

func markOf(id int) uint32 { return uint32(id) << 24 }

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func nets(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func up(id int, name, iface string) Uplink {
	return Uplink{Name: name, ID: id, Mark: markOf(id), Interface: iface}
}

var defaultPolicy = Policy{Name: "default", ID: 9, Mark: markOf(9)}

// situation is one way in which multiroute is used.
type situation struct {
	name string
	spec Spec
}

// separate is one NIC per uplink, LAN on another: most houses.
func separate() Spec {
	return Spec{Mask: testMask, LAN: []string{"eth0"}, Guard: true,
		Uplinks:  []Uplink{up(1, "dsl", "eth1"), up(2, "cable", "eth2")},
		Own:      addrs("192.168.0.1", "fd00:1::1"),
		Policies: []Policy{defaultPolicy}}
}

// threeOnOne is three uplinks behind one NIC, LAN on another.
func threeOnOne() Spec {
	s := Spec{Mask: testMask, LAN: []string{"eth0"}, Guard: true, Own: addrs("192.168.0.1", "fd00:1::1"), Policies: []Policy{defaultPolicy}}
	for id, name := range []string{"dsl", "cable", "lte"} {
		u := up(id+1, name, "eth1")
		u.Gateways = addrs(fmt.Sprintf("198.18.%d.1", id+1), fmt.Sprintf("fe80::%d", id+1))
		u.Addresses = addrs(fmt.Sprintf("198.18.%d.2", id+1), fmt.Sprintf("2001:db8:%d::2", id+1))
		u.MACs = [][6]byte{{2, 0, 0, 0, 1, byte(id + 1)}}
		u.Source = addrs(fmt.Sprintf("2001:db8:%d::2", id+1))
		s.Uplinks = append(s.Uplinks, u)
	}
	return s
}

// server is one NIC for everything: two gateways and the clients.
func server() Spec {
	s := Spec{Mask: testMask, LAN: []string{"eth0"}, Guard: true, Own: addrs("192.168.0.1"), Policies: []Policy{defaultPolicy},
		Networks: []Network{{"eth0", netip.MustParsePrefix("192.168.0.0/24")}, {"eth0", netip.MustParsePrefix("fd00:1::/64")},
			{"eth0", netip.MustParsePrefix("192.168.7.0/24")}}}
	for id, name := range []string{"dsl", "cable"} {
		u := up(id+1, name, "eth0")
		u.Gateways = addrs(fmt.Sprintf("192.168.0.%d", 251+id), fmt.Sprintf("fe80::%d", id+1))
		u.Addresses = addrs("192.168.0.1", fmt.Sprintf("2001:db8:%d::2", id+1))
		u.MACs = [][6]byte{{2, 0, 0, 0, 1, byte(id + 1)}}
		s.Uplinks = append(s.Uplinks, u)
	}
	return s
}

// changed is a situation with something else.
func changed(s Spec, change func(*Spec)) Spec {
	s.Uplinks = slices.Clone(s.Uplinks)
	change(&s)
	return s
}

func forwards(s *Spec) {
	to := netip.MustParseAddrPort
	s.Forwards = []PortForward{
		{Protocol: 6, Port: 80, To: to("192.168.0.10:8080")},
		{Protocol: 6, Port: 443, To: to("192.168.0.10:443"), Uplinks: []int{1}},
		{Protocol: 17, Port: 5060, To: to("192.168.0.20:5060"), Uplinks: []int{1, 2}},
		{Protocol: 6, Port: 80, To: to("[fd00:1::10]:8080")},
		{Protocol: 6, Port: 443, To: to("[fd00:1::10]:443"), Uplinks: []int{2}},
	}
}

// forwardsOfAllKinds has ranges, sources, and clients that use the public
// addresses.
func forwardsOfAllKinds(s *Spec) {
	to := netip.MustParseAddrPort
	s.Forwards = []PortForward{
		{Protocol: 6, Port: 80, To: to("192.168.0.10:8080"), Hairpin: true},
		{Protocol: 6, Port: 8000, Last: 8010, To: to("192.168.0.10:9000"), OneForOne: true, Hairpin: true},
		{Protocol: 17, Port: 10000, Last: 20000, To: to("192.168.0.20:10000"), OneForOne: true, Hairpin: true},
		{Protocol: 17, Port: 30000, Last: 65535, To: to("192.168.0.20:7"), Hairpin: true},
		{Protocol: 6, Port: 22, To: to("192.168.0.10:22"), Sources: nets("203.0.113.0/24", "203.0.113.7/32", "198.51.100.0/24")},
		{Protocol: 6, Port: 443, To: to("192.168.0.10:443"), Uplinks: []int{1}, Hairpin: true},
		{Protocol: 6, Port: 444, Last: 445, To: to("192.168.0.10:444"), OneForOne: true, Uplinks: []int{1}},
		{Protocol: 6, Port: 80, To: to("[fd00:1::10]:8080"), Hairpin: true},
		{Protocol: 17, Port: 10000, Last: 20000, To: to("[fd00:1::20]:10000"), OneForOne: true, Sources: nets("2001:db8::/32", "fd00::/8"), Hairpin: true},
	}
	for i := range s.Uplinks {
		s.Uplinks[i].Public = addrs(fmt.Sprintf("198.18.%d.2", i+1), fmt.Sprintf("2001:db8:%d::2", i+1))
	}
}

// prefixSpec has every client's prefix translated; one of them is an uplink's own.
func prefixSpec(s Spec) Spec {
	return changed(s, func(s *Spec) {
		s.Uplinks[0].Delegated, s.Uplinks[1].Delegated = nets("2001:db8:1:ff00::/56")[0], nets("2001:db8:2:ff00::/60")[0]
		for i, to := range [][]netip.Prefix{nets("2001:db8:1:ff00::/64", "2001:db8:1:ff01::/64", "2001:db8:1:ff05::/64"), nets("2001:db8:2:ff00::/64", "2001:db8:2:ff01::/64", "2001:db8:2:ff05::/64")} {
			s.Uplinks[i].Translations = []Translation{{Inside: nets("fd00:1::/64")[0], Outside: to[0]}, {Inside: nets("2001:db8:1:ff01::/64")[0], Outside: to[1]},
				{Inside: nets("fd00:5::/64")[0], Outside: to[2]}}
		}
		s.Uplinks[0].Translations[0].Except = addrs("fd00:1::2", "fd00:1::3")
	})
}

// sticky has a default policy by source, and one of rules by pairs whose first
// tier is in use.
func sticky() Spec {
	s := ruleSpec(PolicyRule{Name: "web", Ports: []PortRange{{443, 443}}, Policy: markOf(10)}, PolicyRule{Name: "plain", Protocols: []uint8{47}, Policy: markOf(11)},
		PolicyRule{Name: "own", Local: true, UIDs: []uint32{7}, Policy: markOf(10)})
	s.Sticky = []Sticky{
		{Policy: markOf(9), Timeout: 10 * time.Minute, Uplinks: []int{1, 2}, Members4: []int{1, 2}, Members6: []int{1, 2}},
		{Policy: markOf(10), Pairs: true, Timeout: time.Hour, Uplinks: []int{1, 2}, Members4: []int{1}, Members6: []int{2}},
	}
	s.Pinned = nets("192.0.2.53/32", "10.0.0.0/8", "10.1.0.0/16", "2001:db8:53::/48")
	return s
}

func situations() []situation {
	return []situation{
		{"empty", Spec{Mask: testMask}},
		{"separate", separate()},
		{"three-on-one", threeOnOne()},
		{"server", server()},
		{"forwards", changed(separate(), forwards)},
		{"forwards-three-on-one", changed(threeOnOne(), forwards)},
		{"forwards-of-all-kinds", changed(separate(), forwardsOfAllKinds)},
		{"forwards-hairpin-two-lans", changed(separate(), func(s *Spec) {
			s.LAN = []string{"eth0", "eth5"}
			forwards(s)
			for i := range s.Forwards {
				s.Forwards[i].Hairpin = true
			}
			s.Uplinks[0].Public, s.Uplinks[1].Public = addrs("198.18.1.2", "198.18.1.3"), addrs("198.18.1.2", "2001:db8:2::2")
		})},
		{"forwards-hairpin-server", changed(server(), func(s *Spec) {
			forwardsOfAllKinds(s)
			s.Uplinks[0].Public, s.Uplinks[1].Public = addrs("2001:db8:1::2"), addrs("198.18.2.2", "2001:db8:2::2")
			s.Uplinks[1].Addresses = append(s.Uplinks[1].Addresses, s.Uplinks[1].Public...)
		})},
		{"services", changed(separate(), func(s *Spec) {
			s.Services, s.ClientPorts = []PortRange{{51820, 51820}, {0, 1023}, {1024, 32767}}, PortRange{32768, 51819}
			s.Uplinks[0].Source = addrs("198.18.1.9", "2001:db8:1::9")
		})},
		{"mtu", changed(separate(), func(s *Spec) { s.Uplinks[0].MTU = 1492 })},
		{"mtu-three-on-one", changed(threeOnOne(), func(s *Spec) {
			s.Uplinks[0].MTU, s.Uplinks[2].MTU, s.Uplinks[2].NoIPv6 = 1400, 576, true
		})},
		{"routed", changed(separate(), func(s *Spec) {
			s.Routed = nets("203.0.113.0/24", "203.0.113.8/29", "198.51.100.7/32", "2001:db8:77::/48")
			s.Uplinks[0].Routed6 = true
		})},
		{"routed-one", changed(separate(), func(s *Spec) { s.Routed = nets("203.0.113.0/28") })},
		{"prefix", prefixSpec(separate())},
		{"prefix-server", prefixSpec(server())},
		{"ipv6-off", changed(separate(), func(s *Spec) { s.Uplinks[1].NoIPv6 = true })},
		{"ipv6-off-both", changed(separate(), func(s *Spec) { s.Uplinks[0].NoIPv6, s.Uplinks[1].NoIPv6 = true, true })},
		{"guard-off", changed(separate(), func(s *Spec) { s.Guard = false })},
		{"fixed-source", changed(separate(), func(s *Spec) {
			s.Uplinks[0].Source = addrs("198.18.1.9", "2001:db8:1::9")
		})},
		{"same-subnet", changed(threeOnOne(), func(s *Spec) { // told apart by the gateway's MAC alone
			s.Uplinks = s.Uplinks[:2]
			for i := range s.Uplinks {
				s.Uplinks[i].Addresses = addrs("198.18.1.2", "2001:db8:1::2")
				s.Uplinks[i].Gateways = addrs(fmt.Sprintf("198.18.1.%d", 251+i), fmt.Sprintf("fe80::%d", i+1))
				s.Uplinks[i].Source = nil
			}
		})},
		{"server-ipv6-off", changed(server(), func(s *Spec) {
			for i := range s.Uplinks {
				s.Uplinks[i].NoIPv6 = true
				s.Uplinks[i].Gateways, s.Uplinks[i].Addresses = s.Uplinks[i].Gateways[:1], s.Uplinks[i].Addresses[:1]
			}
		})},
		{"leaving", changed(separate(), func(s *Spec) { // the same id by another interface, and a renamed uplink
			forwards(s)
			s.Uplinks = append(s.Uplinks, Uplink{Name: "dsl-old", ID: 1, Interface: "eth7"}, Uplink{Name: "cable-old", ID: 2, Interface: "eth8", Source: addrs("198.18.2.2")},
				up(5, "vdsl", "eth1"))
		})},
		{"odd-names", changed(separate(), func(s *Spec) {
			s.Uplinks[0].Interface, s.Uplinks[1].Interface = "eth1.100", "wan-2_b"
			s.Uplinks[0].Name = "ct"
			s.Uplinks = append(s.Uplinks, changed(threeOnOne(), func(s *Spec) {}).Uplinks[2])
			s.Uplinks[2].Interface = "eth1.100"
		})},
		{"other-mask", changed(separate(), func(s *Spec) {
			s.Mask = 0x00000ff0
			for i := range s.Uplinks {
				s.Uplinks[i].Mark = uint32(s.Uplinks[i].ID) << 4
			}
			s.Policies = []Policy{{Name: "default", ID: 9, Mark: 9 << 4}}
		})},
		{"counted", changed(threeOnOne(), func(s *Spec) { s.Uplinks[0].Counted, s.Uplinks[2].Counted = true, true })},
		{"counted-other", changed(threeOnOne(), func(s *Spec) { s.Uplinks[0].Counted, s.Uplinks[1].Counted = true, true })},
		{"counted-server", changed(server(), func(s *Spec) { s.Uplinks[0].Counted, s.Uplinks[1].Counted = true, true })},
		{"notes", changed(separate(), func(s *Spec) { s.Notes = []string{"socket /run/multiroute/agent.sock", "state /etc/a b"} })},
		{"sticky", sticky()},
		{"sticky-three-on-one", changed(threeOnOne(), func(s *Spec) {
			s.Sticky = []Sticky{{Policy: markOf(9), Timeout: 10 * time.Minute, Uplinks: []int{1, 2, 3}, Members4: []int{2, 3}, Members6: []int{1}}}
			s.Uplinks[1].NoIPv6 = true
			s.Pinned = nets("192.0.2.53/32")
		})},
		{"sticky-leaving", changed(sticky(), func(s *Spec) {
			s.Uplinks = append(s.Uplinks, Uplink{Name: "dsl-old", ID: 1, Interface: "eth7", Leaving: true}, Uplink{Name: "gone", ID: 4, Mark: markOf(4), Interface: "eth8", Leaving: true})
		})},
		{"rules", ruleSpec(mixedRules()...)},
		{"rules-lists", changed(ruleSpec(
			PolicyRule{From: nets("192.168.0.20/32"), Policy: markOf(10)},
			PolicyRule{ToLists: []string{"domain-x", "domain-y"}, Policy: markOf(11)},
			PolicyRule{From: nets("192.168.0.21/32"), Policy: markOf(10)},
			PolicyRule{ToLists: []string{"domain-x"}, To: nets("203.0.113.0/24"), Ports: []PortRange{{443, 443}}, Protocols: []uint8{6}, Policy: markOf(12)},
			PolicyRule{Local: true, ToLists: []string{"domain-y"}, Policy: markOf(10)},
		), func(s *Spec) { s.Lists = testLists })},
		{"rules-server", changed(server(), func(s *Spec) {
			s.Policies = ruleSpec().Policies
			s.Rules = append(manyRules("from . port", 3), manyRules("to . ports", 2)...)
		})},
	}
}

// many is the most that one router is meant for.
func many(uplinks, forwards int) Spec {
	s := Spec{Mask: testMask, LAN: []string{"eth0"}, Guard: true, Policies: []Policy{{Name: "default", ID: 255, Mark: markOf(255)}}, Own: addrs("192.168.0.1", "fd00:1::1")}
	for i := range uplinks {
		s.Uplinks = append(s.Uplinks, up(i+1, fmt.Sprintf("uplink%d", i+1), fmt.Sprintf("wan%d", i+1)))
	}
	for i := range forwards {
		f := PortForward{Protocol: 6, Port: uint16(1000 + i), To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 80)}
		if i%2 == 1 {
			f.To = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", i)), 80)
		}
		if i%10 == 0 {
			f.Uplinks = []int{1}
		}
		s.Forwards = append(s.Forwards, f)
	}
	return s
}

type netipAddr = netip.Addr

func prefix32(a [4]byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4(a), 32) }
