package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Prefix6Mode says where an uplink's own IPv6 prefix comes from.
type Prefix6Mode int

// The ways to name an uplink's own prefix.
const (
	Prefix6Auto   Prefix6Mode = iota // what table main tells of delegated prefixes
	Prefix6Fixed                     // Prefix6.Prefix
	Prefix6Within                    // the delegated prefix that is in Prefix6.Prefix
)

// Prefix6 is the prefix that clients' IPv6 addresses get on an uplink with
// IPv6Prefix.
type Prefix6 struct {
	Mode   Prefix6Mode
	Prefix netip.Prefix // not valid in mode Prefix6Auto
}

const prefix6Wants = `"auto", a prefix such as "2001:db8:1:ff00::/56", or the provider's block as "in 2001:db8::/32"`

// longestPrefix6 is that of a LAN with usual addresses (RFC 4291, 2.5.1).
const longestPrefix6 = 64

var prefix6 = text(prefix6Wants, func(s string) (Prefix6, error) {
	if s == "auto" {
		return Prefix6{}, nil
	}
	p6 := Prefix6{Mode: Prefix6Fixed}
	written, within := strings.CutPrefix(s, "in ")
	if within {
		p6.Mode = Prefix6Within
	}
	if !strings.Contains(written, "/") || strings.TrimSpace(written) != written {
		return Prefix6{}, fmt.Errorf("%s is no prefix: write %s", quote(s), prefix6Wants)
	}
	p, err := parsePrefix(written)
	a := p.Addr()
	switch {
	case err != nil:
		return Prefix6{}, err
	case a.Is4():
		return Prefix6{}, fmt.Errorf("%s is an IPv4 prefix: write %s", quote(written), prefix6Wants)
	case p.Bits() < 8 || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return Prefix6{}, fmt.Errorf("%s is no prefix that a provider delegates: write %s", quote(written), prefix6Wants)
	case p.Bits() > longestPrefix6:
		return Prefix6{}, fmt.Errorf("%s has no room for a LAN: write a prefix of at most /%d", quote(written), longestPrefix6)
	}
	p6.Prefix = p
	return p6, nil
})

// checkPrefix6 checks prefix6 of one uplink by itself.
func (r *reader) checkPrefix6(u uplinkNode) {
	if u.Prefix6.Mode != Prefix6Auto && u.good("prefix6", "ipv6", "gateway6") && u.IPv6 != IPv6Prefix && u.IPv6 != IPv6Off {
		r.failKey(u, "prefix6", `is for ipv6 = "prefix" alone: write that, or remove this key`)
	}
}

// checkPrefixes6 reports prefixes that two uplinks have; o was written before u.
func (r *reader) checkPrefixes6(u, o uplinkNode) {
	if !u.good("prefix6", "ipv6") || !o.good("prefix6", "ipv6") {
		return
	}
	a, b := u.Prefix6, o.Prefix6
	if a.Mode == b.Mode && a.Mode != Prefix6Auto && a.Prefix.Overlaps(b.Prefix) {
		r.failKey(u, "prefix6", fmt.Sprintf("overlaps with that of uplink %s at %s: each prefix belongs to one uplink", quote(o.Name), r.where(o.at("prefix6"))))
	}
}
