package config

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// tableRoom is how many routing tables ids can need above table_base.
const tableRoom = 255

var interfaceName = text(`the name of a network interface, such as "eth1"`, func(s string) (string, error) {
	switch {
	case s == "" || s == "." || s == "..":
		return "", badText(s, `the name of a network interface: write one such as "eth1"`)
	case s == "lo":
		return "", errors.New(`"lo" is the loopback interface, which leads nowhere: write one such as "eth1"`)
	case len(s) > 15:
		return "", fmt.Errorf("%s has %d bytes: the name of a network interface has at most 15", quote(s), len(s))
	case strings.Contains(s, ":"):
		return "", fmt.Errorf("%s is an alias, not an interface: write %s and list the uplink's own addresses in addresses", quote(s), quote(s[:strings.Index(s, ":")]))
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f && r <= 0xa0 }):
		return "", badText(s, "the name of a network interface: it has no spaces and no /")
	}
	return s, nil
})

var markMask = scalar("a hexadecimal number in quotes", func(raw any) (uint32, error) {
	if i, ok := raw.(int64); ok && i > 0 && i <= 0xffffffff {
		return 0, fmt.Errorf("is a bare number: write it in quotes: \"0x%08x\"", i)
	}
	s, ok := raw.(string)
	if !ok {
		return 0, wrongType(raw, `a hexadecimal number in quotes, such as "0xff000000"`)
	}
	digits, hex := strings.CutPrefix(s, "0x")
	v, err := strconv.ParseUint(digits, 16, 32)
	switch mask := uint32(v); {
	case !hex || err != nil || strings.Contains(digits, "_"):
		return 0, badText(s, `a hexadecimal number of 32 bits: write one such as "0xff000000"`)
	case mask == 0:
		return 0, fmt.Errorf(`%s has no bits: write up to 8 adjacent ones, such as "0xff000000"`, quote(s))
	case bits.OnesCount32(mask) > 8:
		return 0, fmt.Errorf(`%s has %d bits: write up to 8, such as "0xff000000"`, quote(s), bits.OnesCount32(mask))
	case bits.Len32(mask)-bits.TrailingZeros32(mask) != bits.OnesCount32(mask):
		return 0, fmt.Errorf(`%s has gaps between its bits: write up to 8 adjacent ones, such as "0xff000000"`, quote(s))
	default:
		return mask, nil
	}
})

// parseAddr reads an address of either family that one host can have.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		if p, err := netip.ParsePrefix(s); err == nil {
			return a, fmt.Errorf("%s is a prefix: write the address alone, %q", quote(s), p.Addr())
		}
		return a, badText(s, `an address: write one such as "192.0.2.1" or "2001:db8::1"`)
	case err != nil && strings.HasPrefix(s, "["):
		return a, badText(s, "an address: write it without brackets")
	case err != nil:
		return a, badText(s, `an address: write one such as "192.0.2.1" or "2001:db8::1"`)
	case a.Zone() != "":
		return a, fmt.Errorf("%s names an interface: write %q alone", quote(s), a.WithZone(""))
	case a.Is4In6():
		return a, fmt.Errorf("%s is an IPv4 address written as IPv6: write %q", quote(s), a.Unmap())
	case a.IsUnspecified():
		return a, fmt.Errorf("%s means no address: write that of one host", quote(s))
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s reaches many hosts: write the address of one", quote(s))
	case a.IsLoopback():
		return a, fmt.Errorf("%s is this host itself: write an address that others can reach", quote(s))
	}
	return a, nil
}

// ownAddress and serverAddress are addresses of either family.
var (
	ownAddress    = text("an address", parseAddr)
	serverAddress = text("the address of a server", parseAddr)
)

// parsePrefix reads a prefix; a bare address means that one host.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return netip.Prefix{}, badText(s, `an address or a prefix: write one such as "192.0.2.0/24" or "2001:db8::/32"`)
		case a.Zone() != "":
			return netip.Prefix{}, fmt.Errorf("%s names an interface: write %q alone", quote(s), a.WithZone(""))
		case a.Is4In6():
			return netip.Prefix{}, fmt.Errorf("%s is an IPv4 address written as IPv6: write %q", quote(s), a.Unmap())
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, badText(s, `a prefix: write one such as "192.0.2.0/24" or "2001:db8::/32"`)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s is an IPv4 prefix written as IPv6: write it as IPv4", quote(s))
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits behind its length: write %q, or %q for the one host", quote(s), p.Masked(), p.Addr())
	}
	return p, nil
}

// anyPrefix may be any prefix, narrowPrefix not the one that covers everything.
var (
	anyPrefix    = text("an address or a prefix", parsePrefix)
	narrowPrefix = text("an address or a prefix", func(s string) (netip.Prefix, error) {
		p, err := parsePrefix(s)
		if err == nil && p.Bits() == 0 {
			return p, fmt.Errorf("%s is every address there is: name the prefixes that are meant", quote(s))
		}
		return p, err
	})
)

var (
	gateway4 = gatewayKind("gateway", `"auto", an IPv4 address, "ADDRESS onlink" or "none"`, netip.Addr.Is4)
	gateway6 = gatewayKind("gateway6", `"auto", an IPv6 address, "ADDRESS onlink", "none" or "off"`, netip.Addr.Is6)
)

// gatewayKind is a kind of gateways of one family.
func gatewayKind(key, wants string, family func(netip.Addr) bool) kind {
	return text(wants, func(s string) (Gateway, error) {
		switch {
		case s == "auto":
			return Gateway{Mode: GatewayAuto}, nil
		case s == "none":
			return Gateway{Mode: GatewayNone}, nil
		case s == "off" && key == "gateway6":
			return Gateway{Mode: GatewayOff}, nil
		case s == "off":
			return Gateway{}, errors.New(`"off" is for gateway6 only: to take the uplink out write enabled = false`)
		}
		fields := strings.Fields(s)
		if len(fields) == 0 || len(fields) > 2 || len(fields) == 2 && fields[1] != "onlink" {
			return Gateway{}, fmt.Errorf("%s is no gateway: write %s", quote(s), wants)
		}
		if _, err := netip.ParsePrefix(fields[0]); err != nil {
			if _, err := netip.ParseAddr(fields[0]); err != nil {
				return Gateway{}, fmt.Errorf("%s is no gateway: write %s", quote(s), wants)
			}
		}
		a, err := parseAddr(fields[0])
		switch {
		case err != nil:
			return Gateway{}, err
		case !family(a) && key == "gateway":
			return Gateway{}, fmt.Errorf("%s is an IPv6 address: write it as gateway6", quote(fields[0]))
		case !family(a):
			return Gateway{}, fmt.Errorf("%s is an IPv4 address: write it as gateway", quote(fields[0]))
		}
		return Gateway{Mode: GatewayAddress, Addr: a, OnLink: len(fields) == 2}, nil
	})
}

// overlaps reports whether a port is in both ranges.
func (p PortRange) overlaps(o PortRange) bool { return p.Lo <= o.Hi && o.Lo <= p.Hi }

// String returns "80" or "8000-8010".
func (p PortRange) String() string {
	if p.Lo == p.Hi {
		return strconv.Itoa(int(p.Lo))
	}
	return fmt.Sprintf("%d-%d", p.Lo, p.Hi)
}

const portWants = `a port from 1 to 65535, or a range such as "8000-8010"`

var portOrRange = scalar(portWants, func(raw any) (PortRange, error) {
	switch v := raw.(type) {
	case int64:
		if v < 1 || v > 65535 {
			return PortRange{}, fmt.Errorf("%d is no port: write a number from 1 to 65535", v)
		}
		return PortRange{uint16(v), uint16(v)}, nil
	case string:
		if isDigits(raw) {
			return PortRange{}, fmt.Errorf("is %s, wants %s: write a single port without quotes", describe(raw), portWants)
		}
		if p, ok := parsePorts(v); ok {
			return p, nil
		}
		return PortRange{}, badText(v, "a range of ports: write the lower and the higher port from 1 to 65535, such as \"8000-8010\"")
	}
	return PortRange{}, wrongType(raw, portWants)
})

// parsePorts reads "80" or "8000-8010".
func parsePorts(s string) (PortRange, bool) {
	from, to, isRange := strings.Cut(s, "-")
	lo, ok := parsePort(from)
	if !ok || !isRange {
		return PortRange{lo, lo}, ok
	}
	hi, ok := parsePort(to)
	return PortRange{lo, hi}, ok && lo < hi
}

// parsePort reads a decimal number from 1 to 65535, without a sign or leading zeros.
func parsePort(s string) (uint16, bool) {
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), err == nil && v > 0 && s[0] != '0' && s[0] != '+'
}

// endpoint is where a port forward leads to.
type endpoint struct {
	addr  netip.Addr
	ports PortRange
}

const endpointWants = `"192.168.0.10", "192.168.0.10:8080", "fd00::10" or "[fd00::10]:8080"`

var forwardTarget = text("an address, with or without a port, such as "+endpointWants, func(s string) (endpoint, error) {
	bad := fmt.Errorf("%s is no address with or without a port: write it like %s", quote(s), endpointWants)
	host, port := s, ""
	if inner, ok := strings.CutPrefix(s, "["); ok {
		before, after, closed := strings.Cut(inner, "]")
		if !closed || !strings.HasPrefix(after, ":") && after != "" || after == ":" {
			return endpoint{}, bad
		}
		host, port = before, strings.TrimPrefix(after, ":")
		if !strings.Contains(host, ":") {
			return endpoint{}, bad
		}
	} else if strings.Count(s, ":") == 1 {
		host, port, _ = strings.Cut(s, ":")
		if port == "" {
			return endpoint{}, bad
		}
	}
	if _, err := netip.ParseAddr(host); err != nil && !strings.Contains(host, "/") {
		return endpoint{}, bad
	}
	a, err := parseAddr(host)
	if err != nil {
		return endpoint{}, err
	}
	if a.Is6() && a.IsLinkLocalUnicast() {
		return endpoint{}, fmt.Errorf("%s is a link-local address, which nothing is routed to: write another address of that host", quote(host))
	}
	e := endpoint{addr: a}
	if port != "" {
		p, ok := parsePorts(port)
		if !ok {
			return endpoint{}, fmt.Errorf("%s is no port: write a number from 1 to 65535", quote(port))
		}
		e.ports = p
	}
	return e, nil
})

// parsePath reads the absolute path of a file.
func parsePath(s string) (string, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", badText(s, "an absolute path: begin with /")
	case strings.HasSuffix(s, "/"):
		return "", badText(s, "the path of a file: it ends with /")
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", badText(s, "a usable path: it has control characters in it")
	case path.Clean(s) != s:
		return "", badText(s, fmt.Sprintf("the shortest form of that path: write %s", quote(path.Clean(s))))
	}
	return s, nil
}

var (
	absolutePath = text("an absolute path", parsePath)
	socketPath   = text("the absolute path of a socket", func(s string) (string, error) {
		const most = 107 // sun_path of a Unix socket, less its final NUL
		if len(s) > most {
			return "", fmt.Errorf("%s has %d bytes: write a path of at most %d, which is what a socket can have", quote(s), len(s), most)
		}
		return parsePath(s)
	})
)

var groupName = text("the name of a group", func(s string) (string, error) {
	if s == "" {
		return "", errors.New(`an empty name: write that of a group, such as "root" to let nobody else read`)
	}
	if len(s) > 32 || s[0] == '-' || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`:,/\"'`, r) }) {
		return "", badText(s, "the name of a group: it has up to 32 bytes, without spaces, quotes, colons, commas and slashes")
	}
	return s, nil
})

var listenAddress = text("an address and port to listen on, or \"\"", func(s string) (string, error) {
	if s == "" {
		return s, nil
	}
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil || ap.Port() == 0:
		return "", badText(s, `an address and port: write one such as "127.0.0.1:9780" or "[::1]:9780", or ""`)
	case ap.Addr().Is4In6() || ap.Addr().Zone() != "" || ap.Addr().IsMulticast():
		return "", fmt.Errorf(`%s is no address to listen on: write one such as "127.0.0.1:%d"`, quote(s), ap.Port())
	}
	return s, nil
})

var bitRate = text(`a rate such as "50mbit"`, func(s string) (int64, error) {
	units := []struct {
		name string
		bits int64
	}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || v == 0 || digits[0] == '+' {
			break
		}
		return int64(v) * u.bits, nil
	}
	return 0, badText(s, `a rate: write a whole number and bit, kbit, mbit or gbit, such as "50mbit"`)
})
