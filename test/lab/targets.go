//go:build linux

package lab

import "net/netip"

// Targets and Targets6 are the addresses that the agent probes by default. They answer, behind every provider, as they do in the real internet.
var (
	Targets = []netip.Addr{
		netip.MustParseAddr("1.1.1.1"),
		netip.MustParseAddr("8.8.8.8"),
		netip.MustParseAddr("9.9.9.9"),
	}
	Targets6 = []netip.Addr{
		netip.MustParseAddr("2606:4700:4700::1111"),
		netip.MustParseAddr("2001:4860:4860::8888"),
	}
)
