package api

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// A door lets connections in as long as there is room. Nobody waits in front of it, so that
// a crowd cannot keep root out.
type door struct {
	net.Listener
	s *Server

	mu     sync.Mutex
	guests map[*guest]struct{}
	others int // of those, not root's or the own user's
	hushed bool
}

// A guest is a connection that was let in.
type guest struct {
	net.Conn
	peer  Peer
	leave func()

	mu     sync.Mutex
	hushed bool // nothing is read any more
}

// Accept returns the next connection for which there is room, and closes the others.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := d.s.credentials(c)
		if err != nil {
			d.s.log.Debug("control socket", "err", err)
			_ = c.Close()
			continue
		}
		if g := d.enter(c, peer); g != nil {
			return g, nil
		}
		d.s.log.Debug("control socket: too many connections", "peer", peer)
		turnAway(c)
	}
}

// enter returns nil if there is no room.
func (d *door) enter(c net.Conn, peer Peer) *guest {
	owner := d.s.owner(peer)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.guests) >= d.s.limits.connections || !owner && d.others >= d.s.limits.connections-d.s.limits.reserved {
		return nil
	}
	g := &guest{Conn: c, peer: peer, hushed: d.hushed}
	g.leave = sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.guests, g)
		if !owner {
			d.others--
		}
	})
	d.guests[g] = struct{}{}
	if !owner {
		d.others++
	}
	return g
}

// hush ends all waiting for clients to say something, whereas answers can still be sent.
// Without it http.Server.Shutdown waits 5 seconds for clients that never said anything.
func (d *door) hush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hushed = true
	for g := range d.guests {
		g.hush()
	}
}

func (g *guest) hush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hushed = true
	_ = g.Conn.SetReadDeadline(time.Unix(1, 0)) // closed: nothing to wait for
}

// SetReadDeadline sets the deadline for reading, unless that is over for good.
func (g *guest) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hushed {
		t = time.Unix(1, 0)
	}
	return g.Conn.SetReadDeadline(t)
}

// Close closes the connection and makes room for another.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}

// turnAway tells the client why and closes. It does not wait: the buffer of a new
// connection is empty.
func turnAway(c net.Conn) {
	defer c.Close()
	body, err := json.Marshal(errorBody{Error: ErrBusy.Error() + ": it has too many clients; try again"})
	if err != nil || c.SetWriteDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable), len(body), body)
}
