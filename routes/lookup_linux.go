package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Query is a packet whose way is asked for.
type Query struct {
	From, To netip.Addr // From invalid: the router's own, from whatever address the kernel chooses
	In       int        // index of the interface it comes in by; 0: the router sends it
	Mark     uint32
	// Protocol and ports have a part in the choice between several nexthops.
	// Protocol 0: not known, or none that has any.
	Protocol             uint8
	SourcePort, DestPort uint16
}

// Answer is the way that the kernel chooses for a packet.
type Answer struct {
	Kind    Kind
	Table   int        // where the route was found; 0: none was
	Index   int        // of the interface
	Gateway netip.Addr // invalid: the destination is a neighbour
	Source  netip.Addr // of the router's own packets
}

// Kind is what a route does with a packet.
type Kind string

// The kinds of routes that explain a packet's fate.
const (
	Unicast     Kind = "unicast"     // on to the gateway, or to the neighbour
	Local       Kind = "local"       // to the router itself
	Unreachable Kind = "unreachable" // answered with an error
	Blackholed  Kind = "blackhole"   // dropped in silence
	Martian     Kind = "martian"     // dropped: nothing with this source may come in here
)

// Lookups asks the kernel for the ways of packets. It has a socket of its own
// in the network namespace it was opened in: it may be used beside a Kernel, by
// one goroutine at a time.
type Lookups struct{ c *mdnetlink.Conn }

// OpenLookups opens a socket for look-ups. It needs no privileges. The caller
// must Close it.
func OpenLookups() (*Lookups, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("opening a routing socket for look-ups: %w", err)
	}
	return &Lookups{c: c}, nil
}

// Close frees the socket.
func (l *Lookups) Close() { _ = l.c.Close() }

// sizeofRtmsg is the length of struct rtmsg (linux/rtnetlink.h).
const sizeofRtmsg = 12

// Lookup asks for the way of a packet (RTM_GETROUTE; inet_rtm_getroute in
// net/ipv4/route.c, inet6_rtm_getroute in net/ipv6/route.c). Over IPv6 the flow
// label is taken to be 0.
func (l *Lookups) Lookup(q Query) (Answer, error) {
	if err := l.c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Answer{}, err
	}
	m := mdnetlink.Message{Header: mdnetlink.Header{Type: unix.RTM_GETROUTE, Flags: mdnetlink.Request}, Data: q.encode()}
	replies, err := l.c.Execute(m)
	if kind, ok := refusal(err); ok {
		return Answer{Kind: kind}, nil
	}
	if err != nil {
		return Answer{}, fmt.Errorf("asking the kernel for the way from %s to %s: %w", q.From, q.To, err)
	}
	if len(replies) != 1 {
		return Answer{}, fmt.Errorf("asking the kernel for the way from %s to %s: %d answers", q.From, q.To, len(replies))
	}
	return decodeAnswer(replies[0].Data)
}

// Source returns the address from which the router's own packets to an address
// come, if they may choose; invalid: there is no way. It connects a socket,
// which sends nothing: the kernel tells no sources of ways that it refuses at
// first (ip6_dst_lookup_tail, net/ipv6/ip6_output.c).
func (*Lookups) Source(to netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, discard)))
	if _, ok := refusal(err); ok {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("asking the kernel for the source of packets to %s: %w", to, err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// discard is the port of RFC 863.
const discard = 9

// refusal translates the errors that are answers: those of routes which send
// nothing on (fib_props, net/ipv4/fib_semantics.c), and of sources that cannot
// come in by the interface.
func refusal(err error) (Kind, bool) {
	switch {
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
		return Unreachable, true
	case errors.Is(err, unix.EXDEV):
		return Martian, true
	case errors.Is(err, unix.EINVAL):
		return Blackholed, true
	}
	return "", false
}

func (q Query) encode() []byte {
	family := FamilyOf(q.To)
	b := make([]byte, sizeofRtmsg)
	b[0], b[1] = byte(family), byte(q.To.BitLen())
	binary.NativeEndian.PutUint32(b[8:], unix.RTM_F_LOOKUP_TABLE)
	ae := mdnetlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, q.To.AsSlice())
	if q.From.IsValid() {
		b[2] = byte(q.From.BitLen())
		ae.Bytes(unix.RTA_SRC, q.From.AsSlice())
	}
	if q.In != 0 {
		ae.Uint32(unix.RTA_IIF, uint32(q.In))
	}
	if q.Mark != 0 {
		ae.Uint32(unix.RTA_MARK, q.Mark)
	}
	switch q.Protocol { // the kernel takes no others (rtm_getroute_parse_ip_proto, net/ipv4/ip_output.c)
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		ae.Uint8(unix.RTA_IP_PROTO, q.Protocol)
		ae.Bytes(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.SourcePort))
		ae.Bytes(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.DestPort))
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		ae.Uint8(unix.RTA_IP_PROTO, q.Protocol)
	}
	attrs, _ := ae.Encode() // nothing in it can fail
	return append(b, attrs...)
}

// errAnswer is returned for a message that is not as linux/rtnetlink.h says.
var errAnswer = errors.New("malformed answer of the kernel to a look-up")

// decodeAnswer reads a RTM_NEWROUTE.
func decodeAnswer(b []byte) (Answer, error) {
	if len(b) < sizeofRtmsg {
		return Answer{}, fmt.Errorf("%w: %d bytes", errAnswer, len(b))
	}
	a := Answer{Table: int(b[4])}
	switch b[7] {
	case unix.RTN_UNICAST:
		a.Kind = Unicast
	case unix.RTN_LOCAL, unix.RTN_ANYCAST, unix.RTN_BROADCAST, unix.RTN_MULTICAST:
		a.Kind = Local
	case unix.RTN_BLACKHOLE:
		a.Kind = Blackholed
	default:
		a.Kind = Unreachable
	}
	ad, err := mdnetlink.NewAttributeDecoder(b[sizeofRtmsg:])
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_TABLE:
			a.Table = int(ad.Uint32())
		case unix.RTA_OIF:
			a.Index = int(int32(ad.Uint32()))
		case unix.RTA_GATEWAY:
			a.Gateway, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_VIA: // an IPv6 gateway of an IPv4 route: struct rtvia
			if v := ad.Bytes(); len(v) > 2 {
				a.Gateway, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_PREFSRC:
			a.Source, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	if err := ad.Err(); err != nil {
		return Answer{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return a, nil
}
