package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

var macAddress = text("a hardware address", func(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || !strings.Contains(s, ":") {
		return "", badText(s, `a hardware address: write one such as "02:00:00:00:00:01"`)
	}
	return hw.String(), nil
})

var protocolNames = []string{"tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "gre", "esp", "ah", "ipip", "ipv6", "igmp", "ospf", "l2tp"}

var protocolName = enum(protocolNames...)

var dscpNames = []string{
	"cs0", "cs1", "cs2", "cs3", "cs4", "cs5", "cs6", "cs7",
	"af11", "af12", "af13", "af21", "af22", "af23", "af31", "af32", "af33", "af41", "af42", "af43",
	"le", "be", "va", "ef",
}

var dscpName = text("a DSCP name", func(s string) (string, error) {
	if slices.Contains(dscpNames, s) {
		return s, nil
	}
	return "", badText(s, `a DSCP name: write one such as "ef", "af41" or "cs1"`)
})

// clock is a span of the day in minutes; to may be before from, over midnight.
type clock struct{ from, to int }

var hourRange = text("a span of the day", func(s string) (clock, error) {
	begin, end, ok := strings.Cut(s, "-")
	from, ok1 := parseClock(begin)
	to, ok2 := parseClock(end)
	if !ok || !ok1 || !ok2 || from == 24*60 {
		return clock{}, badText(s, `a span of the day: write one such as "08:00-18:00" or "22:00-06:00"`)
	}
	if from == to {
		return clock{}, fmt.Errorf("%s has no length: write two different times", quote(s))
	}
	return clock{from, to}, nil
})

// parseClock reads hh:mm, up to 24:00, as minutes.
func parseClock(s string) (int, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	h, err1 := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:], 10, 8)
	t := int(h*60 + m)
	return t, err1 == nil && err2 == nil && m < 60 && t <= 24*60
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
