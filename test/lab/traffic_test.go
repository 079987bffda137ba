//go:build linux

package lab

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// until polls a condition, as the lab's users do with what traffic reports.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// TestTrafficOracles shows that each client is content with a healthy network, and is not with a dead one.
func TestTrafficOracles(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	returnPath(t, lab, u)
	ctx, client := t.Context(), lab.Client()
	to := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.200"), 0)
	to6 := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:ffff::200"), 0)
	me, me6 := ClientAddress(0)

	streams, err := StartStreams(ctx, client, 5, Everywhere, StreamOptions{Interval: 10 * time.Millisecond, Timeout: time.Second})
	must(t, err)
	replaced, err := StartStreams(ctx, client, 5, Everywhere6, StreamOptions{Interval: 10 * time.Millisecond, Timeout: 500 * time.Millisecond, Replace: true})
	must(t, err)
	udp, err := StartUDP(ctx, client, Socket{}, to, 0)
	must(t, err)
	udp6, err := StartUDP(ctx, client, Socket{}, to6, 0)
	must(t, err)
	oneway, err := StartOneWay(ctx, client, Socket{}, to, 0)
	must(t, err)
	churn := StartChurn(ctx, client, 3, 2*time.Millisecond, Everywhere)

	until(t, "traffic", func() bool {
		return streams.Report().Pings > 50 && udp.Report().Received > 100 && udp6.Report().Received > 100 &&
			lab.Server.Flow(oneway.Flow).Received > 100 && churn.Report().Sources[me] > 20
	})
	if r := streams.Report(); r.Broken != 0 || r.Sources[me] != 5 {
		t.Error("streams:", r)
	}
	if r := churn.Report(); r.Failed != 0 {
		t.Error("churn:", r)
	}
	for _, stream := range []*UDPStream{udp, udp6} {
		until(t, "all is answered but what is on its way", func() bool { return stream.Report().Lost() <= 50 })
		if r := stream.Report(); len(r.Addresses()) != 1 || len(r.Sources) != 1 {
			t.Error("UDP:", r)
		}
	}
	if r := lab.Server.Flow(oneway.Flow); r.Lost != 0 || r.Outage > time.Second || len(r.Sources) != 1 || r.Addresses()[0] != me {
		t.Errorf("one way: %+v", r)
	}

	must(t, u.Provider.Blackhole(true))
	begin := time.Now()
	gateway, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := Ping(gateway, lab.Router, Socket{}, u.Gateway); err != nil {
		t.Error("the gateway of a black hole:", err)
	}
	far, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := Ping(far, lab.Router, Socket{}, InternetAddress); err == nil {
		t.Error("a black hole answers")
	}
	until(t, "breaking", func() bool { return streams.Report().Broken == 5 && replaced.Report().Broken == 5 })
	must(t, u.Provider.Blackhole(false))
	must(t, u.Provider.Blackhole(false))
	dead := time.Since(begin)
	before := udp.Report().Received
	until(t, "recovery", func() bool {
		return udp.Report().Received > before+100 && replaced.Report().Opened >= 10 && udp6.Report().Outage > dead/2
	})
	if r := replaced.Stop(); r.ByAddr[me6] != 5 || r.Slowest < 400*time.Millisecond {
		t.Error("replaced streams:", r)
	}
	if r := streams.Stop(); r.Opened != 5 || len(r.Samples) != 5 {
		t.Error("streams:", r)
	}
	if r := churn.Stop(); r.Outage < dead/2 {
		t.Error("churn:", r)
	}
	for _, r := range []UDPReport{udp.Stop(), udp6.Stop()} {
		if r.Outage < dead/2 || r.Outage > 2*dead || r.Lost() < int(dead/time.Millisecond)/2 {
			t.Error("UDP after", dead, r)
		}
	}
	sent := oneway.Stop()
	if r := lab.Server.Flow(oneway.Flow); r.Outage < dead/2 || r.Gap < dead/2 || r.Lost < int(dead/time.Millisecond)/2 || r.Received+r.Lost > sent {
		t.Errorf("one way after %v: %+v of %d", dead, r, sent)
	}
}

func TestFromOutside(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{Uplinks: 3})
	server, err := NewServer(lab.Router, 2222)
	must(t, err)
	defer server.Close()
	for _, u := range lab.Uplinks {
		before, err := u.Provider.Packets()
		must(t, err)
		for _, to := range []netip.Addr{u.Address.Addr(), u.Address6.Addr()} {
			from := netip.MustParseAddr("198.51.100.9")
			if to.Is6() {
				from = netip.MustParseAddr("2001:db8:ffff:1::9")
			}
			r := Spread(t.Context(), lab.Internet, 2, To(netip.AddrPortFrom(to, 2222)).From(from))
			if r.Sources[from] != 2 {
				t.Errorf("to %s: %v", to, r)
			}
		}
		after, err := u.Provider.Packets()
		must(t, err)
		// A plain router answers by its best default route, whatever way the question came.
		if answers := after > before; answers != (u.ID == 1) {
			t.Errorf("%s: %d packets", u.Name, after-before)
		}
	}
	if lab.Leaks() == nil {
		t.Error("answers by the wrong uplink are no leaks?")
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	dsl := lab.Uplinks[0]
	addr, addr6 := netip.MustParseAddr("198.51.100.5"), netip.MustParseAddr("2001:db8:ffff::5")
	lab.Server.Resolve("*.example.org", 7*time.Second, addr, addr6)
	for _, server := range []netip.Addr{dsl.DNS, dsl.DNS6} {
		resolver := net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
			return lab.Router.DialUDP(Socket{}, netip.AddrPortFrom(server, PortDNS))
		}}
		got, err := resolver.LookupNetIP(t.Context(), "ip", "www.example.org.")
		must(t, err)
		slices.SortFunc(got, netip.Addr.Compare)
		if len(got) != 2 || got[0].Unmap() != addr || got[1] != addr6 {
			t.Errorf("%s: %v", server, got)
		}
		if _, err := resolver.LookupNetIP(t.Context(), "ip", "no.such.name."); err == nil {
			t.Error("a name that does not exist")
		}
	}
	if n := lab.Server.Queries("www.example.org"); n != 4 {
		t.Errorf("%d queries", n)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
		return lab.Router.DialTCP(ctx, Socket{}, netip.MustParseAddrPort(to))
	}}}
	for _, u := range []string{"http://198.51.100.1:8080/", "http://[2001:db8:ffff::1]:8080/"} {
		response, err := client.Get(u)
		must(t, err)
		body, err := io.ReadAll(response.Body)
		must(t, err)
		response.Body.Close()
		from, err := netip.ParseAddrPort(strings.TrimSpace(string(body)))
		if err != nil || from.Addr() != dsl.Address.Addr() && from.Addr() != dsl.Address6.Addr() {
			t.Errorf("%s: %q", u, body)
		}
	}
}
