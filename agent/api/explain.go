package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"multiroute/agent/config"
)

// ExplainRequest is the first packet of a connection, of which somebody wants to know
// where it goes. What is not given is zero.
type ExplainRequest struct {
	From      netip.Addr // invalid: the router itself, from whatever address the kernel chooses
	To        netip.Addr
	Protocol  uint8 // IPPROTO_*
	FromPort  uint16
	ToPort    uint16
	Interface string  // by which it comes in; empty: as the address says
	MAC       [6]byte // of who sends it; zero: as the kernel's table of neighbours says
	DSCP      uint8
	UID       uint32 // of the program on the router that sends it
}

// Explanation is where a packet goes, and why: the JSON of "agent explain --json". Its keys
// never change their meaning. What does not exist is nil here and null there; lists are
// never null.
type Explanation struct {
	// Rule is the [[rule]] that matches; nil also if that is not certain, as it depends on
	// a hardware address that nobody knows. What else depends on it is nil then, too.
	Rule *string `json:"rule"`

	// Policy is the policy that chooses among the candidates; nil where none has a say.
	Policy *string `json:"policy"`

	// Candidates are the uplinks that a connection like this may get, with their weights; by
	// any of the rules that may match.
	Candidates []MemberStatus `json:"candidates"`

	// Uplink is the one that this very packet gets, by the kernel's own answer; for what
	// comes in, the one that it came by and that answers leave by. It is nil if the packet
	// leaves by none, and where the kernel does not tell which of several candidates it is;
	// then so are Interface, Gateway and Source.
	Uplink *string `json:"uplink"`

	// Interface and Gateway are by which, and to whom, the packet leaves.
	Interface *string     `json:"interface"`
	Gateway   *netip.Addr `json:"gateway"`

	// Source is the address that the far end sees.
	Source *netip.Addr `json:"source"`

	// Table is the routing table that has the route.
	Table *int `json:"table"`

	// Why tells all that in sentences, in the order in which it happens.
	Why []string `json:"why"`

	// Agrees tells whether the kernel's own answer is what the configuration wants.
	Agrees bool `json:"agrees"`
}

const pathExplain = "/v1/explain"

// protocolNumbers are the protocols that can be asked for by name (linux/in.h).
func protocolNumbers() map[string]uint8 {
	return map[string]uint8{"icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
		"ospf": 89, "l2tp": 115, "sctp": 132, "udplite": 136}
}

// ParseExplain reads a request as people write it: ends are addresses, with a port behind
// a colon if that is known, and an IPv6 address with a port in brackets; from is "local" for
// the router itself. Protocol is a name or a number; empty: tcp. DSCP is a name or a number,
// uid a number. The other values may be empty.
func ParseExplain(from, to, protocol, iface, mac, dscp, uid string) (ExplainRequest, error) {
	r := ExplainRequest{Interface: iface}
	var err error
	if host, port, ok := strings.Cut(from, ":"); host == "local" && ok {
		if r.FromPort, err = parsePort(port); err != nil {
			return ExplainRequest{}, fmt.Errorf("from: %w", err)
		}
	} else if from != "local" {
		if r.From, r.FromPort, err = parseEnd(from); err != nil {
			return ExplainRequest{}, fmt.Errorf("from: %w", err)
		}
	}
	if r.To, r.ToPort, err = parseEnd(to); err != nil {
		return ExplainRequest{}, fmt.Errorf("to: %w", err)
	}
	if r.From.IsValid() && r.From.Is4() != r.To.Is4() {
		return ExplainRequest{}, fmt.Errorf("%s and %s are of different families: write two IPv4 or two IPv6 addresses", r.From, r.To)
	}
	if r.Protocol, err = parseProtocol(protocol, r.To.Is6()); err != nil {
		return ExplainRequest{}, err
	}
	if port := max(r.FromPort, r.ToPort); port != 0 && !config.HasPorts(r.Protocol) {
		return ExplainRequest{}, fmt.Errorf("protocol %s has no ports: leave out :%d", protocol, port)
	}
	if mac != "" {
		hw, err := net.ParseMAC(mac)
		if err != nil || len(hw) != len(r.MAC) {
			return ExplainRequest{}, fmt.Errorf(`mac is %q: write a hardware address such as "02:00:00:00:00:01"`, mac)
		}
		r.MAC = [6]byte(hw)
	}
	if dscp != "" {
		if r.DSCP, err = parseDSCP(dscp); err != nil {
			return ExplainRequest{}, err
		}
	}
	if uid != "" {
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return ExplainRequest{}, fmt.Errorf("uid is %q: write the number of a user", uid)
		}
		r.UID = uint32(n)
	}
	return r, nil
}

func parseEnd(text string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.Unmap(), 0, nil
	}
	if a, err := netip.ParseAddrPort(text); err == nil && a.Addr().Zone() == "" {
		return a.Addr().Unmap(), a.Port(), nil
	}
	return netip.Addr{}, 0, fmt.Errorf(`%q is no address: write one such as "192.0.2.1", "192.0.2.1:80" or "[2001:db8::1]:80"`, text)
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port: write a number from 0 to 65535", text)
	}
	return uint16(n), nil
}

func parseProtocol(text string, v6 bool) (uint8, error) {
	switch {
	case text == "":
		return protocolNumbers()["tcp"], nil
	case text == "icmp" && v6:
		return protocolNumbers()["icmpv6"], nil
	}
	if n, ok := protocolNumbers()[text]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf(`protocol is %q: write a name such as "udp" or "icmp", or a number from 0 to 255`, text)
	}
	return uint8(n), nil
}

func parseDSCP(text string) (uint8, error) {
	if n, ok := config.DSCP(text); ok {
		return n, nil
	}
	n, err := strconv.ParseUint(text, 10, 6)
	if err != nil {
		return 0, fmt.Errorf(`dscp is %q: write a name such as "ef", or a number from 0 to 63`, text)
	}
	return uint8(n), nil
}

// query is the request as parameters; the reverse of explainQuery.
func (r ExplainRequest) query() url.Values {
	q := url.Values{"to": {end(r.To, r.ToPort)}, "protocol": {strconv.Itoa(int(r.Protocol))}}
	if r.From.IsValid() {
		q.Set("from", end(r.From, r.FromPort))
	} else {
		q.Set("from", fmt.Sprintf("local:%d", r.FromPort))
	}
	if r.Interface != "" {
		q.Set("interface", r.Interface)
	}
	if r.MAC != [6]byte{} {
		q.Set("mac", net.HardwareAddr(r.MAC[:]).String())
	}
	if r.DSCP != 0 {
		q.Set("dscp", strconv.Itoa(int(r.DSCP)))
	}
	if r.UID != 0 {
		q.Set("uid", strconv.FormatUint(uint64(r.UID), 10))
	}
	return q
}

func end(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// explainQuery reads the parameters of a request. They are taken exactly.
func explainQuery(query url.Values) (ExplainRequest, error) {
	given := map[string]string{}
	for key, values := range query {
		switch key {
		case "from", "to", "protocol", "interface", "mac", "dscp", "uid":
		default:
			return ExplainRequest{}, fmt.Errorf("unknown parameter %q: known are from, to, protocol, interface, mac, dscp and uid", key)
		}
		if len(values) != 1 {
			return ExplainRequest{}, fmt.Errorf("the parameter %q stands there twice: remove one", key)
		}
		given[key] = values[0]
	}
	if given["from"] == "" || given["to"] == "" {
		return ExplainRequest{}, errors.New(`the parameters from and to are needed: write addresses, or "local" for the router itself`)
	}
	return ParseExplain(given["from"], given["to"], given["protocol"], given["interface"], given["mac"], given["dscp"], given["uid"])
}

// Explain asks where a packet goes, and why.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	var e Explanation
	err := c.json(ctx, http.MethodGet, pathExplain+"?"+r.query().Encode(), &e)
	return e, err
}
