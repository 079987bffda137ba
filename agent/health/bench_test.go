package health

import (
	"net/netip"
	"testing"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
)

// BenchmarkMinute is a minute of 16 uplinks with two families each.
func BenchmarkMinute(b *testing.B) {
	h := settings(3)
	for i := range h.Targets {
		a := netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 15: byte(i)})
		h.Targets6 = append(h.Targets6, config.Target{Addr: a, Host: a.String()})
	}
	s := newSim(1)
	for i := range 16 {
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			u := s.add(string(rune('a'+i)), h, steady(rtt))
			u.leg.Family = f
		}
	}
	b.ReportAllocs()
	var out []probe
	var answers []Result
	var from []*judge
	for b.Loop() {
		for end := s.now.Add(time.Minute); s.now.Before(end); {
			next := end
			for _, u := range s.legs {
				next = earlier(next, u.due())
			}
			s.now = next
			for _, u := range s.legs {
				out = u.tick(s.now, out[:0])
				for _, p := range out {
					answers, from = append(answers, Result{Token: p.token, RTT: rtt}), append(from, u.judge)
				}
			}
			s.group.settle(s.now)
			for i, r := range answers {
				from[i].result(s.now, r)
			}
			answers, from = answers[:0], from[:0]
		}
	}
}
