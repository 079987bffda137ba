package web

import (
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
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
	penalty     time.Duration // after which who asks too often is told so
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
		penalty:     100 * time.Millisecond,
		header:      8 << 10,
	}
}

// Server answers HTTP. Publish gives it something to say.
type Server struct {
	options Options
	limits  limits
	latest  atomic.Pointer[Snapshot]
	routes  map[string]route
	page    *template.Template

	streams    streams
	explaining *semaphore.Weighted

	mu      sync.Mutex // of what follows; held for moments
	history history
	encoded []byte // the history as it is sent; nil: not yet
	shown   pieces // what the open pages have; no parts: there are none
}

type route struct {
	handler   http.Handler
	expensive bool
}

// New returns a Server that knows nothing yet. An error means that the program
// was built wrong.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	page, err := parsePage()
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, limits: defaultLimits(), page: page, explaining: semaphore.NewWeighted(2)}
	s.routes = map[string]route{
		"/":        {http.HandlerFunc(s.servePage), true},
		"/explain": {http.HandlerFunc(s.servePage), true},
		"/events":  {http.HandlerFunc(s.serveEvents), false},
		"/history": {http.HandlerFunc(s.serveHistory), true},
		"/metrics": {metricsHandler(o.Version, &s.latest), true},
	}
	for path, a := range assets {
		h, err := asset(a.file, a.kind)
		if err != nil {
			return nil, err
		}
		s.routes[path] = route{h, false}
	}
	return s, nil
}

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
		select { // else a crowd that is turned away takes more than one that is served
		case <-time.After(s.limits.penalty):
		case <-r.Context().Done():
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests: try again in a second", http.StatusTooManyRequests)
	case !ok:
		http.Error(w, "there is nothing here: see / and /metrics", http.StatusNotFound)
	default:
		route.handler.ServeHTTP(w, r)
	}
}
