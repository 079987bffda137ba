package probe

import (
	"context"
	"net/netip"
	"time"
)

// connect opens a TCP connection and resets it.
func (p *prober) connect(ctx context.Context, t *target, addr netip.Addr) (time.Duration, error) {
	start := time.Now()
	c, err := p.dial(ctx, "tcp", netip.AddrPortFrom(addr, t.Port))
	if err != nil {
		return 0, err
	}
	rtt := time.Since(start)
	_ = c.Close()
	return rtt, nil
}
