package domains

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"multiroute/agent/dns"
	"multiroute/routes"
)

// Bounds of one look-up.
const (
	patience   = 2 * time.Second // for one server
	maxServers = 3               // asked in turn
	maxHops    = 8               // aliases that a server says without their addresses
	maxUDP     = 4096            // bytes
)

// Asker asks DNS servers. Its sockets are the router's own, without a mark: the
// servers of an uplink are reached through that uplink because routes say so.
type Asker struct {
	Random io.Reader
	// System is the resolver configuration whose servers are asked where uplinks
	// have none.
	System string
}

// Ask asks for a name's addresses and how long they are valid. A name that has
// none is no error.
func (a Asker) Ask(ctx context.Context, q Question, servers []netip.Addr) ([]netip.Addr, time.Duration, error) {
	if len(servers) == 0 {
		text, err := os.ReadFile(a.System)
		if err != nil {
			return nil, 0, fmt.Errorf("asking for %s: no usable uplink has DNS servers, nor has the system: %w", q.Name, err)
		}
		if servers = Nameservers(string(text)); len(servers) == 0 {
			servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})} // resolv.conf(5)
		}
	}
	var errs []error
	for _, server := range servers[:min(len(servers), maxServers)] {
		addrs, ttl, err := a.follow(ctx, q, netip.AddrPortFrom(server, dns.Port))
		if err == nil {
			return addrs, ttl, nil
		}
		errs = append(errs, fmt.Errorf("asking %s for %s: %w", server, q.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, 0, errors.Join(errs...)
}

// follow asks one server, also for the names that the one asked for stands for.
func (a Asker) follow(ctx context.Context, q Question, server netip.AddrPort) ([]netip.Addr, time.Duration, error) {
	shortest := time.Duration(-1)
	for range maxHops {
		x, err := a.exchange(ctx, q, server)
		if err != nil {
			return nil, 0, err
		}
		if shortest < 0 || x.TTL < shortest {
			shortest = x.TTL
		}
		if len(x.Addrs) > 0 || x.Alias == "" {
			return x.Addrs, shortest, nil
		}
		q.Name = x.Alias
	}
	return nil, 0, errors.New("aliases without an end")
}

// exchange asks one question, again over TCP if the answer is too long for UDP.
func (a Asker) exchange(ctx context.Context, q Question, server netip.AddrPort) (dns.Addresses, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	random := make([]byte, dns.RandomBytes)
	if _, err := io.ReadFull(a.Random, random); err != nil {
		return dns.Addresses{}, fmt.Errorf("reading random bytes: %w", err)
	}
	query, err := dns.NewQuery(q.Name, q.Family, random)
	if err != nil {
		return dns.Addresses{}, err
	}
	x, err := overUDP(ctx, query, q.Family, server)
	if err == nil && x.Truncated {
		x, err = overTCP(ctx, query, q.Family, server)
	}
	return x, err
}

// overUDP waits for the answer; what is none is not heard.
func overUDP(ctx context.Context, query []byte, family routes.Family, server netip.AddrPort) (dns.Addresses, error) {
	c, err := dial(ctx, "udp", server)
	if err != nil {
		return dns.Addresses{}, err
	}
	defer c.Close()
	if _, err := c.Write(query); err != nil {
		return dns.Addresses{}, err
	}
	b := make([]byte, maxUDP)
	for {
		n, err := c.Read(b)
		if err != nil {
			return dns.Addresses{}, err
		}
		if _, ok := dns.Answers(b[:n], query); ok {
			return dns.Parse(b[:n], query, family)
		}
	}
}

func overTCP(ctx context.Context, query []byte, family routes.Family, server netip.AddrPort) (dns.Addresses, error) {
	c, err := dial(ctx, "tcp", server)
	if err != nil {
		return dns.Addresses{}, err
	}
	defer c.Close()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return dns.Addresses{}, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return dns.Addresses{}, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return dns.Addresses{}, err
	}
	x, err := dns.Parse(b, query, family)
	if err == nil && x.Truncated {
		err = errors.New("the answer is cut off, over TCP, too")
	}
	return x, err
}

// dial connects; the connection's time is over with ctx.
func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err == nil {
		context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	}
	return c, err
}
