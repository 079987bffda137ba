package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mac is a hardware address, printed with colons.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

var macAddress = text("a hardware address", func(s string) (mac, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(mac{}) || !strings.Contains(s, ":") {
		return mac{}, badText(s, `a hardware address: write one such as "02:00:00:00:00:01"`)
	}
	return mac(hw), nil
})

// protocol is one that a rule can name. Values are those of linux/in.h.
type protocol struct {
	name    string
	numbers []uint8
	ports   bool     // it has ports, where tcp has them
	only    families // the one that carries it; 0: both do
}

var protocols = []protocol{
	{name: "tcp", numbers: []uint8{6}, ports: true},
	{name: "udp", numbers: []uint8{17}, ports: true},
	{name: "icmp", numbers: []uint8{1, 58}}, // whoever means one of them writes addresses, or icmpv6
	{name: "icmpv6", numbers: []uint8{58}, only: ipv6},
	{name: "sctp", numbers: []uint8{132}, ports: true},
	{name: "dccp", numbers: []uint8{33}, ports: true},
	{name: "udplite", numbers: []uint8{136}, ports: true},
	{name: "gre", numbers: []uint8{47}},
	{name: "esp", numbers: []uint8{50}},
	{name: "ah", numbers: []uint8{51}},
	{name: "ipip", numbers: []uint8{4}},
	{name: "ipv6", numbers: []uint8{41}},
	{name: "igmp", numbers: []uint8{2}, only: ipv4},
	{name: "ospf", numbers: []uint8{89}},
	{name: "l2tp", numbers: []uint8{115}},
}

var protocolName = func() kind {
	names := make([]string, len(protocols))
	for i, p := range protocols {
		names[i] = p.name
	}
	return enum(names...)
}()

// findProtocol returns the protocol of a name that protocolName accepts.
func findProtocol(name string) protocol {
	return protocols[slices.IndexFunc(protocols, func(p protocol) bool { return p.name == name })]
}

// HasPorts reports whether a protocol of the IP header has ports.
func HasPorts(number uint8) bool {
	return slices.ContainsFunc(protocols, func(p protocol) bool { return p.ports && slices.Contains(p.numbers, number) })
}

// families returns the families that carry p.
func (p protocol) families() families {
	if p.only != 0 {
		return p.only
	}
	return ipv4 | ipv6
}

// dscpNames are the names of RFC 4594 and what follows it, with their numbers.
var dscpNames = map[string]uint8{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22,
	"af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
	"le": 1, "be": 0, "va": 44, "ef": 46,
}

// DSCP returns the number of a name that rules take, and whether it is one.
func DSCP(name string) (uint8, bool) {
	n, ok := dscpNames[name]
	return n, ok
}

var dscpName = text("a DSCP name", func(s string) (string, error) {
	if _, ok := DSCP(s); ok {
		return s, nil
	}
	return "", badText(s, `a DSCP name: write one such as "ef", "af41" or "cs1"`)
})

// dayNames are the days in the order of time.Weekday.
var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

var hourRange = text("a span of the day", func(s string) (Hours, error) {
	begin, end, ok := strings.Cut(s, "-")
	from, ok1 := parseClock(begin)
	to, ok2 := parseClock(end)
	if !ok || !ok1 || !ok2 || from == 24*time.Hour {
		return Hours{}, badText(s, `a span of the day: write one such as "08:00-18:00" or "22:00-06:00"`)
	}
	if from == to {
		return Hours{}, fmt.Errorf("%s has no length: write two different times", quote(s))
	}
	return Hours{from, to}, nil
})

// parseClock reads hh:mm, up to 24:00, as time since midnight.
func parseClock(s string) (time.Duration, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	h, err1 := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:], 10, 8)
	t := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
	return t, err1 == nil && err2 == nil && m < 60 && t <= 24*time.Hour
}

var domainName = text("a domain", func(s string) (string, error) {
	if isDomain(strings.TrimPrefix(s, "*.")) {
		return s, nil
	}
	return "", badText(s, `a domain: write one such as "example.org", or "*.example.org" for all below it`)
})

// isDomain reports whether s is a host name of ASCII letters, digits and
// hyphens, without a final dot, and no IPv4 address.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for last = range strings.SplitSeq(s, ".") {
		if last == "" || len(last) > 63 || last[0] == '-' || last[len(last)-1] == '-' || !isBare(last) {
			return false
		}
	}
	return !isDigits(last)
}

// tiers is a kind of lists of lists of uplinks, each of which may stand in one only.
var tiers = func() kind {
	each := listOf[string](nameText)
	const wants = `a list of lists of uplinks, such as [["dsl", "cable"], ["lte"]]`
	return kind{wants, func(n *node, fail func(*node, string)) any {
		list, ok := n.raw.([]*node)
		if !ok {
			fail(n, wrongType(n.raw, wants).Error())
			return nil
		}
		out, seen, good := [][]string{}, map[string]bool{}, true
		for _, e := range list {
			if _, isList := e.raw.([]*node); !isList {
				fail(e, wrongType(e.raw, wants).Error())
				good = false
				continue
			}
			tier, ok := each.check(e, fail).([]string)
			if ok && len(tier) == 0 {
				fail(e, "an empty tier: name an uplink in it or remove it")
			}
			for _, up := range tier {
				if seen[up] {
					fail(e, fmt.Sprintf("%s is in two tiers: remove one", quote(up)))
					good = false
				}
				seen[up] = true
			}
			good = good && ok && len(tier) > 0
			out = append(out, tier)
		}
		if !good {
			return nil
		}
		return out
	}}
}()
