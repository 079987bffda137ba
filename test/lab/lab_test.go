//go:build linux

package lab

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(helperEnv); role != "" {
		os.Exit(helper(role))
	}
	os.Exit(Main(m.Run))
}

// plain builds a router that forwards without NAT by main's default routes: everything it forwards leaks.
func plain(t testing.TB, build func(Options) (*Topology, error), o Options) *Topology {
	t.Helper()
	o.Forward, o.DefaultRoutes = true, true
	start := time.Now()
	lab := New(t, build, o)
	t.Logf("built in %v", time.Since(start))
	return lab
}

// returnPath lets answers to the LAN come back through the given provider, so that traffic without NAT works.
func returnPath(t testing.TB, lab *Topology, u *Uplink) {
	t.Helper()
	here, _ := u.Provider.transfer()
	for i, prefix := range []netip.Prefix{LANAddress.Masked(), LANAddress6.Masked()} {
		via := []netip.Addr{u.Address.Addr(), u.Address6.Addr()}[i]
		if err := u.Provider.NS.AddRoute(Route{Dst: prefix, Gateway: via}); err != nil {
			t.Fatal(err)
		}
		if err := lab.Internet.AddRoute(Route{Dst: prefix, Gateway: here[i].Addr()}); err != nil {
			t.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRouterOwnTraffic(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(Options) (*Topology, error){"router": NewRouter, "single": NewSingleNIC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := plain(t, build, Options{})
			for i, u := range lab.Uplinks {
				for _, target := range []netip.Addr{InternetAddress, InternetAddress6, u.DNS, u.DNS6} {
					// The routes of the other uplinks are preferred unless they are away.
					for _, other := range lab.Uplinks[:i] {
						_ = lab.Router.DelRoute(other.defaultRoute())
						_ = other.defaultRoute6(lab.Router.DelRoute)
					}
					want := u.Address.Addr()
					if target.Is6() {
						want = u.Address6.Addr()
					}
					// On a shared NIC, the kernel's choice of an IPv6 source ignores the gateway.
					r := Spread(t.Context(), lab.Router, 3, To(netip.AddrPortFrom(target, PortTCP)).From(want))
					if r.Sources[want] != 3 {
						t.Errorf("%s to %s: %v, want all from %s", u.Name, target, r, want)
					}
				}
				if n, err := u.Provider.Packets(); n < 12 || err != nil {
					t.Errorf("%s: %d packets, %v", u.Name, n, err)
				}
			}
			must(t, lab.Leaks())
		})
	}
}

func TestLeaksAreCounted(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(Options) (*Topology, error){"router": NewRouter, "single": NewSingleNIC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := plain(t, build, Options{})
			first := lab.Uplinks[0]
			returnPath(t, lab, first)
			for _, to := range []Target{Everywhere, Everywhere6} {
				before, _, err := first.Provider.Leaks()
				must(t, err)
				r := Spread(t.Context(), lab.Client(), 4, to)
				if r.Errors > 0 {
					t.Error(r)
				}
				after, samples, err := first.Provider.Leaks()
				must(t, err)
				if after-before < 4*4 || len(samples) == 0 {
					t.Errorf("%d leaks, samples %v", after-before, samples)
				}
			}
			if n, _, _ := lab.Uplinks[1].Provider.Leaks(); n != 0 {
				t.Errorf("the other provider counted %d leaks", n)
			}
			if lab.Leaks() == nil {
				t.Error("Topology.Leaks is silent")
			}
			must(t, first.Provider.Allow(LANAddress.Masked(), LANAddress6.Masked()))
			before, _, _ := first.Provider.Leaks()
			_ = Spread(t.Context(), lab.Client(), 4, Everywhere)
			if after, _, _ := first.Provider.Leaks(); after != before {
				t.Errorf("%d leaks from an allowed prefix", after-before)
			}
			// The address of another uplink is a leak, too.
			other := lab.Uplinks[1]
			must(t, lab.Router.AddRoute(Route{Dst: netip.MustParsePrefix("198.51.100.77/32"), Gateway: first.Gateway, Interface: first.Interface}))
			to := To(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.77"), PortTCP)).From(other.Address.Addr())
			if r := Spread(t.Context(), lab.Router, 1, to); r.Errors > 0 {
				t.Error(r)
			}
			after, _, _ := first.Provider.Leaks()
			if after == before {
				t.Error("a packet with another uplink's address was not counted")
			}
			must(t, first.Provider.Refuse(host(other.Address.Addr())))
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if r := Spread(ctx, lab.Router, 1, to); r.Errors != 1 {
				t.Errorf("a refused source was served: %v", r)
			}
			if again, _, _ := first.Provider.Leaks(); again != after {
				t.Errorf("%d leaks from a refused source", again-after)
			}
		})
	}
}

func TestExclusiveAddresses(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	dsl, cable := lab.Uplinks[0], lab.Uplinks[1]
	for _, only := range []netip.Addr{cable.DNS, cable.DNS6, cable.Private} {
		start := time.Now()
		r := Spread(t.Context(), lab.Router, 1, To(netip.AddrPortFrom(only, PortTCP)))
		t.Logf("%v after %v", r, time.Since(start))
		if r.Errors != 1 {
			t.Errorf("%s answers through %s: %v", only, dsl.Name, r)
		}
	}
}

func TestManyUplinks(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{Uplinks: MaxUplinks, Clients: 3, ClientAddresses: 5})
	last := lab.Uplinks[MaxUplinks-1]
	for _, u := range lab.Uplinks[:MaxUplinks-1] {
		must(t, lab.Router.DelRoute(u.defaultRoute()))
	}
	r := Spread(t.Context(), lab.Router, 2, Everywhere)
	if r.Sources[last.Address.Addr()] != 2 {
		t.Error(r)
	}
	v4, v6 := ClientAddress(14)
	for _, client := range lab.Clients {
		for _, to := range []netip.Addr{v4, v6} {
			s, err := lab.Clients[2].ListenTCP(Socket{Local: netip.AddrPortFrom(to, 0)})
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			c, err := client.DialTCP(ctx, Socket{}, s.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort())
			must(t, err)
			c.Close()
			s.Close()
			cancel()
		}
	}
}

// TestLeakFlood shows that counting loses nothing, though nobody reads the samples.
func TestLeakFlood(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	c, err := lab.Client().DialUDP(Socket{}, netip.AddrPortFrom(InternetAddress, PortDiscard))
	must(t, err)
	defer c.Close()
	const packets = 50000
	for range packets {
		writeAnyway(c, []byte("leak"))
	}
	received := func() uint64 {
		link, err := u.Provider.NS.Link(customerSide)
		must(t, err)
		return link.Attrs().Statistics.RxPackets
	}
	until(t, "arrival", func() bool { return received() > packets*9/10 })
	var leaks uint64
	until(t, "counting", func() bool {
		leaks, _, err = u.Provider.Leaks()
		must(t, err)
		return leaks+50 >= received() // ARP, neighbour discovery
	})
	if n, err := u.Provider.Packets(); n < leaks || err != nil {
		t.Errorf("%d packets, %d of them leaks, %v", n, leaks, err)
	}
}

func TestSysctlFollowsNamespace(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	must(t, lab.Router.Sysctl("net/ipv4/conf/eth1/rp_filter", "2"))
	if v, err := lab.Router.ReadSysctl("net/ipv4/conf/eth1/rp_filter"); v != "2" || err != nil {
		t.Error(v, err)
	}
	if err := lab.Client().Sysctl("net/ipv4/conf/eth1/rp_filter", "2"); err == nil {
		t.Error("the client has an eth1")
	}
}
