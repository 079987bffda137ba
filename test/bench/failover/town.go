//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// town is a topology with an agent on its router, and traffic on its uplinks.
type town struct {
	*lab.Topology
	agent *rig.Agent

	streams *lab.Streams  // bystanders: connections on all uplinks
	flows   []*lab.OneWay // and streams on those that stay well
}

// open builds a town and waits until its agent is content.
func (b *bench) open(ctx context.Context, build func(lab.Options) (*lab.Topology, error), o lab.Options, more ...string) (*town, error) {
	return b.openWith(ctx, build, o, "", more...)
}

// openWith is open with metrics and status page at an address.
func (b *bench) openWith(ctx context.Context, build func(lab.Options) (*lab.Topology, error), o lab.Options, http string, more ...string) (*town, error) {
	top, err := build(o)
	if err != nil {
		return nil, err
	}
	b.towns++
	t := &town{Topology: top, agent: rig.New(b.program, filepath.Join(b.folder, fmt.Sprint(b.towns)), top.Router)}
	t.agent.HTTP = http
	err = os.Mkdir(t.agent.Folder, 0o750)
	if err == nil {
		err = t.agent.Configure(rig.Probing(top, nil, more...))
	}
	if err == nil {
		err = t.agent.Run(ctx)
	}
	if err == nil {
		err = t.allUp(ctx)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Close removes the town, with its agent.
func (t *town) Close() {
	_ = t.agent.Close()
	t.Topology.Close()
}

// wait waits for a condition.
func wait(ctx context.Context, d time.Duration, what string, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// sleep lets time pass.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// allUp waits until every uplink is up, in both families.
func (t *town) allUp(ctx context.Context) error {
	var last api.Status
	err := wait(ctx, 30*time.Second, "all uplinks are up", func() bool {
		s, err := t.agent.Status(ctx)
		if err != nil {
			return false
		}
		last = s
		return !slices.ContainsFunc(s.Uplinks, func(u api.UplinkStatus) bool { return u.State != api.Up || u.Reason != nil && *u.Reason != "" })
	})
	if err != nil {
		return fmt.Errorf("%w: %+v\n%s", err, last.Uplinks, t.agent.Log())
	}
	return nil
}

// isDown waits until the agent says that an uplink is down.
func (t *town) isDown(ctx context.Context, u *lab.Uplink) error {
	return wait(ctx, 10*time.Second, u.Name+" is down", func() bool {
		s, err := t.agent.Status(ctx)
		return err == nil && slices.ContainsFunc(s.Uplinks, func(v api.UplinkStatus) bool { return v.Name == u.Name && v.State == api.Down })
	})
}

// bystanders starts traffic on uplinks that stay well: a 1 kHz stream in each family on each of them, and connections everywhere.
func (t *town) bystanders(ctx context.Context, safe ...*lab.Uplink) (err error) {
	t.streams, err = lab.StartStreams(ctx, t.Client(), 40, func(i int) (lab.Socket, netip.AddrPort) {
		return lab.Socket{}, netip.AddrPortFrom(internet(i%2 == 1 && safe[0].Address6.IsValid()), lab.PortTCP)
	}, lab.StreamOptions{Interval: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	for _, u := range safe {
		for _, a := range []netip.Addr{u.Address.Addr(), u.Address6.Addr()} {
			if !a.IsValid() {
				continue
			}
			f, err := t.oneWayOn(ctx, a)
			if err != nil {
				return err
			}
			t.flows = append(t.flows, f)
		}
	}
	return nil
}

// oneWayOn starts one-way streams until one has this address outside.
func (t *town) oneWayOn(ctx context.Context, a netip.Addr) (*lab.OneWay, error) {
	for range 200 {
		o, err := lab.StartOneWay(ctx, t.Client(), lab.Socket{}, netip.AddrPortFrom(internet(a.Is6()), 0), 0)
		if err != nil {
			return nil, err
		}
		err = wait(ctx, time.Second, "a stream arrives", func() bool { return len(t.Server.Flow(o.Flow).Sources) > 0 })
		if err == nil && slices.Contains(t.Server.Flow(o.Flow).Addresses(), a) {
			return o, nil
		}
		o.Stop()
	}
	return nil, fmt.Errorf("none of 200 streams has address %s", a)
}

// unharmed ends the bystanders, and returns a row for each thing that may not have happened to them, and one for leaks.
func (t *town) unharmed(ctx context.Context, name string, safe ...*lab.Uplink) ([]row, error) {
	report := t.streams.Stop()
	broken, lost, sent := 0, 0, 0
	for _, u := range safe {
		broken += report.ByAddr[u.Address.Addr()] + report.ByAddr[u.Address6.Addr()]
	}
	for _, f := range t.flows {
		n := f.Stop()
		_ = wait(ctx, time.Second, "the last packets have arrived", func() bool { return t.Server.Flow(f.Flow).Received == n })
		r := t.Server.Flow(f.Flow)
		lost, sent = lost+n-r.Received, sent+n
		if len(r.Addresses()) != 1 {
			lost++
		}
	}
	leaks, such := 0, ""
	for _, u := range t.Uplinks {
		n, samples, err := u.Provider.Leaks()
		if err != nil {
			return nil, err
		}
		leaks += int(n)
		if len(samples) > 0 {
			such = fmt.Sprintf("such as %v to %s", samples[0], u.Name)
		}
	}
	return []row{
		counted(name, "other uplinks: lost", fmt.Sprintf("of %d packets", sent), lost, 0),
		counted(name, "other uplinks: broken", "TCP connections", broken, 0),
		counted(name, "leaked packets", such, leaks, 0),
	}, nil
}

// internet is where traffic goes to.
func internet(v6 bool) netip.Addr {
	if v6 {
		return lab.InternetAddress6
	}
	return lab.InternetAddress
}

// address is an uplink's own.
func address(u *lab.Uplink, v6 bool) netip.Addr {
	if v6 {
		return u.Address6.Addr()
	}
	return u.Address.Addr()
}

// udpOn starts 1 kHz streams of requests until one is on an uplink.
func (t *town) udpOn(ctx context.Context, u *lab.Uplink, v6 bool) (*lab.UDPStream, error) {
	for range 200 {
		s, err := lab.StartUDP(ctx, t.Client(), lab.Socket{}, netip.AddrPortFrom(internet(v6), 0), time.Millisecond)
		if err != nil {
			return nil, err
		}
		err = wait(ctx, time.Second, "a stream is answered", func() bool { return s.Report().Received > 0 })
		if err == nil && slices.Contains(s.Report().Addresses(), address(u, v6)) {
			return s, nil
		}
		s.Stop()
	}
	return nil, fmt.Errorf("none of 200 streams is on %s", u.Name)
}

// dies lets an uplink die under a stream and new connections, and returns how long each of them had nothing.
func (t *town) dies(ctx context.Context, u *lab.Uplink, v6 bool, kill func() error) (stream, dials time.Duration, err error) {
	s, err := t.udpOn(ctx, u, v6)
	if err != nil {
		return 0, 0, err
	}
	d := lab.StartDials(ctx, t.Client(), 2*time.Millisecond, 100*time.Millisecond, lab.To(netip.AddrPortFrom(internet(v6), lab.PortDiscard)))
	err = wait(ctx, 5*time.Second, "there is traffic", func() bool { return s.Report().Received > 200 && d.Report().Dials > 100 })
	if err == nil {
		err = kill()
	}
	from := address(u, v6)
	if err == nil {
		err = wait(ctx, 10*time.Second, "the stream on "+u.Name+" is answered by another way", func() bool {
			n := 0
			for a, k := range s.Report().Sources {
				if a.Addr() != from {
					n += k
				}
			}
			return n > 200
		})
	}
	if err == nil {
		err = sleep(ctx, 200*time.Millisecond) // for those who wait for the end of their time
	}
	r, q := s.Stop(), d.Stop()
	if err != nil {
		err = errors.Join(err, fmt.Errorf("stream: %v; new connections: %v\n%s", r, q, t.agent.Log()))
	}
	return r.Gap, q.Gap, err
}
