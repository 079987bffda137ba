//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
)

// holdDown is how long an uplink that was dead is not trusted, in the demo.
const holdDown = "1s"

// gapLimit is what the demo takes for a quick change of the uplink. 1.3 seconds are promised, on a machine that does nothing else.
const gapLimit = 2 * time.Second

// providerDies lets cable's provider die under a stream and new connections, and says how long they had nothing.
func (d *demo) providerDies(ctx context.Context) (err error) {
	d.title("A provider dies")
	dsl, cable := d.top.Uplinks[0], d.top.Uplinks[1]
	if d.moved, err = d.streamOn(ctx, cable); err != nil {
		return err
	}
	if d.other, err = d.streamOn(ctx, dsl); err != nil {
		return err
	}
	dials := lab.StartDials(ctx, d.top.Client(), 4*time.Millisecond, 100*time.Millisecond, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortDiscard)))
	d.say("   A UDP stream with 1000 requests a second runs on cable, another one on DSL; new connections are made all the time.")
	if err := sleep(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	d.say("   Now nothing beyond cable's gateway answers any more. The cable is in, and the gateway answers.")
	if err := cable.Provider.Blackhole(true); err != nil {
		return err
	}
	begin := time.Now()
	saved := d.until(ctx, 5*time.Second, func() bool { return d.moved.Last(dsl.Address.Addr()).Sub(begin) > 0 && dials.Report().Dials > 0 })
	if err := sleep(ctx, 300*time.Millisecond); err != nil { // for those who wait for the end of their time
		return err
	}
	stream, fresh := d.moved.Report(), dials.Stop()
	d.expect(saved && stream.Gap < gapLimit, "the stream on cable had no answer for %.0f ms; now it goes by way of DSL", milliseconds(stream.Gap))
	d.expect(fresh.Gap < gapLimit, "new connections to cable failed for %.0f ms: %d of %d, now all succeed by way of DSL", milliseconds(fresh.Gap), fresh.Failed, fresh.Dials)
	if !d.until(ctx, 5*time.Second, func() bool { return d.is(ctx, cable, api.Down) }) {
		d.expect(false, "the agent says that cable is down")
	}
	return d.show("status")
}

// providerReturns brings cable's provider back.
func (d *demo) providerReturns(ctx context.Context) error {
	d.title("The provider comes back, and is trusted again a little later")
	dsl, cable := d.top.Uplinks[0], d.top.Uplinks[1]
	d.say("   (At least %s later here, so that nobody has to wait; 10 s by default, and twice as long each time it dies again.)", holdDown)
	if err := cable.Provider.Blackhole(false); err != nil {
		return err
	}
	begin := time.Now()
	back := d.until(ctx, 15*time.Second, func() bool { return d.is(ctx, cable, api.Up) })
	d.expect(back, "cable is up %.1f s after its provider's return", time.Since(begin).Seconds())
	if !back {
		return nil
	}
	r := lab.Spread(ctx, d.top.Client(), 100, lab.Everywhere)
	a, b := r.Sources[dsl.Address.Addr()], r.Sources[cable.Address.Addr()]
	d.expect(r.Errors == 0 && a > 0 && b > 0 && a+b == 100, "100 new connections: %d by DSL, %d by cable, %d failed", a, b, r.Errors)
	moved, other := d.moved.Stop(), d.other.Stop()
	d.expect(d.moved.Last(dsl.Address.Addr()).After(d.moved.Last(cable.Address.Addr())) && len(moved.Addresses()) == 2,
		"the stream that had moved stays on DSL: %d requests, seen as %v", moved.Sent, moved.Addresses())
	d.expect(other.Lost() == 0 && len(other.Addresses()) == 1, "the stream that was on DSL all the time noticed none of it: %d requests, %d lost", other.Sent, other.Lost())
	return nil
}

// streamOn starts streams of requests until one is on an uplink.
func (d *demo) streamOn(ctx context.Context, u *lab.Uplink) (*lab.UDPStream, error) {
	for range 100 {
		s, err := lab.StartUDP(ctx, d.top.Client(), lab.Socket{}, netip.AddrPortFrom(lab.InternetAddress, 0), time.Millisecond)
		if err != nil {
			return nil, err
		}
		if d.until(ctx, time.Second, func() bool { return s.Report().Received > 0 }) && slices.Contains(s.Report().Addresses(), u.Address.Addr()) {
			return s, nil
		}
		s.Stop()
	}
	return nil, fmt.Errorf("none of 100 streams is on %s", u.Name)
}

// is says whether an uplink has a state, in both families.
func (d *demo) is(ctx context.Context, u *lab.Uplink, state api.State) bool {
	s, err := d.agent.Status(ctx)
	return err == nil && slices.ContainsFunc(s.Uplinks, func(one api.UplinkStatus) bool {
		whole := one.Reason == nil || !strings.Contains(*one.Reason, "only") // "IPv4 only: ..."
		return one.Name == u.Name && one.State == state && (state != api.Up || whole)
	})
}

// until waits for something that traffic shows.
func (d *demo) until(ctx context.Context, patience time.Duration, f func() bool) bool {
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) || sleep(ctx, 2*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
