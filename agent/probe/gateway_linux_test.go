package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/routes"
	"multiroute/test/lab"
)

// gatewayTarget asks for the gateway.
var gatewayTarget = config.Target{Text: "gateway", Scheme: config.GatewayTarget}

func TestGatewayAnswers(t *testing.T) {
	t.Parallel()
	for _, build := range []func(lab.Options) (*lab.Topology, error){lab.NewRouter, lab.NewSingleNIC} {
		w := newWorld(t, build, lab.Options{})
		for _, u := range w.Uplinks {
			for _, family := range families {
				p := w.open(t, u, family, gatewayTarget)
				for range 5 {
					p.answered(t, 0)
				}
				p.quiet(t)
			}
		}
		if err := w.Leaks(); err != nil {
			t.Error(err)
		}
	}
}

// A gateway whose probes are the only ones that nothing random protects: what
// can be checked is.
func TestForgedGatewayAnswersAreIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	dsl := w.Uplinks[0]
	customer := dsl.Provider.NS

	t.Run("arp", func(t *testing.T) {
		if err := customer.Sysctl("net/ipv4/conf/customer/arp_ignore", "8"); err != nil { // says nothing more
			t.Fatal(err)
		}
		p := w.open(t, dsl, routes.IPv4, gatewayTarget)
		attacker := listen(t, dsl)
		question := func(f frame) bool {
			return f.protocol == networkARP && len(f.packet) >= lengthARP && f.packet[7] == requestARP
		}
		answer := func(f frame, change func(*frame)) frame {
			b := append([]byte(nil), f.packet[:lengthARP]...)
			copy(b[8:18], f.packet[18:28])
			copy(b[18:28], f.packet[8:18])
			b[7] = replyARP
			r := frame{f.protocol, f.mac, b}
			change(&r)
			return r
		}
		forgeries(t, p, attacker, question, answer, []forgery{
			{"a question", true, func(f *frame) { f.packet[7] = requestARP }},
			{"from another address", true, func(f *frame) { f.packet[17] ^= 1 }},
			{"to another address", false, func(f *frame) { f.packet[27] ^= 1 }},
			{"to another MAC address", false, func(f *frame) { f.packet[23] ^= 1 }},
			{"to all", false, func(f *frame) { f.mac = [8]byte{255, 255, 255, 255, 255, 255} }},
			{"Token Ring", false, func(f *frame) { f.packet[1] = 6 }},
		})
	})
	t.Run("nd", func(t *testing.T) {
		if err := customer.DelAddr("customer", netip.PrefixFrom(dsl.Gateway6, 64)); err != nil {
			t.Fatal(err)
		}
		p := w.open(t, dsl, routes.IPv6, gatewayTarget)
		attacker := listen(t, dsl)
		question := func(f frame) bool {
			return len(f.packet) >= header6+lengthND && f.packet[0]>>4 == 6 && f.packet[6] == unix.IPPROTO_ICMPV6 && f.packet[header6] == neighbourAsk6 &&
				netip.AddrFrom16([16]byte(f.packet[header6+8:])) == dsl.Gateway6 && f.packet[targetAt6] == 0xff
		}
		advertise := func(to, about netip.Addr, flags byte) []byte {
			return ipPacket(dsl.Gateway6, to, append([]byte{neighbourReply6, 0, 0, 0, flags, 0, 0, 0}, about.AsSlice()...))
		}
		asker := func(f frame) netip.Addr { return netip.AddrFrom16([16]byte(f.packet[sourceAt6:])) }
		var us netip.Addr
		answer := func(f frame, change func(*frame)) frame {
			us = asker(f)
			r := frame{f.protocol, f.mac, advertise(us, dsl.Gateway6, 0xe0)}
			change(&r)
			return r
		}
		forgeries(t, p, attacker, question, answer, []forgery{
			{"unasked", false, func(f *frame) { f.packet = advertise(us, dsl.Gateway6, 0xa0) }},
			{"from afar", false, func(f *frame) { f.packet[7] = 64 }},
			{"about another address", true, func(f *frame) { f.packet = advertise(us, dsl.Gateway6.Next(), 0xe0) }},
			{"to all", false, func(f *frame) {
				f.packet = advertise(netip.IPv6LinkLocalAllNodes(), dsl.Gateway6, 0xe0)
				f.mac = [8]byte{0x33, 0x33, 0, 0, 0, 1}
			}},
		})
	})
}

// forgery is a wrong answer of a gateway.
type forgery struct {
	name   string
	unseen bool // the kernel drops it before anybody counts
	change func(*frame)
}

// forgeries sends wrong answers, early ones and repeated ones.
func forgeries(t *testing.T, p *client, attacker *line, question func(frame) bool, answer func(frame, func(*frame)) frame, list []forgery) {
	t.Helper()
	same := func(*frame) {}
	forged := 0
	for _, c := range list {
		ignored := p.Ignored()
		token := p.send(0, patience)
		asked := attacker.next(t, question)
		attacker.send(t, answer(asked, c.change))
		forged++
		if !c.unseen {
			p.ignoring(t, ignored+1)
		}
		p.quiet(t)
		attacker.send(t, answer(asked, same))
		if r := p.wait(t, token); r.Err != nil {
			t.Errorf("%s: the right answer after it: %v", c.name, r.Err)
		}
		if c.unseen && p.Ignored() != ignored {
			t.Errorf("%s: counted", c.name)
		}
		ignored = p.Ignored()
		attacker.send(t, answer(asked, same)) // repeated, and before the next question
		forged++
		p.ignoring(t, ignored+1)
		p.quiet(t)
	}
	t.Logf("%d forged, early, repeated answers: 0 believed", forged)
}
