//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// phone is a client with a registration at one address of the internet, and
// calls whose sound goes to others.
type phone struct {
	addr    netip.Addr
	streams []*lab.UDPStream // the first is the registration
}

// call adds a stream to where the i-th of them goes.
func (p *phone) call(ctx context.Context, h *house) {
	h.t.Helper()
	to := lab.InternetAddress
	if p.addr.Is6() {
		to = lab.InternetAddress6
	}
	b := to.AsSlice()
	b[len(b)-1] += byte(20 * len(p.streams))
	to, _ = netip.AddrFromSlice(b)
	s, err := lab.StartUDP(ctx, h.Client(), lab.Socket{Local: netip.AddrPortFrom(p.addr, 0)}, netip.AddrPortFrom(to, 0), 10*time.Millisecond)
	must(h.t, err)
	p.streams = append(p.streams, s)
}

// on reports whether everything of a phone is on an uplink now.
func (p *phone) on(h *house, u *lab.Uplink) bool {
	return !slices.ContainsFunc(p.streams, func(s *lab.UDPStream) bool { return !nowFrom(s, u, h.others(u)...) })
}

// left returns how far apart the streams of a phone left an uplink for the last
// time.
func (p *phone) left(u *lab.Uplink) time.Duration {
	var first, last time.Time
	for _, s := range p.streams {
		at := s.Last(addressOf(u, p.addr.Is6()))
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return last.Sub(first)
}

// TestCall: signalling and sound of a phone are on one uplink, before a failover,
// after it, and after the better tier is back (fault 44). Nothing of them is ever
// on an uplink that is not of their policy.
func TestCall(t *testing.T) {
	for _, failback := range []string{"all", "new"} {
		t.Run(failback, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 3, ClientAddresses: 3})
			never, better, worse := h.Uplinks[0], h.Uplinks[1], h.Uplinks[2]
			var phones []*phone
			from := ""
			for i := range 3 {
				four, six := lab.ClientAddress(i)
				phones = append(phones, &phone{addr: four}, &phone{addr: six})
				from += fmt.Sprintf("%q, %q, ", four, six)
			}
			h.start(ctx, rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n",
				fmt.Sprintf("[policy.default]\ntiers = [[%q]]\n[policy.voice]\ntiers = [[%q], [%q]]\nfailback = %q\n[[rule]]\nfrom = [%s]\nprotocol = \"udp\"\npolicy = \"voice\"\n",
					never.Name, better.Name, worse.Name, failback, from)))
			h.allUp(ctx, 5*time.Second)
			calls := func() {
				for _, p := range phones {
					p.call(ctx, h)
				}
			}
			all := func(what string, u *lab.Uplink) {
				h.until(5*time.Second, what+": everything of each phone is on "+u.Name, func() bool {
					return !slices.ContainsFunc(phones, func(p *phone) bool { return !p.on(h, u) })
				})
			}
			together := func(what string, u *lab.Uplink) {
				for _, p := range phones {
					d := p.left(u)
					t.Logf("%s: the streams of %v left %s within %.0f ms", what, p.addr, u.Name, ms(d))
					if d > time.Second {
						t.Errorf("%s: the streams of %v left %s with %v in between", what, p.addr, u.Name, d)
					}
				}
			}
			calls() // registrations
			calls()
			all("at first", better)
			must(t, better.Provider.Blackhole(true))
			all("failover", worse)
			together("failover", better)
			h.becomes(ctx, better, api.Down, time.Second)
			calls()
			all("a call begins after the failover", worse)

			must(t, better.Provider.Blackhole(false))
			h.becomes(ctx, better, api.Up, 5*time.Second)
			if failback == "new" { // what has begun stays where it is
				passes(ctx, 500*time.Millisecond)
				all("failback", worse)
			} else {
				all("failback", better)
				together("failback", worse)
				calls()
				all("a call begins after the failback", better)
			}
			for _, p := range phones {
				for _, s := range p.streams {
					if r := s.Stop(); slices.Contains(r.Addresses(), addressOf(never, p.addr.Is6())) {
						t.Errorf("a stream of %v was on %s: %v", p.addr, never.Name, r)
					}
				}
			}
			h.unchanged()
		})
	}
}
