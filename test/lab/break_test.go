//go:build linux

package lab

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// works says what of an uplink works: an echo, a connection, a question to the echo port. It has time for what is to work.
func works(t testing.TB, lab *Topology, u *Uplink, to netip.Addr, toICMP, toTCP, toUDP bool) (icmp, tcp, udp bool) {
	t.Helper()
	icmp = reachesIn(t, lab.Router, u, to, enough(toICMP))
	ctx, cancel := context.WithTimeout(t.Context(), enough(toTCP))
	defer cancel()
	s := Socket{Device: u.Interface}
	if c, err := lab.Router.DialTCP(ctx, s, netip.AddrPortFrom(to, PortTCP)); err == nil {
		tcp = true
		c.Close()
	}
	c, err := lab.Router.DialUDP(s, netip.AddrPortFrom(to, PortEcho))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(enough(toUDP))))
	_, err = c.Write([]byte("?"))
	must(t, err)
	_, err = c.Read(make([]byte, 100))
	return icmp, tcp, err == nil
}

func TestBreak(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	for _, c := range []struct {
		name           string
		faults         []Fault
		icmp, tcp, udp [2]bool // of two addresses
	}{
		{"nothing", nil, [2]bool{true, true}, [2]bool{true, true}, [2]bool{true, true}},
		{"all", []Fault{{}}, [2]bool{}, [2]bool{}, [2]bool{}},
		{"ICMP", []Fault{{Protocol: unix.IPPROTO_ICMP}}, [2]bool{}, [2]bool{true, true}, [2]bool{true, true}},
		{"TCP there", []Fault{{Protocol: unix.IPPROTO_TCP, Way: FromCustomer}}, [2]bool{true, true}, [2]bool{}, [2]bool{true, true}},
		{"UDP back", []Fault{{Protocol: unix.IPPROTO_UDP, Way: ToCustomer}}, [2]bool{true, true}, [2]bool{true, true}, [2]bool{}},
		{"one port", []Fault{{Protocol: unix.IPPROTO_UDP, Port: PortEcho}}, [2]bool{true, true}, [2]bool{true, true}, [2]bool{}},
		{"another port", []Fault{{Protocol: unix.IPPROTO_UDP, Port: PortDNS}}, [2]bool{true, true}, [2]bool{true, true}, [2]bool{true, true}},
		{"one target", []Fault{{Far: Targets[0]}, {Far: Targets6[0]}}, [2]bool{false, true}, [2]bool{false, true}, [2]bool{false, true}},
	} {
		must(t, u.Provider.Break(c.faults...))
		for _, pair := range [][]netip.Addr{Targets, Targets6} {
			for i, to := range pair[:2] {
				icmp, tcp, udp := works(t, lab, u, to, c.icmp[i], c.tcp[i], c.udp[i])
				if icmp != c.icmp[i] || tcp != c.tcp[i] || udp != c.udp[i] {
					t.Errorf("%s, %s: ICMP %v TCP %v UDP %v", c.name, to, icmp, tcp, udp)
				}
			}
		}
		if !reachesIn(t, lab.Router, u, u.Gateway, patience) {
			t.Errorf("%s: the gateway does not answer", c.name)
		}
	}
	must(t, u.Provider.Break(Fault{Percent: 10}))
	for _, to := range []netip.Addr{InternetAddress, InternetAddress6} {
		stream, err := StartUDP(t.Context(), lab.Router, Socket{Device: u.Interface}, netip.AddrPortFrom(to, 0), 200*time.Microsecond)
		must(t, err)
		until(t, "sending", func() bool { return stream.Report().Sent > 3000 })
		if r := stream.Stop(); r.Lost() < r.Sent/8 || r.Lost() > r.Sent/3 { // both ways: 19 %
			t.Errorf("10 percent: %v", r)
		}
	}
	must(t, lab.Leaks())
}

// TestGaps shows that an outage has the same length for a stream and for new connections, and that half of the connections are enough.
func TestGaps(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{Uplinks: 2})
	sick, well := lab.Uplinks[0], lab.Uplinks[1]
	stream, err := StartUDP(t.Context(), lab.Router, Socket{Device: sick.Interface}, netip.AddrPortFrom(InternetAddress, 0), 0)
	must(t, err)
	var mu sync.Mutex
	var begun []time.Time // dials by the one that will be sick
	dials := StartDials(t.Context(), lab.Router, 2*time.Millisecond, 100*time.Millisecond, func(i int) (Socket, netip.AddrPort) {
		if i%2 == 0 {
			mu.Lock()
			begun = append(begun, time.Now())
			mu.Unlock()
		}
		return Socket{Device: []string{sick.Interface, well.Interface}[i%2]}, netip.AddrPortFrom(InternetAddress, PortTCP)
	})
	until(t, "traffic", func() bool { return stream.Report().Received > 50 && dials.Report().Dials > 50 })
	until(t, "all is answered but what is on its way", func() bool { return stream.Report().Lost() <= 20 })
	if d := dials.Report(); d.Failed > 0 || d.Gap != 0 {
		t.Errorf("before: %v", d)
	}
	must(t, sick.Provider.Blackhole(true)) // takes effect at once, unlike Break, whose transaction may end late
	begin := time.Now()
	until(t, "300 ms", func() bool { return time.Since(begin) > 300*time.Millisecond })
	end := time.Now()
	must(t, sick.Provider.Blackhole(false))
	dead := time.Since(begin)
	received := stream.Report().Received
	until(t, "recovery", func() bool { return stream.Report().Received > received+200 })
	r, d := stream.Stop(), dials.Stop()
	for what, gap := range map[string]struct{ is, least time.Duration }{
		"stream": {r.Gap, longest(stream.sent, begin, end)}, "dials": {d.Gap, longest(begun, begin, end)},
	} {
		if gap.is < gap.least-50*time.Millisecond || gap.is > dead+300*time.Millisecond {
			t.Errorf("%s: gap of %v instead of %v to %v (%v; %v)", what, gap.is, gap.least, dead, r, d)
		}
	}
}

// longest is how long there were moments between begin and end with less than dialPause from one to the next: a computer that is too busy to send
// all the time does not see all of a gap.
func longest(moments []time.Time, begin, end time.Time) time.Duration {
	var most time.Duration
	var first, last time.Time
	for _, at := range moments {
		if at.Before(begin) || at.After(end) {
			continue
		}
		if first.IsZero() || at.Sub(last) > dialPause {
			first = at
		}
		last = at
		most = max(most, last.Sub(first))
	}
	return most
}

func TestVanish(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewSingleNIC, Options{Apart: true})
	u, other, apart := lab.Uplinks[0], lab.Uplinks[1], lab.Uplinks[2]
	device := func(u *Uplink) Socket {
		return Socket{Device: u.Interface, Local: netip.AddrPortFrom(u.Address.Addr(), 0)}
	}
	answersIn := func(u *Uplink, d time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		_, err := Ping(ctx, lab.Router, device(u), u.Gateway)
		return err == nil
	}
	answers, silent := func(u *Uplink) bool { return answersIn(u, patience) }, func(u *Uplink) bool { return !answersIn(u, enough(false)) }
	must(t, u.Vanish(true))
	if !silent(u) || !answers(other) || !answers(apart) {
		t.Error("the wrong ones answer")
	}
	must(t, u.Vanish(false))
	until(t, "the gateway's return", func() bool { return !silent(u) })
	if err := apart.Vanish(true); err == nil {
		t.Error("a cable of its own can vanish")
	}
	must(t, u.Carrier(false))
	if !silent(u) || !silent(other) || !answers(apart) {
		t.Error("carrier: the wrong ones answer")
	}
	must(t, u.Carrier(true))
	must(t, apart.Exchange(net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	if !silent(apart) {
		t.Error("the old MAC address still works")
	}
}

func TestPortal(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	client := http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
			return lab.Router.DialTCP(ctx, Socket{Device: u.Interface}, netip.MustParseAddrPort(to))
		}},
	}
	get := func(url string) (int, string) {
		t.Helper()
		response, err := client.Get(url)
		must(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		must(t, err)
		return response.StatusCode, string(body)
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return lab.Router.DialUDP(Socket{Device: u.Interface}, netip.AddrPortFrom(Targets[1], PortDNS))
	}}
	for _, url := range []string{"http://198.51.100.1:8080/generate_204", "http://[2001:db8:ffff::1]:8080/generate_204"} {
		if status, _ := get(url); status != http.StatusNoContent {
			t.Errorf("outside: %d", status)
		}
	}
	portal, err := u.Provider.Portal()
	must(t, err)
	for _, url := range []string{"http://198.51.100.1:8080/generate_204", "http://198.51.100.7/", "http://[2001:db8:ffff::1]:8080/"} {
		if status, _ := get(url); status != http.StatusFound {
			t.Errorf("%s: %d", url, status)
		}
	}
	portal.Server.Answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "please log in") })
	if status, body := get("http://198.51.100.1:8080/"); status != http.StatusOK || !strings.Contains(body, "log in") {
		t.Errorf("%d %q", status, body)
	}
	if got, err := resolver.LookupNetIP(t.Context(), "ip4", "anything.example."); err != nil || len(got) != 1 || got[0].Unmap() != u.Gateway {
		t.Errorf("%v, %v", got, err)
	}
	if !reachesIn(t, lab.Router, u, InternetAddress, patience) {
		t.Error("the rest is not forwarded")
	}
	must(t, portal.Close())
	if status, _ := get("http://198.51.100.1:8080/generate_204"); status != http.StatusNoContent {
		t.Errorf("outside again: %d", status)
	}
}

// TestLiar: what the attacker sends arrives, in both families, with right checksums.
func TestLiar(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	liar, err := u.Provider.StartLiar()
	must(t, err)
	defer liar.Close()
	for _, to := range []netip.Addr{InternetAddress, InternetAddress6} {
		if !reachesIn(t, lab.Router, u, to, patience) {
			t.Errorf("%s does not answer", to)
		}
	}
	must(t, u.Provider.Break(Fault{}))
	liar.Lie()
	received := func() (n string) {
		must(t, lab.Router.Do(func() error {
			b, err := readSNMP()
			n = b
			return err
		}))
		return n
	}
	before := received()
	for _, to := range []netip.Addr{InternetAddress, InternetAddress6} {
		was := liar.Lies()
		if !reachesIn(t, lab.Router, u, to, patience) { // Ping does not look at the last byte
			t.Errorf("no lie about %s arrives", to)
		}
		until(t, "all kinds of lies", func() bool { return liar.Lies() >= was+6 })
	}
	if after := received(); after == before || strings.Contains(after, "errors") {
		t.Errorf("the kernel received %q, then %q", before, after)
	}
}
