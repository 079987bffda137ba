package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"multiroute/agent/dns"
	"multiroute/routes"
)

// known returns the target's address if that needs no waiting.
func (p *prober) known(t *target) (netip.Addr, bool) {
	if t.name == nil {
		return t.Addr, true
	}
	return t.name.known(p.ctx)
}

// address returns the target's address; a name is resolved first.
func (p *prober) address(ctx context.Context, t *target) (netip.Addr, error) {
	if t.name == nil {
		return t.Addr, nil
	}
	return t.name.wait(p.ctx, ctx)
}

// resolve looks a name up through the uplink: at its own DNS servers, or at those
// of resolv.conf. Those on this machine (a forwarder) go the way they please.
func (p *prober) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: p.dialDNS}
	network := "ip4"
	if p.leg.Family == routes.IPv6 {
		network = "ip6"
	}
	if host[len(host)-1] != '.' {
		host += "." // no search list
	}
	addrs, err := r.LookupNetIP(ctx, network, host)
	p.Log.Debug("resolved the name of a target", "uplink", p.leg.Uplink, "name", host, "addresses", addrs, "err", err)
	if err != nil {
		return nil, fmt.Errorf("resolving a name through the uplink: %w", err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return routes.FamilyOf(a) != p.leg.Family }), nil
}

// dialDNS connects to a DNS server. Address is one of resolv.conf.
func (p *prober) dialDNS(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("resolv.conf: %w", err)
	}
	dial := func() (net.Conn, error) { return p.dial(ctx, network, to) }
	if n := len(p.path.DNS); n > 0 {
		to = netip.AddrPortFrom(p.path.DNS[int(p.server.Add(1)%uint32(n))], dns.Port)
	} else if to.Addr().IsLoopback() {
		dial = func() (c net.Conn, err error) {
			err = p.enter(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, err
		}
	}
	c, err := dial()
	if err != nil {
		return nil, err
	}
	// The resolver would wait for an answer although nobody wants it any more.
	context.AfterFunc(ctx, func() { c.Close() })
	return c, nil
}
