package probe

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// get asks an HTTP server, by a connection of its own, and follows no redirects.
func (p *prober) get(ctx context.Context, t *target, addr netip.Addr) (time.Duration, error) {
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return p.dial(ctx, "tcp", netip.AddrPortFrom(addr, portHTTP(t.Target)))
		},
		TLSClientConfig:        &tls.Config{RootCAs: p.Roots},
		Protocols:              new(http.Protocols),
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHTTPHeader,
	}
	transport.Protocols.SetHTTP1(true)
	request := &http.Request{
		Method: http.MethodGet,
		URL:    t.url,
		Host:   t.url.Host,
		Header: http.Header{"User-Agent": {"multiroute"}},
	}
	start := time.Now()
	answer, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if err := checkAnswer(t.Target, answer); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
