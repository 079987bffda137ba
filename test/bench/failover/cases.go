//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// benchCase is one way to die, or to live.
type benchCase struct {
	name    string
	measure func(context.Context, *bench, benchCase) ([]row, error)

	// For deaths:
	build         func(lab.Options) (*lab.Topology, error)
	options       lab.Options
	health        string        // the table [health]
	safe          []int         // uplinks that nothing may happen to
	families      []bool        // IPv6?
	bound, middle time.Duration // of the gaps
	prepare       func(*town) error
	kill, back    func(*town, *lab.Uplink) error
	settle        func(context.Context, *town) error
}

const (
	// quick lets uplinks that were down come back soon, so that a round is short. It has no part in how they die.
	quick  = "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n"
	normal = "[health]\nhold_down = \"0s\"\n"
)

// cases are all that is promised.
func cases(long bool) []benchCase {
	both := []bool{false, true}
	carrier := func(on bool) func(*town, *lab.Uplink) error {
		return func(_ *town, u *lab.Uplink) error { return u.Carrier(on) }
	}
	hole := func(on bool) func(*town, *lab.Uplink) error {
		return func(_ *town, u *lab.Uplink) error { return u.Provider.Blackhole(on) }
	}
	single := lab.Options{Apart: true}
	three := lab.Options{Uplinks: 3}
	all := []benchCase{
		{name: "carrier, one NIC each", build: lab.NewRouter, options: three, health: quick, safe: []int{0, 2}, families: both,
			bound: 10 * time.Millisecond, kill: carrier(false), back: carrier(true)},
		{name: "carrier, one NIC each, agent stopped", build: lab.NewRouter, options: three, health: quick, safe: []int{0, 2}, families: both,
			bound: 10 * time.Millisecond, kill: carrier(false), back: carrier(true),
			prepare: func(t *town) error { return t.agent.Signal(unix.SIGSTOP) },
			// Before the cable is plugged in again, the agent has seen that it was out. Otherwise what it says of the uplink is what was so
			// before it was stopped, and the next round begins while the link still comes up.
			settle: func(ctx context.Context, t *town) error {
				return errors.Join(t.agent.Signal(unix.SIGCONT), t.isDown(ctx, t.Uplinks[1]))
			}},
		{name: "carrier, one NIC each, agent dead", build: lab.NewRouter, options: three, health: quick, safe: []int{0, 2}, families: both,
			bound: 10 * time.Millisecond, kill: carrier(false), back: carrier(true),
			prepare: func(t *town) error { return t.agent.End(unix.SIGKILL) },
			settle:  func(ctx context.Context, t *town) error { return t.agent.Run(ctx) }},
		{name: "carrier, shared NIC", build: lab.NewSingleNIC, options: single, health: quick, safe: []int{2}, families: both,
			bound: 100 * time.Millisecond, kill: carrier(false), back: carrier(true)},
		{name: "IPv4 address, shared NIC", build: lab.NewSingleNIC, options: single, health: quick, safe: []int{0, 2}, families: both[:1],
			bound: 100 * time.Millisecond,
			kill:  func(t *town, u *lab.Uplink) error { return t.Router.DelAddr(u.Interface, u.Address) },
			back:  func(t *town, u *lab.Uplink) error { return t.Router.AddAddr(u.Interface, u.Address) }},
		{name: "IPv6 address, shared NIC", build: lab.NewSingleNIC, options: single, health: quick, safe: []int{0, 2}, families: both[1:],
			bound: 100 * time.Millisecond,
			kill:  func(t *town, u *lab.Uplink) error { return t.Router.DelAddr(u.Interface, u.Address6) },
			back:  func(t *town, u *lab.Uplink) error { return t.Router.AddAddr(u.Interface, u.Address6) }},
		{name: "gateway FAILED, shared NIC", build: lab.NewSingleNIC, options: single, health: normal, safe: []int{0, 2}, families: both,
			bound: 100 * time.Millisecond,
			kill:  func(t *town, u *lab.Uplink) error { return errors.Join(u.Vanish(true), neighbourFails(t, u)) },
			back:  func(_ *town, u *lab.Uplink) error { return u.Vanish(false) }},
		{name: "provider dead, one NIC each", build: lab.NewRouter, options: three, health: normal, safe: []int{0, 2}, families: both,
			bound: 1300 * time.Millisecond, middle: time.Second, kill: hole(true), back: hole(false)},
		{name: "provider dead, shared NIC", build: lab.NewSingleNIC, options: single, health: normal, safe: []int{0, 2}, families: both,
			bound: 1300 * time.Millisecond, middle: time.Second, kill: hole(true), back: hole(false)},
		{name: "provider dead, fast, one NIC each", build: lab.NewRouter, options: three, health: quick, safe: []int{0, 2}, families: both,
			bound: 500 * time.Millisecond, kill: hole(true), back: hole(false)},
		{name: "provider dead, fast, shared NIC", build: lab.NewSingleNIC, options: single, health: quick, safe: []int{0, 2}, families: both,
			bound: 500 * time.Millisecond, kill: hole(true), back: hole(false)},
	}
	for i := range all {
		all[i].measure = deaths
	}
	all = append(all,
		benchCase{name: "failback = all", measure: failback, bound: time.Second},
		benchCase{name: "connections deleted by mark", measure: deletion, bound: time.Second},
		benchCase{name: "outages of 50, 150 and 300 ms", measure: outages},
		benchCase{name: "probing 16 uplinks", measure: cost})
	if long {
		all = append(all,
			benchCase{name: "5 % loss for 10 minutes", measure: randomLoss},
			benchCase{name: "a loose plug, 1, 5 and 20 Hz for 60 s", measure: flapping})
	}
	return all
}

// deaths lets an uplink die again and again.
func deaths(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	t, err := b.open(ctx, c.build, c.options, c.health)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var safe []*lab.Uplink
	for _, i := range c.safe {
		safe = append(safe, t.Uplinks[i])
	}
	u := t.Uplinks[1]
	if err := t.bystanders(ctx, safe...); err != nil {
		return nil, err
	}
	var streams, dials []time.Duration
	rows := func() []row {
		return []row{times(c.name, "UDP stream, 1 kHz", streams, c.bound, c.middle), times(c.name, "new TCP connections", dials, c.bound, c.middle)}
	}
	for i := range b.rounds {
		if c.prepare != nil {
			if err := c.prepare(t); err != nil {
				return rows(), err
			}
		}
		// Not always the same moment between two probes.
		if err := sleep(ctx, time.Duration(i*137%500)*time.Millisecond); err != nil {
			return rows(), err
		}
		s, d, err := t.dies(ctx, u, c.families[i%len(c.families)], func() error { return c.kill(t, u) })
		if err != nil {
			return rows(), err
		}
		streams, dials = append(streams, s), append(dials, d)
		b.progressed(c.name, i, fmt.Sprintf("%.1f ms, %.1f ms", milliseconds(s), milliseconds(d)))
		if c.settle != nil {
			err = c.settle(ctx, t)
		}
		if err == nil {
			err = c.back(t, u)
		}
		if err == nil {
			err = t.allUp(ctx)
		}
		if err != nil {
			return rows(), err
		}
	}
	unharmed, err := t.unharmed(ctx, c.name, safe...)
	return append(rows(), unharmed...), err
}

// neighbourFails makes the kernel find out now that a gateway does not answer. It would ask for some seconds.
func neighbourFails(t *town, u *lab.Uplink) error {
	link, err := t.Router.Link(u.Interface)
	if err != nil {
		return err
	}
	var errs error
	for _, gateway := range []netip.Addr{u.Gateway, u.Gateway6} {
		family := netlink.FAMILY_V4
		if gateway.Is6() {
			family = netlink.FAMILY_V6
		}
		n := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, IP: gateway.AsSlice(), State: netlink.NUD_FAILED}
		errs = errors.Join(errs, t.Router.Handle().NeighSet(n))
	}
	return errs
}

// failback lets the better tier die and return, and measures how long something is left on the other after it is usable again.
func failback(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	t, err := b.open(ctx, lab.NewRouter, lab.Options{NoIPv6: true}, quick, "[policy.default]\ntiers = [[\"dsl\"], [\"cable\"]]\nfailback = \"all\"\n")
	if err != nil {
		return nil, err
	}
	defer t.Close()
	better, worse := t.Uplinks[0], t.Uplinks[1]
	var streams []*lab.UDPStream
	for range 8 {
		s, err := lab.StartUDP(ctx, t.Client(), lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, 0), time.Millisecond)
		if err != nil {
			return nil, err
		}
		defer s.Stop()
		streams = append(streams, s)
	}
	on := func(u *lab.Uplink) func() bool {
		return func() bool {
			return !slices.ContainsFunc(streams, func(s *lab.UDPStream) bool {
				a, b := s.Last(better.Address.Addr()), s.Last(worse.Address.Addr())
				return a.Equal(b) || a.After(b) != (u == better)
			})
		}
	}
	var left []time.Duration
	rows := func() []row { return []row{times(c.name, "left on the lower tier", left, c.bound, 0)} }
	for i := range b.rounds {
		err := wait(ctx, 10*time.Second, "all streams are on the better tier", on(better))
		if err == nil {
			err = better.Provider.Blackhole(true)
		}
		if err == nil {
			err = wait(ctx, 10*time.Second, "all streams are on the other tier", on(worse))
		}
		if err == nil {
			err = better.Provider.Blackhole(false)
		}
		if err == nil {
			err = t.allUp(ctx)
		}
		if err != nil {
			return rows(), fmt.Errorf("%w\n%s", err, t.agent.Log())
		}
		s, err := t.agent.Status(ctx)
		if err != nil || s.Uplinks[0].Since == nil {
			return rows(), fmt.Errorf("asking since when the better tier is up: %w", err)
		}
		if err := wait(ctx, 10*time.Second, "all streams are back", on(better)); err != nil {
			return rows(), err
		}
		last := time.Duration(0)
		for _, stream := range streams {
			last = max(last, stream.Last(worse.Address.Addr()).Sub(*s.Uplinks[0].Since))
		}
		left = append(left, last)
		b.progressed(c.name, i, fmt.Sprintf("%.1f ms", milliseconds(last)))
	}
	return rows(), nil
}
