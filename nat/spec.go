package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// TableName is our table, in family inet. Nothing outside it is ever touched.
const TableName = "multiroute"

// Spec is everything the table should do. It is plain data.
type Spec struct {
	Mask    uint32   // our bits of packet and connection mark
	LAN     []string // interfaces with clients
	Uplinks []Uplink
	// Networks are the subnets of interfaces that serve clients and an uplink
	// at once: there the source says which of the two a packet comes from.
	Networks []Network
	Routed   []netip.Prefix // sources that leave un-NATed
	Guard    bool
	Forwards []PortForward
	// Services are ports that clients' connections never have on an uplink: of
	// the router's own services. They get one of ClientPorts instead.
	Services    []PortRange
	ClientPorts PortRange
	// Own is the source of the router's own unbound connections in each
	// family; invalid where the kernel chooses an uplink's address.
	Own      []netip.Addr
	Policies []Policy
	// Lists are names of lists of addresses, which rules know and others fill
	// (Table.Fill, or whoever adds elements to their sets).
	Lists []string
	// Rules send new connections to policies; the first that matches wins. What
	// none matches gets no mark: the default policy.
	Rules []PolicyRule
	// Sticky are the policies whose clients stay where they are.
	Sticky []Sticky
	Pinned []netip.Prefix // destinations that have an uplink of their own, whatever the policy; needed with Sticky and Refused
	// Refused are the policies that nobody carries now: the router's own new TCP
	// connections that Rules give to them are reset at once. Others learn it from
	// routing; their program's packets of TCP alone do not (tcp_connect,
	// net/ipv4/tcp_output.c).
	Refused []Refusal
	// Notes are for the next agent, and for whoever takes the table away: at most
	// MaxNote bytes each. No packet comes to them.
	Notes []string
}

// Refusal is a policy that nobody carries in one family.
type Refusal struct {
	Policy uint32 // its mark
	IPv6   bool
}

// Policy is a policy with a routing table of its own. The first is the default.
type Policy struct {
	Name string
	ID   int
	Mark uint32 // ID, shifted into the mask
	// Bypass: routing leaves its packets to the main table. Its connections may
	// leave by what is no uplink, so there they keep the policy's mark.
	Bypass bool
}

// Uplink is one uplink. Its ID is unique and never 0.
type Uplink struct {
	Name      string
	ID        int
	Mark      uint32 // ID, shifted into the mask; 0: nothing is bound to it
	Interface string
	Leaving   bool         // nothing that comes in is bound to it any more
	Gateways  []netip.Addr // of both families; needed where uplinks share Interface
	Addresses []netip.Addr // its own, of both families; needed where uplinks share Interface
	MACs      [][6]byte    // of its gateways, where known; needed where uplinks share an address
	Public    []netip.Addr // its addresses by which clients, too, use port forwards; among Addresses where those are needed
	Source    []netip.Addr // fixed source for NAT, at most one a family; none: masquerade
	// Translations change prefixes of IPv6 sources; what is in none of them is
	// masqueraded. They do not overlap.
	Translations []Translation
	Delegated    netip.Prefix // what Translations take their prefixes from; not valid: nothing
	Routed6      bool         // IPv6 sources in Spec.Routed leave un-NATed
	NoIPv6       bool
	Counted      bool // what its connections carry is counted, see Counters
	MTU          int  // bytes; TCP connections send no larger packets; 0: nothing to do
}

// Network is a subnet on an interface that serves clients and uplinks.
type Network struct {
	Interface string
	Prefix    netip.Prefix
}

// Chain names carry ids and names, so that a restarted agent learns the ids
// from the kernel.
const (
	markChain    = "mark-"    // puts the uplink's mark on the packet
	bindChain    = "bind-"    // binds a connection that comes in to the uplink
	leaveChain   = "leave-"   // binds a connection that leaves to the uplink, and NATs it
	forwardChain = "forward-" // port forwards of this uplink, and of all
	policyChain  = "policy-"  // puts the policy's mark on the packet
	localChain   = "local-"   // the same for the router's own, or refuses them
)

// notesChain has the Notes, a rule each.
const notesChain = "notes"

// MaxNote is the longest note, in bytes. The kernel takes 256 for all that a rule's
// comment consists of (NFT_USERDATA_MAXLEN, linux/netfilter/nf_tables.h).
const MaxNote = 200

func (u Uplink) chain(kind string) string { return fmt.Sprintf("%s%d-%s", kind, u.ID, u.Name) }

// parseChain splits the name of a chain of that kind into id and name.
func parseChain(chain, kind string) (id int, name string, ok bool) {
	rest, ok := strings.CutPrefix(chain, kind)
	if !ok {
		return 0, "", false
	}
	number, name, ok := strings.Cut(rest, "-")
	id, err := strconv.Atoi(number)
	return id, name, ok && err == nil && id > 0 && name != ""
}

// note writes down what a restarted agent must know to let go of an uplink that
// is not configured any more: at most 200 bytes.
func (u Uplink) note() Note {
	words := []string{u.Interface}
	for _, g := range u.Gateways {
		words = append(words, "via", g.String())
	}
	for _, a := range u.Source {
		words = append(words, "src", a.String())
	}
	return Note(strings.Join(words, " "))
}

// parseNote is the reverse of note; what it does not know it leaves out.
func parseNote(text string) Uplink {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Uplink{}
	}
	u := Uplink{Interface: words[0]}
	for pair := range slices.Chunk(words[1:], 2) {
		if len(pair) < 2 {
			break
		}
		a, err := netip.ParseAddr(pair[1])
		switch {
		case err != nil:
		case pair[0] == "via":
			u.Gateways = append(u.Gateways, a)
		case pair[0] == "src":
			u.Source = append(u.Source, a)
		}
	}
	return u
}
