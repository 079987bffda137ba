package web

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"multiroute/agent/api"
)

// Options is what a Server needs.
type Options struct {
	Address netip.AddrPort // where it listens: whose name it may be called by
	Version string
	// Explain answers the page's form; it is called by few goroutines at once,
	// and not often.
	Explain func(context.Context, api.ExplainRequest) (api.Explanation, error)
	Log     *slog.Logger // nil: discard
}

// limits are the bounds of a Server; tests change them.
type limits struct {
	connections int
	streams     int // pages that are kept up to date
	read        time.Duration
	write       time.Duration
	idle        time.Duration
	requests    *rate.Limiter // of any kind
	expensive   *rate.Limiter // of the kind that asks the kernel or writes much
	header      int           // bytes
}

func defaultLimits() limits {
	return limits{
		connections: 64,
		streams:     16,
		read:        5 * time.Second,
		write:       10 * time.Second,
		idle:        30 * time.Second,
		requests:    rate.NewLimiter(20, 100),
		expensive:   rate.NewLimiter(3, 12),
		header:      8 << 10,
	}
}

// Server answers HTTP. Publish gives it something to say.
type Server struct {
	options Options
	limits  limits
	latest  atomic.Pointer[Snapshot]
	routes  map[string]route
}

type route struct {
	handler   http.Handler
	expensive bool
}

// New returns a Server that knows nothing yet.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o, limits: defaultLimits()}
	s.routes = map[string]route{
		"/metrics": {metricsHandler(o.Version, &s.latest), true},
	}
	return s
}

// Publish hands over the newest snapshot. It waits for nobody. It is called by
// one goroutine.
func (s *Server) Publish(n *Snapshot) { s.latest.Store(n) }

// Serve answers on l until ctx ends; then it returns nil. It closes l. It returns
// an error only if l fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := newGate(l, s.limits.connections)
	srv := &http.Server{
		Handler:           s,
		MaxHeaderBytes:    s.limits.header - 4<<10, // net/http allows 4 KiB more
		ReadHeaderTimeout: s.limits.read,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		ConnState:         g.changed,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // whoever looks will look again
	defer stop()
	if err := srv.Serve(g); ctx.Err() == nil {
		return fmt.Errorf("serving metrics and status page: %w", err)
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	if code, text := refusal(r, s.options.Address.Addr()); code != 0 {
		if code == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "GET, HEAD")
		}
		w.Header().Set("Connection", "close")
		http.Error(w, text, code)
		return
	}
	route, ok := s.routes[r.URL.Path]
	switch {
	case !s.limits.requests.Allow() || route.expensive && !s.limits.expensive.Allow():
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests: try again in a second", http.StatusTooManyRequests)
	case !ok:
		http.Error(w, "there is nothing here: see / and /metrics", http.StatusNotFound)
	default:
		route.handler.ServeHTTP(w, r)
	}
}
