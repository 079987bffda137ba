package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"multiroute/agent/dns"
)

// query asks a DNS server. The socket is a new one each time, so that the port is
// random, too; being connected it hears the server only.
func (p *prober) query(ctx context.Context, t *target, addr netip.Addr) (time.Duration, error) {
	var random [dns.RandomBytes]byte
	if _, err := io.ReadFull(p.Random, random[:]); err != nil {
		return 0, fmt.Errorf("reading random bytes: %w", err)
	}
	query, err := dns.NewQuery(t.Name, p.leg.Family, random[:])
	if err != nil {
		return 0, err
	}
	c, err := p.dial(ctx, "udp", netip.AddrPortFrom(addr, cmp.Or(t.Port, dns.Port)))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	start := time.Now()
	if _, err := c.Write(query); err != nil {
		if errors.Is(err, unix.ENOBUFS) {
			<-ctx.Done() // lost in our own queue: nothing is certain
		}
		return 0, err
	}
	answer := make([]byte, 4096)
	for {
		n, err := c.Read(answer)
		if err != nil {
			return 0, err
		}
		code, ok := dns.Answers(answer[:n], query)
		switch {
		case !ok:
			p.ignored.Add(1)
		case code == dnsmessage.RCodeServerFailure || code == dnsmessage.RCodeRefused:
			return 0, fmt.Errorf("the server answers %s", code)
		default:
			return time.Since(start), nil
		}
	}
}
