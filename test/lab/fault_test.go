//go:build linux

package lab

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// enough is how long to wait for an answer: one that has to come has time on a busy computer.
func enough(comes bool) time.Duration {
	if comes {
		return patience
	}
	return 200 * time.Millisecond
}

// reaches says whether the router reaches an address through a device, for who asks again or expects no answer.
func reaches(t testing.TB, ns *NS, u *Uplink, to netip.Addr) bool {
	t.Helper()
	return reachesIn(t, ns, u, to, enough(false))
}

func reachesIn(t testing.TB, ns *NS, u *Uplink, to netip.Addr, d time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_, err := Ping(ctx, ns, Socket{Device: u.Interface}, to)
	return err == nil
}

func TestCarrier(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(Options) (*Topology, error){"router": NewRouter, "single": NewSingleNIC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := plain(t, build, Options{})
			u := lab.Uplinks[0]
			running := func() bool {
				l, err := lab.Router.Link(u.Interface)
				must(t, err)
				return l.Attrs().RawFlags&unix.IFF_RUNNING != 0
			}
			for range 3 {
				must(t, u.Carrier(false))
				until(t, "carrier loss", func() bool { return !running() })
				if reaches(t, lab.Router, u, InternetAddress) {
					t.Error("answers without a carrier")
				}
				must(t, u.Carrier(true))
				until(t, "carrier", running)
				for _, to := range []netip.Addr{InternetAddress, InternetAddress6} {
					until(t, "reaching "+to.String(), func() bool { return reaches(t, lab.Router, u, to) })
				}
			}
		})
	}
}

func TestUnplug(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	u := lab.Uplinks[0]
	link, err := lab.Router.Link(u.Interface)
	must(t, err)
	reaches(t, lab.Router, u, InternetAddress)
	before, err := u.Provider.Packets()
	must(t, err)
	must(t, u.Unplug())
	if _, err := lab.Router.Link(u.Interface); err == nil {
		t.Error("the interface is still there")
	}
	must(t, u.Plug())
	again, err := lab.Router.Link(u.Interface)
	must(t, err)
	if link.Attrs().Index == again.Attrs().Index {
		t.Error("the index is the same")
	}
	if !reachesIn(t, lab.Router, u, InternetAddress, patience) || !reachesIn(t, lab.Router, u, InternetAddress6, patience) {
		t.Error("unreachable")
	}
	if after, err := u.Provider.Packets(); after < before+2 || err != nil {
		t.Errorf("%d packets, then %d, %v", before, after, err)
	}
	must(t, lab.Leaks())
}

func TestRenumber(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(Options) (*Topology, error){"router": NewRouter, "single": NewSingleNIC} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := plain(t, build, Options{})
			u := lab.Uplinks[0]
			old := u.Address
			for _, next := range []struct{ address, gateway string }{{"142.154.64.99/24", u.Gateway.String()}, {"203.0.113.5/24", "203.0.113.1"}} {
				if name == "single" && next.gateway != "203.0.113.1" {
					continue
				}
				must(t, u.Renumber(netip.MustParsePrefix(next.address), netip.MustParseAddr(next.gateway)))
				r := Spread(t.Context(), lab.Router, 2, To(netip.AddrPortFrom(InternetAddress, PortTCP)).From(u.Address.Addr()))
				if r.Sources[u.Address.Addr()] != 2 {
					t.Error(r)
				}
			}
			must(t, lab.Leaks())
			must(t, lab.Router.AddAddr("lo", host(old.Addr())))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, _ = Ping(ctx, lab.Router, Socket{Local: netip.AddrPortFrom(old.Addr(), 0)}, InternetAddress)
			until(t, "the old address is a leak", func() bool { return lab.Leaks() != nil })
		})
	}
}

func TestLANOnNIC(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewSingleNIC, Options{LANOnNIC: true, Clients: 2})
	returnPath(t, lab, lab.Uplinks[0])
	for _, client := range lab.Clients {
		if r := Spread(t.Context(), client, 2, Everywhere); r.Errors != 0 {
			t.Error(r)
		}
	}
	if lab.Leaks() == nil {
		t.Error("no leaks")
	}
}

func TestWires(t *testing.T) {
	t.Parallel()
	wires := map[int]WireKind{1: Line, 2: Line}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err == nil {
		f.Close()
		wires[2] = TUN
	} else {
		t.Run("TUN", func(t *testing.T) { t.Skip(err) })
	}
	lab := plain(t, NewRouter, Options{Uplinks: 3, Wires: wires})
	for _, u := range lab.Uplinks[:2] {
		for _, to := range []netip.Addr{u.DNS, u.DNS6} {
			if !reachesIn(t, lab.Router, u, to, patience) {
				t.Errorf("%s does not reach %s", u.Name, to)
			}
		}
		// Large packets, whose checksums and segments are left to the devices.
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		bulk, err := lab.Router.DialTCP(ctx, Socket{Device: u.Interface}, netip.AddrPortFrom(InternetAddress, PortDiscard))
		must(t, err)
		must(t, bulk.SetDeadline(time.Now().Add(patience)))
		_, err = bulk.Write(make([]byte, 8<<20))
		must(t, errors.Join(err, bulk.CloseWrite()))
		if _, err := bulk.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", u.Name, err)
		}
		bulk.Close()
		cancel()

		u.Wire().Delay(20 * time.Millisecond)
		ctx, cancel = context.WithTimeout(t.Context(), patience)
		if rtt, err := Ping(ctx, lab.Router, Socket{Device: u.Interface}, InternetAddress); rtt < 40*time.Millisecond || err != nil {
			t.Errorf("%s: %v, %v", u.Name, rtt, err)
		}
		cancel()
		u.Wire().Delay(0)
		u.Wire().Loss(0.5)
		stream, err := StartUDP(t.Context(), lab.Router, Socket{Device: u.Interface}, netip.AddrPortFrom(InternetAddress, 0), 0)
		must(t, err)
		until(t, "sending", func() bool { return stream.Report().Sent > 400 })
		if r := stream.Stop(); r.Lost() < r.Sent/2 || r.Lost() == r.Sent {
			t.Errorf("%s: %v", u.Name, r)
		}
		u.Wire().Loss(0)
		must(t, u.Carrier(false))
		until(t, "carrier loss", func() bool { return !reaches(t, lab.Router, u, InternetAddress) })
		must(t, u.Carrier(true))
		until(t, "carrier", func() bool { return reaches(t, lab.Router, u, InternetAddress) })
		must(t, u.Unplug())
		must(t, u.Plug())
		until(t, "plugging in again", func() bool { return reaches(t, lab.Router, u, InternetAddress) })
		if n, err := u.Provider.Packets(); n == 0 || err != nil {
			t.Errorf("%s: %d packets, %v", u.Name, n, err)
		}
	}
	must(t, lab.Leaks())
}
