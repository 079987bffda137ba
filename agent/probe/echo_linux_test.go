package probe

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"multiroute/test/lab"
)

// Each uplink's probes leave by that uplink, although main's default is the
// first one's; also where the uplinks share their interface.
func TestProbesLeaveByTheirOwnUplink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		build func(lab.Options) (*lab.Topology, error)
	}{{"a NIC each", lab.NewRouter}, {"one NIC", lab.NewSingleNIC}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.build, lab.Options{})
			for _, u := range w.Uplinks {
				for _, family := range families {
					before := w.packets(t)
					addr := internet(family)
					p := w.open(t, u, family, icmpTarget(addr), tcpTarget(addr, lab.PortDiscard))
					const probes = 20
					for range probes {
						p.answered(t, 0)
						p.answered(t, 1)
					}
					p.quiet(t)
					for i, n := range w.packets(t) {
						n -= before[i]
						if own := w.Uplinks[i] == u; own && n < 3*probes || !own && n != 0 {
							t.Errorf("%s %s: %d packets left by %s", u.Name, family, n, w.Uplinks[i].Name)
						}
					}
					if p.Ignored() != 0 {
						t.Errorf("%s %s: %d right answers ignored", u.Name, family, p.Ignored())
					}
				}
			}
			if err := w.Leaks(); err != nil {
				t.Error(err)
			}
		})
	}
}

// packets returns what each provider has received.
func (w *world) packets(t *testing.T) []uint64 {
	t.Helper()
	var counts []uint64
	for _, u := range w.Uplinks {
		n, err := u.Provider.Packets()
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, n)
	}
	return counts
}

// Nobody who has not seen a probe can answer it; somebody who has can do it once.
func TestForgedEchoRepliesAreIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	dsl, cable := w.Uplinks[0], w.Uplinks[1]
	if err := dsl.Provider.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	forged, believed := 0, 0
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			addr := internet(family)
			other := addr.Next()
			p := w.open(t, dsl, family, icmpTarget(addr), icmpTarget(other))
			gateway := w.path(t, dsl, family).Gateway
			attacker, elsewhere := listen(t, dsl), listen(t, cable)
			// The MAC address of the router on the other uplink.
			w.open(t, cable, family, icmpTarget(addr)).answered(t, 0)
			behind := elsewhere.nextPing(t).mac

			type change = func(from, to *netip.Addr, icmp *[]byte)
			for _, c := range []struct {
				name   string
				unseen bool // the kernel drops it before anybody counts
				change change
			}{
				{"another id", true, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[4] ^= 1 }},
				{"another sequence number", false, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[7] ^= 1 }},
				{"a sequence number 64 before", false, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[7] -= maxOutstanding }},
				{"another first bit", false, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[8] ^= 0x80 }},
				{"another last bit", false, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[23] ^= 1 }},
				{"zeros", false, func(_, _ *netip.Addr, icmp *[]byte) { clear((*icmp)[8:]) }},
				{"no nonce", false, func(_, _ *netip.Addr, icmp *[]byte) { *icmp = (*icmp)[:8] }},
				{"a shorter nonce", false, func(_, _ *netip.Addr, icmp *[]byte) { *icmp = (*icmp)[:22] }},
				{"more than the nonce", false, func(_, _ *netip.Addr, icmp *[]byte) { *icmp = append(*icmp, 0, 0) }},
				{"a code", true, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[1] = 1 }},
				{"from another target", false, func(from, _ *netip.Addr, _ *[]byte) { *from = other }},
				{"from the gateway", false, func(from, _ *netip.Addr, _ *[]byte) { *from = gateway }},
				{"to another address", true, func(_, to *netip.Addr, _ *[]byte) { *to = w.path(t, cable, family).Source }},
				{"a request", true, func(_, _ *netip.Addr, icmp *[]byte) { (*icmp)[0] = appendEcho(nil, family, 0, 0, nonce{})[0] }},
			} {
				ignored := p.Ignored()
				token := p.send(0, patience)
				ping := attacker.nextPing(t)
				attacker.send(t, ping.reply(c.change))
				forged++
				if !c.unseen {
					p.ignoring(t, ignored+1)
				}
				p.quiet(t)
				attacker.send(t, ping.reply(func(_, _ *netip.Addr, _ *[]byte) {}))
				if r := p.wait(t, token); r.Err != nil {
					t.Errorf("%s: the right answer after it: %v", c.name, r.Err)
				}
				if c.unseen && p.Ignored() != ignored {
					t.Errorf("%s: woke us", c.name)
				}
			}

			same := func(_, _ *netip.Addr, _ *[]byte) {}
			right := func() (uint64, ping) { token := p.send(0, patience); return token, attacker.nextPing(t) }

			// On the wrong interface.
			token, ping := right()
			f := ping.reply(same)
			f.mac = behind
			elsewhere.send(t, f)
			forged++
			attacker.send(t, ping.reply(same))
			p.wait(t, token)

			// Repeated.
			ignored := p.Ignored()
			for range 10 {
				attacker.send(t, ping.reply(same))
				forged++
			}
			p.ignoring(t, ignored+10)

			// Early: all sequence numbers that come next, before they are sent.
			ignored = p.Ignored()
			for i := range maxOutstanding {
				attacker.send(t, ping.reply(func(_, _ *netip.Addr, icmp *[]byte) {
					binary.BigEndian.PutUint16((*icmp)[6:], binary.BigEndian.Uint16(ping.icmp[6:])+1+uint16(i))
				}))
				forged++
			}
			p.ignoring(t, ignored+maxOutstanding)
			token, ping = right()
			p.quiet(t)
			attacker.send(t, ping.reply(same))
			p.wait(t, token)

			// Late.
			ignored = p.Ignored()
			p.send(0, time.Millisecond)
			ping = attacker.nextPing(t)
			<-time.After(2 * time.Millisecond)
			attacker.send(t, ping.reply(same))
			forged++
			p.ignoring(t, ignored+1)

			// Of a probe that was forgotten.
			ignored = p.Ignored()
			p.send(0, patience)
			ping = attacker.nextPing(t)
			for range maxOutstanding {
				p.send(1, patience)
			}
			attacker.send(t, ping.reply(same))
			forged++
			p.ignoring(t, ignored+1)
			for len(p.results) > 0 {
				<-p.results
				believed++
			}
		})
	}
	t.Logf("%d forged, early, repeated, late echo replies: %d believed", forged, believed)
	if believed > 0 {
		t.Errorf("%d of them were believed", believed)
	}
}
