package probe

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/routes"
	"multiroute/test/lab"
)

// What routers say about a probe is believed if they quote it.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	cable := w.Uplinks[1]
	dsl4, dsl6 := w.Uplinks[0].DNS, w.Uplinks[0].DNS6

	p := w.open(t, cable, routes.IPv4, icmpTarget(dsl4), tcpTarget(dsl4, 80))
	p.refused(t, 0, "icmp://142.154.61.100: 24.19.12.1 says unreachable")
	p.refused(t, 1, "tcp://142.154.61.100:80: connect: no route to host")

	p = w.open(t, cable, routes.IPv6, icmpTarget(dsl6), tcpTarget(dsl6, 80))
	p.refused(t, 0, "icmp://[2001:db8:ffaa:1::53]: 2001:db8:2::1 says unreachable")
	p.refused(t, 1, "tcp://[2001:db8:ffaa:1::53]:80: connect: network is unreachable")

	// The router itself cannot send. (Without a route it could: a socket that is
	// bound to an interface then takes every address for a neighbour's.)
	p = w.open(t, cable, routes.IPv4, icmpTarget(lab.InternetAddress), tcpTarget(lab.InternetAddress, 80), gatewayTarget)
	if err := w.Router.Down(cable.Interface); err != nil {
		t.Fatal(err)
	}
	p.refused(t, 0, "icmp://198.51.100.1: sending to 198.51.100.1: network is unreachable")
	p.refused(t, 1, "tcp://198.51.100.1:80: connect: network is unreachable")
	p.refused(t, 2, "gateway: asking for gateway 24.19.12.1: network is down")
}

// Errors about probes that were not sent so are ignored.
func TestForgedErrorsAreIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	dsl := w.Uplinks[0]
	if err := dsl.Provider.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	forged := 0
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			addr := internet(family)
			p := w.open(t, dsl, family, icmpTarget(addr))
			attacker, router := listen(t, dsl), w.path(t, dsl, family).Gateway
			header, source, target := header4, sourceAt4+3, targetAt4+3
			if family == routes.IPv6 {
				header, source, target = header6, sourceAt6+15, targetAt6+15
			}
			for _, c := range []struct {
				name   string
				unseen bool
				change func(quoted *[]byte)
			}{
				{"another id", true, func(b *[]byte) { (*b)[header+4] ^= 1 }},
				{"another sequence number", false, func(b *[]byte) { (*b)[header+7] ^= 1 }},
				{"another nonce", false, func(b *[]byte) { (*b)[header+8] ^= 1 }},
				{"half of another nonce", false, func(b *[]byte) { (*b)[header+8] ^= 1; *b = (*b)[:header+16] }},
				{"from another source", false, func(b *[]byte) { (*b)[source] ^= 1 }},
				{"to another target", false, func(b *[]byte) { (*b)[target] ^= 1 }},
				{"about a reply", true, func(b *[]byte) { (*b)[header] = 0 }},
				{"too short", true, func(b *[]byte) { *b = (*b)[:header+4] }},
			} {
				ignored := p.Ignored()
				token := p.send(0, patience)
				ping := attacker.nextPing(t)
				attacker.send(t, ping.unreachable(router, c.change))
				forged++
				if !c.unseen {
					p.ignoring(t, ignored+1)
				}
				p.quiet(t)
				attacker.send(t, ping.reply(func(_, _ *netip.Addr, _ *[]byte) {}))
				if r := p.wait(t, token); r.Err != nil {
					t.Errorf("%s: the answer after it: %v", c.name, r.Err)
				}
				if c.unseen && p.Ignored() != ignored {
					t.Errorf("%s: counted", c.name)
				}
			}
			for name, change := range map[string]func(*[]byte){
				"all of it": func(*[]byte) {},
				"8 bytes":   func(b *[]byte) { *b = (*b)[:header+8] },
			} {
				token := p.send(0, patience)
				attacker.send(t, attacker.nextPing(t).unreachable(router, change))
				if r := p.wait(t, token); r.Err == nil {
					t.Errorf("%s quoted: not believed", name)
				}
			}
			p.quiet(t)
		})
	}
	t.Logf("%d forged errors: 0 believed", forged)
}

func TestTCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	for _, family := range families {
		addr := internet(family)
		p := w.open(t, w.Uplinks[1], family, tcpTarget(addr, lab.PortDiscard), tcpTarget(addr, 81))
		p.answered(t, 0)
		p.refused(t, 1, "tcp://"+text(addr)+":81: connect: connection refused")
	}
	// The connections were reset, so neither side keeps them.
	for _, ns := range []*lab.NS{w.Router, w.Internet} {
		eventually(t, func() error { return noTimeWait(ns) })
	}
}

// A point to point uplink has no gateway that could be asked.
func TestNoGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	path := w.path(t, w.Uplinks[0], routes.IPv4)
	path.Gateway = netip.Addr{}
	p := w.openPath(t, "dsl", routes.IPv4, path, config.Target{Text: "gateway", Scheme: config.GatewayTarget})
	p.refused(t, 0, "gateway: "+errPointToPoint.Error())
}

// noTimeWait says whether a namespace remembers connections that have ended.
func noTimeWait(ns *lab.NS) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var found []*netlink.Socket
		err := ns.Do(func() (err error) {
			found, err = netlink.SocketDiagTCP(family)
			return err
		})
		if err != nil {
			return err
		}
		for _, s := range found {
			if s.State == netlink.TCP_TIME_WAIT {
				return fmt.Errorf("%s keeps %v", ns.Name, s.ID)
			}
		}
	}
	return nil
}
