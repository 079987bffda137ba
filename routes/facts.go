package routes

import "net/netip"

// Facts is what the kernel says about the world around our routes: the part
// that others (cables, DHCP and PPP clients, router advertisements, people)
// change. It is a value; nobody writes to it after Kernel.Facts returned it.
type Facts struct {
	Links    []Link
	Addrs    []Addr
	Defaults []DefaultRoute
	// Delegated are the IPv6 prefixes that table main answers with "unreachable"
	// or drops as a whole: DHCPv6 clients have it do so with what a provider has
	// delegated (RFC 7084, WPD-5). By which interface it came they do not say.
	Delegated  []netip.Prefix
	Neighbours []Neighbour
	// FailedNeighbours did not answer those who tried to reach them
	// (NUD_FAILED); their MAC is not set. Who is tried again stays here until
	// it answers. Whom nobody tried to reach is in neither list.
	FailedNeighbours []Neighbour
	Marks            []ForeignMark
	Intruders        []ForeignRoute
	// NoMain are the families in which none of the kernel's and of others' rules
	// leads to table main with its defaults: somebody took the kernel's away.
	NoMain []Family
	NoIPv6 bool // the kernel has no IPv6, or it is switched off
}

// Link is a network interface.
type Link struct {
	Name         string
	Index        int
	Up           bool // administratively (IFF_UP)
	Carrier      bool // IFF_LOWER_UP
	PointToPoint bool // IFF_POINTOPOINT: PPP, TUN, WireGuard: no gateway needed
	MTU          int
	RxBytes      uint64
	TxBytes      uint64
	RxPackets    uint64
	TxPackets    uint64
}

// Addr is an address on an interface. Addresses keep the kernel's order, which
// is the order in which masquerade considers them (inet_select_addr).
type Addr struct {
	Index     int
	Prefix    netip.Prefix // the address with its subnet's length, host bits kept
	Peer      netip.Prefix // the far end, or the subnet beyond it; invalid: none
	Global    bool         // scope global (or site): good for more than this link or host
	Secondary bool         // IPv4: not the first of its subnet. IPv6: a temporary address
	Usable    bool         // neither tentative, nor failed duplicate detection, nor deprecated
}

// DefaultRoute is one nexthop of a default route in table main.
type DefaultRoute struct {
	Family  Family
	Index   int
	Gateway netip.Addr // invalid: point to point
	OnLink  bool
	Metric  uint32
}

// Neighbour is a resolved entry of the neighbour table: who sent a frame.
type Neighbour struct {
	Index int
	Addr  netip.Addr
	MAC   [6]byte
}

// ForeignMark is somebody else's rule on packet marks.
type ForeignMark struct {
	Family   Family
	Priority int
	Mark     uint32
	Mask     uint32
	Protocol uint8
}

// ForeignRoute is somebody else's route in a table of ours.
type ForeignRoute struct {
	Family   Family
	Table    int
	Dst      netip.Prefix
	Metric   uint32
	Protocol uint8
}

// Link returns the interface called name, or nil.
func (f *Facts) Link(name string) *Link {
	for i := range f.Links {
		if f.Links[i].Name == name {
			return &f.Links[i]
		}
	}
	return nil
}
