package web

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// streams are the pages that are kept up to date by server-sent events.
type streams struct {
	mu      sync.Mutex
	clients map[chan []byte]struct{}
}

// backlog is how many messages a page may be behind before it is dropped; it
// connects again by itself.
const backlog = 8

// enter returns where messages arrive, beginning with first; nil: there are
// enough clients.
func (s *streams) enter(most int, first []byte) chan []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) >= most {
		return nil
	}
	if s.clients == nil {
		s.clients = map[chan []byte]struct{}{}
	}
	c := make(chan []byte, backlog)
	c <- first
	s.clients[c] = struct{}{}
	return c
}

func (s *streams) leave(c chan []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
}

func (s *streams) some() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients) > 0
}

// send hands a message to every client. Who does not take it in time is dropped:
// nobody waits.
func (s *streams) send(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		select {
		case c <- message:
		default:
			close(c)
			delete(s.clients, c)
		}
	}
}

var (
	errStarting = errors.New("the agent is starting: nothing is known yet")
	errCrowded  = errors.New("too many pages are open: this one is not kept up to date")
)

// enter lets a page in, with everything that it needs.
func (s *Server) enter() (chan []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.latest.Load()
	if n == nil {
		return nil, errStarting
	}
	if s.shown.parts == nil {
		if err := s.refresh(n, false); err != nil {
			return nil, err
		}
	}
	whole, err := message(n, &s.history, s.shown.parts, true, false)
	if err != nil {
		return nil, err
	}
	c := s.streams.enter(s.limits.streams, whole)
	if c == nil {
		return nil, errCrowded
	}
	return c, nil
}

// serveEvents keeps a page up to date until it goes away.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	c, err := s.enter()
	if errors.Is(err, errStarting) || errors.Is(err, errCrowded) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if err != nil {
		s.unmade(w, err)
		return
	}
	defer s.streams.leave(c)
	if err := rc.SetReadDeadline(time.Time{}); err != nil { // it was for the request
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		select {
		case <-r.Context().Done():
			return
		case message, ok := <-c:
			if !ok || rc.SetWriteDeadline(time.Now().Add(s.limits.write)) != nil {
				return
			}
			if _, err := w.Write(message); err != nil {
				return
			}
			if err := rc.Flush(); err != nil {
				return
			}
		}
	}
}
