package web

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// gate lets in so many connections at once. If there is no room the one that has
// said nothing for the longest time has to go: idle clients keep nobody out.
type gate struct {
	net.Listener
	room int

	mu    sync.Mutex
	quiet map[net.Conn]time.Time // since when it says nothing; zero: it is being answered
}

func newGate(l net.Listener, room int) *gate {
	return &gate{Listener: l, room: room, quiet: map[net.Conn]time.Time{}}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.enter(c) {
			return c, nil
		}
		_ = c.Close() // nobody waits for it
	}
}

// enter makes room for a connection; false: there is none.
func (g *gate) enter(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.quiet) >= g.room {
		var oldest net.Conn
		for other, since := range g.quiet {
			if !since.IsZero() && (oldest == nil || since.Before(g.quiet[oldest])) {
				oldest = other
			}
		}
		if oldest == nil {
			return false
		}
		delete(g.quiet, oldest)
		_ = oldest.Close() // its goroutine sees that
	}
	g.quiet[c] = time.Now()
	return true
}

// changed is the http.Server's ConnState.
func (g *gate) changed(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, inside := g.quiet[c]; !inside {
		return
	}
	switch s {
	case http.StateActive:
		g.quiet[c] = time.Time{}
	case http.StateNew, http.StateIdle:
		g.quiet[c] = time.Now()
	case http.StateClosed, http.StateHijacked:
		delete(g.quiet, c)
	}
}
