//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The interfaces of a provider.
const (
	customerSide = "customer"
	coreSide     = "core"
)

// Destinations that exist behind one provider only: the others say so instead of forwarding.
var exclusive = []netip.Prefix{
	netip.MustParsePrefix("142.154.61.0/24"),
	netip.MustParsePrefix("24.19.100.0/24"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("198.19.0.0/16"),
	netip.MustParsePrefix("2001:db8:ffaa::/48"),
}

// Provider forwards between one customer and the internet, without NAT and without filtering, and counts what the customer sends.
type Provider struct {
	NS *NS

	uplink *Uplink

	mu      sync.Mutex
	allowed []netip.Prefix
	leaks   *tap
	packets *tap
}

// build makes the provider's namespace and connects it to the internet.
func (p *Provider) build(internet *NS) (err error) {
	u := p.uplink
	if p.NS, err = NewNS(u.Name); err != nil {
		return err
	}
	if err := p.NS.sysctls(forwarding); err != nil {
		return err
	}
	port := fmt.Sprintf("isp%d", u.ID)
	if err := Veth(p.NS, coreSide, internet, port); err != nil {
		return err
	}
	if err := errors.Join(p.NS.Up(coreSide), internet.Up(port)); err != nil {
		return err
	}
	here, there := p.transfer()
	for i := range here {
		if err := p.NS.AddAddr(coreSide, here[i]); err != nil {
			return err
		}
		if err := internet.AddAddr(port, there[i]); err != nil {
			return err
		}
	}
	for i := range there {
		if err := p.NS.AddRoute(Route{Gateway: there[i].Addr()}); err != nil {
			return err
		}
	}
	for _, prefix := range exclusive {
		if err := p.NS.AddRoute(Route{Dst: prefix, Type: unix.RTN_UNREACHABLE}); err != nil {
			return err
		}
	}
	for _, only := range []netip.Addr{u.DNS, u.DNS6, u.Private} {
		if !only.IsValid() {
			continue
		}
		via := there[0].Addr()
		if only.Is6() {
			via = there[1].Addr()
		}
		if err := p.NS.AddRoute(Route{Dst: host(only), Gateway: via}); err != nil {
			return err
		}
		if err := internet.AddAddr("lo", host(only)); err != nil {
			return err
		}
	}
	return p.routeBack(internet)
}

// transfer returns the addresses of the link between provider and internet, IPv4 and IPv6: the provider's and the internet's.
func (p *Provider) transfer() (here, there [2]netip.Prefix) {
	id := p.uplink.ID
	v4 := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(id), n}), 30) }
	v6 := func(n int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("2001:db8:fffe:%x::%d/64", id, n)) }
	return [2]netip.Prefix{v4(2), v6(2)}, [2]netip.Prefix{v4(1), v6(1)}
}

// routeBack tells the internet which addresses are behind this provider.
func (p *Provider) routeBack(internet *NS) error {
	here, _ := p.transfer()
	u := p.uplink
	err := internet.ReplaceRoute(Route{Dst: u.Address.Masked(), Gateway: here[0].Addr(), Source: InternetAddress})
	if err != nil || !u.Address6.IsValid() {
		return err
	}
	prefix := netip.PrefixFrom(u.Address6.Addr(), 48) // holds the delegated one, too
	return internet.ReplaceRoute(Route{Dst: prefix, Gateway: here[1].Addr(), Source: InternetAddress6})
}

// gateway4 is the provider's own address on the customer's link.
func (p *Provider) gateway4() netip.Addr {
	if p.uplink.Gateway.IsValid() {
		return p.uplink.Gateway
	}
	return nth(p.uplink.Address.Masked().Addr(), 1)
}

// plugged configures a new interface to the customer, and begins to count there.
func (p *Provider) plugged() error {
	if err := p.configure(); err != nil {
		return err
	}
	return p.watch()
}

// configure sets the interface to the customer up. It may be called again.
func (p *Provider) configure() error {
	u := p.uplink
	if err := p.NS.Up(customerSide); err != nil {
		return err
	}
	if u.kind == TUN {
		if err := present(p.NS.AddPeerAddr(customerSide, p.gateway4(), u.Address.Addr())); err != nil {
			return err
		}
	} else if err := present(p.NS.AddAddr(customerSide, netip.PrefixFrom(u.Gateway, u.Address.Bits()))); err != nil {
		return err
	}
	if !u.Address6.IsValid() {
		return nil
	}
	for _, addr := range []netip.Prefix{
		netip.PrefixFrom(u.Gateway6, 64),
		netip.PrefixFrom(nth(u.Address6.Masked().Addr(), 1), u.Address6.Bits()),
	} {
		if err := present(p.NS.AddAddr(customerSide, addr)); err != nil {
			return err
		}
	}
	return p.NS.ReplaceRoute(Route{Dst: u.Delegated, Gateway: u.Address6.Addr(), Interface: customerSide})
}

// Allow names source prefixes that may come from the customer besides its own address and delegated prefix.
func (p *Provider) Allow(prefixes ...netip.Prefix) error {
	p.mu.Lock()
	p.allowed = append(p.allowed, prefixes...)
	p.mu.Unlock()
	return p.watch()
}

// Refuse drops in silence what comes from the customer with one of these sources, as providers do that check them (BCP 38). It does not count as a leak.
func (p *Provider) Refuse(sources ...netip.Prefix) error {
	for _, s := range sources {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.IifName, rule.Type = unix.AF_INET, 2, customerSide, unix.RTN_BLACKHOLE
		if s.Addr().Is6() {
			rule.Family = unix.AF_INET6
		}
		rule.Src = ipNet(s)
		if err := present(p.NS.handle.RuleAdd(rule)); err != nil {
			return fmt.Errorf("refusing %s in %s: %w", s, p.NS.Name, err)
		}
	}
	return p.Allow(sources...)
}

// watch counts on the present interface, with the present addresses (and extra ones) as the right ones.
func (p *Provider) watch(extra ...netip.Prefix) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.uplink
	if p.leaks == nil {
		p.leaks, p.packets = &tap{}, &tap{}
	}
	allowed := append(append([]netip.Prefix{host(u.Address.Addr())}, p.allowed...), extra...)
	if u.Address6.IsValid() {
		allowed = append(allowed, host(u.Address6.Addr()), u.Delegated)
	}
	if err := p.leaks.watch(p.NS, customerSide, leakFilter(allowed), sampleQueue); err != nil {
		return fmt.Errorf("counting leaks: %w", err)
	}
	if err := p.packets.watch(p.NS, customerSide, leakFilter(nil), 0); err != nil {
		return fmt.Errorf("counting packets: %w", err)
	}
	return nil
}

// Leaks returns how many packets came from the customer with a source address which is not the customer's, and some of them. Neighbour discovery,
// multicast, and link-local or unspecified sources do not count.
func (p *Provider) Leaks() (uint64, []Leak, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaks.read()
}

// Packets returns how many packets came from the customer; the same do not count.
func (p *Provider) Packets() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, _, err := p.packets.read()
	return n, err
}

// Blackhole makes the provider drop everything in silence that it should forward, while its gateway still answers; or ends that.
func (p *Provider) Blackhole(on bool) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, iif := range []string{customerSide, coreSide} {
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.IifName, rule.Type = family, 1, iif, unix.RTN_BLACKHOLE
			var err error
			if on {
				err = present(p.NS.handle.RuleAdd(rule))
			} else if err = p.NS.handle.RuleDel(rule); errors.Is(err, unix.ENOENT) {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("blackholing %s: %w", p.NS.Name, err)
			}
		}
	}
	return nil
}

// close lets go of everything.
func (p *Provider) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaks != nil {
		p.leaks.close()
		p.packets.close()
	}
	if p.NS != nil {
		p.NS.Close()
	}
}
