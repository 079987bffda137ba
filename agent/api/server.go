package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/time/rate"
)

// limits are the bounds of a Server; tests make the times shorter.
type limits struct {
	connections int // at once, in all
	reserved    int // of those, for root and the own user alone

	requests *rate.Limiter // of those who may only read
	refusal  time.Duration // how long who asks too often waits to be told so

	streams         int // lists being sent at once, in all
	streamsReserved int // of those, for root and the own user alone

	header   int // bytes
	body     int64
	read     time.Duration // for a whole request to arrive
	write    time.Duration // from its arrival until the whole answer is sent
	idle     time.Duration // between two requests on one connection
	shutdown time.Duration // for running requests to end
}

func defaultLimits() limits {
	return limits{
		connections: 16,
		reserved:    4,

		requests: rate.NewLimiter(20, 40),
		refusal:  200 * time.Millisecond,

		streams:         4,
		streamsReserved: 1,

		header:   8 << 10,
		body:     64 << 10,
		read:     5 * time.Second,
		write:    60 * time.Second,
		idle:     30 * time.Second,
		shutdown: 5 * time.Second,
	}
}

// A Server answers on the control socket.
type Server struct {
	handler     Handler
	gid         int
	log         *slog.Logger
	limits      limits
	credentials func(net.Conn) (Peer, error)
	euid        uint32
	routes      map[string]route
	streams     streams
}

// A route is what is done for one path.
type route struct {
	method string
	do     func(ctx context.Context, query url.Values) (any, error) // a string is sent as text, a stream as lines of JSON, all else as JSON
}

// NewServer returns a server whose clients may read if they are members of the group gid
// (that of the Listener; below 0: no group). A nil logger discards.
func NewServer(h Handler, gid int, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		handler:     h,
		gid:         gid,
		log:         log,
		limits:      defaultLimits(),
		credentials: credentials,
		euid:        uint32(os.Geteuid()),
	}
	plain := func(do func(ctx context.Context) (any, error)) func(context.Context, url.Values) (any, error) {
		return func(ctx context.Context, _ url.Values) (any, error) { return do(ctx) }
	}
	show := func(what string) func(context.Context, url.Values) (any, error) {
		return plain(func(ctx context.Context) (any, error) { return h.Show(ctx, what) })
	}
	uplink := func(enabled bool) func(context.Context, url.Values) (any, error) {
		return func(ctx context.Context, query url.Values) (any, error) {
			name, d, err := uplinkQuery(query, enabled)
			if err != nil {
				return nil, &Error{Code: http.StatusBadRequest, Text: err.Error()}
			}
			return struct{}{}, h.SetUplink(ctx, name, enabled, d)
		}
	}
	reload := func(ctx context.Context, query url.Values) (any, error) {
		onTrial, err := reloadQuery(query)
		if err != nil {
			return nil, &Error{Code: http.StatusBadRequest, Text: err.Error()}
		}
		return h.Reload(ctx, onTrial)
	}
	flows := func(_ context.Context, query url.Values) (any, error) {
		uplink, err := flowsQuery(query)
		if err != nil {
			return nil, &Error{Code: http.StatusBadRequest, Text: err.Error()}
		}
		return stream(func(ctx context.Context, emit func(any) error) error {
			return h.Flows(ctx, uplink, func(f Flow) error { return emit(f) })
		}), nil
	}
	explain := func(ctx context.Context, query url.Values) (any, error) {
		request, err := explainQuery(query)
		if err != nil {
			return nil, &Error{Code: http.StatusBadRequest, Text: err.Error()}
		}
		return h.Explain(ctx, request)
	}
	s.routes = map[string]route{
		pathStatus:            {http.MethodGet, plain(func(ctx context.Context) (any, error) { return h.Status(ctx) })},
		pathPlan:              {http.MethodGet, plain(func(ctx context.Context) (any, error) { return h.Plan(ctx) })},
		pathShow + ShowNFT:    {http.MethodGet, show(ShowNFT)},
		pathShow + ShowRoutes: {http.MethodGet, show(ShowRoutes)},
		pathFlows:             {http.MethodGet, flows},
		pathExplain:           {http.MethodGet, explain},
		pathReload:            {http.MethodPost, reload},
		pathConfirm:           {http.MethodPost, plain(func(ctx context.Context) (any, error) { return h.Confirm(ctx) })},
		pathStop:              {http.MethodPost, plain(func(ctx context.Context) (any, error) { return struct{}{}, h.Stop(ctx) })},
		pathDisable:           {http.MethodPost, uplink(false)},
		pathEnable:            {http.MethodPost, uplink(true)},
	}
	return s
}

// uplinkQuery reads the parameters of a change to an uplink. They are taken exactly: a
// misspelled "for" must not disable an uplink for ever.
func uplinkQuery(query url.Values, enabled bool) (name string, d time.Duration, err error) {
	for key, values := range query {
		switch {
		case len(values) != 1:
			return "", 0, fmt.Errorf("the parameter %q stands there twice: remove one", key)
		case key == "name":
			name = values[0]
		case key == "for" && !enabled:
			if d, err = time.ParseDuration(values[0]); err != nil || d <= 0 {
				return "", 0, fmt.Errorf(`for is %q: write a time above 0 with its unit, such as "10m"`, values[0])
			}
		default:
			return "", 0, fmt.Errorf("unknown parameter %q: known are name and, for disable, for", key)
		}
	}
	if name == "" {
		return "", 0, errors.New("the parameter name is missing: write the name of an uplink")
	}
	return name, d, nil
}

// reloadQuery reads the parameters of a reload, as exactly: a misspelled
// "confirm" must not make it last.
func reloadQuery(query url.Values) (onTrial time.Duration, err error) {
	for key, values := range query {
		if key != "confirm" || len(values) != 1 {
			return 0, fmt.Errorf("unknown or repeated parameter %q: known is confirm", key)
		}
		if onTrial, err = ParseTrial(values[0]); err != nil {
			return 0, fmt.Errorf("confirm is %q: %w", values[0], err)
		}
	}
	return onTrial, nil
}

// The shortest and the longest trial of a configuration.
const (
	minTrial = time.Second
	maxTrial = 24 * time.Hour
)

// ParseTrial reads how long a configuration is to be on trial, as people write it.
func ParseTrial(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < minTrial || d > maxTrial {
		return 0, errors.New(`write a time from 1s to 24h with its unit, such as "60s"`)
	}
	return d, nil
}

// The paths of the API.
const (
	pathStatus = "/v1/status"
	pathPlan   = "/v1/plan"
	pathShow   = "/v1/show/"
	pathReload = "/v1/reload"
	pathStop   = "/v1/stop"

	pathConfirm = "/v1/confirm"

	pathDisable = "/v1/uplink/disable"
	pathEnable  = "/v1/uplink/enable"
)

// Serve answers on l until ctx ends, then lets running requests end for up to 5 seconds,
// and returns nil. It closes l. It returns an error only if l fails. A Server serves one
// Listener at a time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	door := &door{Listener: l, s: s, guests: make(map[*guest]struct{})}
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP),
		// net/http allows 4 KiB more than it is told (initialReadLimitSize).
		MaxHeaderBytes:    s.limits.header - 4<<10,
		ReadHeaderTimeout: s.limits.read,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if g, ok := c.(*guest); ok {
				ctx = context.WithValue(ctx, peerKey{}, g.peer)
			}
			return ctx
		},
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.shutdown)
		defer cancel()
		door.hush()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(door)
	if !stop() {
		<-closed
		return nil
	}
	_ = srv.Close()
	return fmt.Errorf("serving the control socket: %w", err)
}

// serveHTTP answers one request.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in the control socket", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			s.fail(w, http.StatusInternalServerError, "internal error: see the agent's log")
		}
	}()
	peer, ok := PeerFrom(r.Context())
	if !ok {
		s.fail(w, http.StatusInternalServerError, "the peer of the connection is not known")
		return
	}
	route, code, text := s.check(peer, r)
	if code != 0 {
		s.log.Debug("request refused", "peer", peer, "method", r.Method, "path", r.URL.Path, "code", code)
		if code == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", route.method)
		}
		s.fail(w, code, text)
		return
	}
	if code, text := drain(w, r, s.limits.body); code != 0 {
		s.fail(w, code, text)
		return
	}
	if !s.owner(peer) && !s.limits.requests.Allow() {
		wait(r.Context(), s.limits.refusal)
		s.fail(w, http.StatusServiceUnavailable, ErrBusy.Error()+": too many requests; try again")
		return
	}
	// The deadline was for the request to arrive. It would also end the reading by which
	// net/http notices that the client goes away, and so the request's context.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		s.fail(w, http.StatusInternalServerError, err.Error())
		return
	}

	ctx := r.Context()
	if route.method != http.MethodGet {
		s.log.Info("request", "peer", peer, "method", r.Method, "path", r.URL.Path)
		ctx = context.WithoutCancel(ctx)
	}
	// Some time is left for sending the answer.
	ctx, cancel := context.WithTimeout(ctx, s.limits.write-s.limits.write/12)
	defer cancel()
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		s.fail(w, http.StatusBadRequest, fmt.Sprintf("the parameters behind the ? are no parameters: %v", err))
		return
	}
	result, err := route.do(ctx, query)
	if err != nil {
		s.fail(w, StatusCode(err), err.Error())
		return
	}
	switch result := result.(type) {
	case string:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, result) // the client has gone away
	case stream:
		s.stream(ctx, w, s.owner(peer), result)
	default:
		s.send(w, http.StatusOK, result)
	}
}

// check decides whether the peer may have this request answered. Otherwise it returns the
// status code of the refusal and its text. Who may not read learns nothing of the paths.
func (s *Server) check(peer Peer, r *http.Request) (_ route, code int, text string) {
	owner := s.owner(peer)
	if !owner && !peer.in(s.gid) {
		return route{}, http.StatusForbidden, fmt.Sprintf("user %d is neither root nor in the agent's group", peer.UID)
	}
	rt, ok := s.routes[r.URL.Path]
	switch {
	case !ok:
		return route{}, http.StatusNotFound, fmt.Sprintf("there is nothing at %q", r.URL.Path)
	case r.Method != rt.method:
		return rt, http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s only", r.URL.Path, rt.method)
	case rt.method != http.MethodGet && !owner:
		return rt, http.StatusForbidden, fmt.Sprintf("only root may do this; user %d may only read", peer.UID)
	}
	return rt, 0, ""
}

// owner reports whether the peer may do everything.
func (s *Server) owner(p Peer) bool { return p.UID == 0 || p.UID == s.euid }

// drain reads the body, of which no request makes use, up to its bound.
func drain(w http.ResponseWriter, r *http.Request, limit int64) (code int, text string) {
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("the request's body is longer than %d bytes", limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout, "the request's body took too long"
	}
	return http.StatusBadRequest, fmt.Sprintf("reading the request's body: %v", err)
}

// wait lets time pass, unless ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// fail sends an error.
func (s *Server) fail(w http.ResponseWriter, code int, text string) {
	s.send(w, code, errorBody{Error: text})
}

// send sends JSON. What cannot be encoded is noticed before anything is sent.
func (s *Server) send(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.log.Error("encoding an answer of the control socket", "err", err)
		code, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client has gone away
}
