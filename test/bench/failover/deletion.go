//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"multiroute/conntrack"
	"multiroute/test/lab"
)

// deletion measures how long it takes to delete half of the connections by their mark, and what the other half's traffic sees of it. A million is
// meant; the kernel's limit decides how many there are.
func deletion(ctx context.Context, b *bench, c benchCase) ([]row, error) {
	limit, err := maxConnections()
	if err != nil {
		return nil, err
	}
	n := min(1000000, limit*8/10)
	t, err := b.open(ctx, lab.NewRouter, lab.Options{NoIPv6: true}, quick)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if err := t.bystanders(ctx, t.Uplinks[1]); err != nil {
		return nil, err
	}
	s, err := t.agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	mark, mask := s.Uplinks[0].Mark, uint32(0xff000000)
	var kernel *conntrack.Conn
	if err := t.Router.Do(func() (err error) { kernel, err = conntrack.Dial(); return err }); err != nil {
		return nil, err
	}
	defer kernel.Close()

	var took, stall, calm []time.Duration
	deleted := 0
	for i := range min(b.rounds, 5) {
		b.progressed(c.name, i, "opening connections")
		if err := t.fill(ctx, kernel, n); err != nil {
			return nil, err
		}
		counts, err := kernel.CountByMark(mask)
		if err != nil {
			return nil, err
		}
		deleted = max(deleted, counts[mark])
		quiet, err := t.gap(ctx, t.Uplinks[1], func() error { return sleep(ctx, time.Second) })
		if err != nil {
			return nil, err
		}
		var d time.Duration
		during, err := t.gap(ctx, t.Uplinks[1], func() error {
			begin := time.Now()
			err := kernel.DeleteByMark(mark, mask, 0)
			d = time.Since(begin)
			return err
		})
		if err != nil {
			return nil, err
		}
		after, err := kernel.CountByMark(mask)
		if err != nil {
			return nil, err
		}
		if after[mark] > counts[mark]/100 {
			return nil, fmt.Errorf("%d of %d connections are still there", after[mark], counts[mark])
		}
		took, stall, calm = append(took, d), append(stall, during), append(calm, quiet)
		b.progressed(c.name, i, fmt.Sprintf("%d of %d in %.0f ms", counts[mark], n, milliseconds(d)))
	}
	because := fmt.Sprintf("%d of %d", deleted, n)
	if n < 1000000 {
		because += fmt.Sprintf("; net.netfilter.nf_conntrack_max is %d here", limit)
	}
	rows := []row{
		times(c.name, "time", took, c.bound, 0),
		times(c.name, "other uplink: gap", stall, 10*time.Millisecond, 0),
	}
	rows[0].Because = because
	worst := time.Duration(0)
	for _, d := range calm {
		worst = max(worst, d)
	}
	rows[1].Because = fmt.Sprintf("at most %.1f ms with nothing being deleted", milliseconds(worst))
	unharmed, err := t.unharmed(ctx, c.name, t.Uplinks[1])
	return append(rows, unharmed...), err
}

// maxConnections is the kernel's limit.
func maxConnections() (int, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// fill opens connections until there are about n of them: a UDP packet to each of many addresses from many ports.
func (t *town) fill(ctx context.Context, kernel *conntrack.Conn, n int) error {
	all := func() (int, error) {
		counts, err := kernel.CountByMark(0xff000000)
		sum := 0
		for _, k := range counts {
			sum += k
		}
		return sum, err
	}
	payload := []byte("x")
	for range 100 {
		have, err := all()
		if err != nil || have >= n*98/100 {
			return err
		}
		missing := (n-have)/250 + 1
		for range missing {
			c, err := t.Client().ListenUDP(lab.Socket{Local: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
			if err != nil {
				return err
			}
			to := lab.InternetPrefix.Addr()
			for range 250 {
				to = to.Next()
				if _, err := c.WriteToUDPAddrPort(payload, netip.AddrPortFrom(to, lab.PortSink)); err != nil {
					break // no buffer: a packet fewer
				}
			}
			c.Close()
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("there are still not %d connections", n)
}

// gap is the longest time between two packets of a 1 kHz stream on an uplink, as they arrive at the other end, while f runs.
func (t *town) gap(ctx context.Context, u *lab.Uplink, f func() error) (time.Duration, error) {
	o, err := t.oneWayOn(ctx, u.Address.Addr())
	if err != nil {
		return 0, err
	}
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return 0, err
	}
	o.Stop()
	return t.Server.Flow(o.Flow).Gap, nil
}
