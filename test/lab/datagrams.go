//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// UDPReport says how a stream of UDP requests fared.
type UDPReport struct {
	Sent, Received int
	Sources        map[netip.AddrPort]int // addresses the server saw, and requests from each
	Outage         time.Duration          // longest time between the sending of two requests that were answered, less the interval
	Gap            time.Duration          // longest time in which no request was answered: from the first one lost to the next one answered; 0: none lost
}

// Lost is how many requests had no answer.
func (r UDPReport) Lost() int { return r.Sent - r.Received }

// Addresses returns the addresses the server saw, without ports, in order.
func (r UDPReport) Addresses() []netip.Addr { return addresses(r.Sources) }

// String is the report in a line.
func (r UDPReport) String() string {
	return fmt.Sprintf("sent %d, lost %d, gap %v, outage %v, seen as %v", r.Sent, r.Lost(), r.Gap, r.Outage, r.Sources)
}

// UDPStream sends numbered requests to the echo port from one socket, and counts the answers.
type UDPStream struct {
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	conn     *net.UDPConn
	interval time.Duration

	mu       sync.Mutex
	sent     []time.Time // by sequence number
	answered []bool
	missing  int // requests that are not answered
	ended    bool
	sources  map[netip.AddrPort]int
	last     map[netip.Addr]time.Time
}

// StartUDP sends a request each interval (default 1ms) from ns until Stop is called or ctx ends. The target's port is PortEcho by default.
func StartUDP(ctx context.Context, ns *NS, s Socket, to netip.AddrPort, interval time.Duration) (*UDPStream, error) {
	conn, err := ns.DialUDP(s, withPort(to, PortEcho))
	if err != nil {
		return nil, fmt.Errorf("starting a UDP stream: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	u := &UDPStream{cancel: cancel, conn: conn, interval: orMillisecond(interval), sources: map[netip.AddrPort]int{}, last: map[netip.Addr]time.Time{}}
	u.wait.Go(func() {
		pace(ctx, u.interval, u.send)
		u.end()
	})
	u.wait.Go(u.receive)
	return u, nil
}

// send sends the next request. Failing is the same as being lost: there may be no route for a moment.
func (u *UDPStream) send() {
	u.mu.Lock()
	now := time.Now()
	st := stamp{sequence: uint64(len(u.sent)), sent: now.UnixNano()}
	u.sent, u.answered = append(u.sent, now), append(u.answered, false)
	u.missing++
	u.mu.Unlock()
	var packet [stampSize]byte
	st.put(packet[:])
	writeAnyway(u.conn, packet[:])
}

// end lets receive wait for the last answers only.
func (u *UDPStream) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	patience := 200 * time.Millisecond
	if u.missing == 0 {
		patience = 0
	}
	_ = u.conn.SetReadDeadline(time.Now().Add(patience))
}

// complete says whether nothing is to come any more.
func (u *UDPStream) complete() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ended && u.missing == 0
}

// receive counts the answers. It gives up on the last ones when a time has passed without any: a second time, as a computer that is too busy to look
// lets the first one pass although they are there.
func (u *UDPStream) receive() {
	buffer := make([]byte, 512)
	idle := 0
	for !u.complete() {
		n, err := u.conn.Read(buffer)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			if idle++; idle == 2 {
				return
			}
			_ = u.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			continue
		}
		idle = 0
		if err != nil { // an ICMP error: that request is lost
			continue
		}
		seen, payload, _ := bytes.Cut(buffer[:n], []byte{'\n'})
		from, err := netip.ParseAddrPort(string(seen))
		st, ok := parseStamp(payload)
		if err != nil || !ok {
			continue
		}
		u.mu.Lock()
		if st.sequence < uint64(len(u.answered)) && !u.answered[st.sequence] {
			u.answered[st.sequence] = true
			u.missing--
			u.sources[from]++
			if at := u.sent[st.sequence]; at.After(u.last[from.Addr()]) {
				u.last[from.Addr()] = at
			}
		}
		u.mu.Unlock()
	}
}

// Last returns when the last request was sent that the server saw coming from an address; zero if there was none.
func (u *UDPStream) Last(a netip.Addr) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[a]
}

// Report returns the report so far; requests on their way count as lost.
func (u *UDPStream) Report() UDPReport {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := UDPReport{Sent: len(u.sent), Sources: maps.Clone(u.sources)}
	if len(u.sent) == 0 {
		return r
	}
	last := u.sent[0]
	lost := -1 // the first of those lost in a row
	for i, at := range u.sent {
		switch {
		case !u.answered[i] && lost < 0:
			lost = i
		case u.answered[i]:
			r.Received++
			if lost >= 0 {
				r.Gap = max(r.Gap, at.Sub(u.sent[lost]))
			}
			lost = -1
		}
		if u.answered[i] || i == len(u.sent)-1 {
			r.Outage = max(r.Outage, at.Sub(last)-u.interval)
			last = at
		}
	}
	if lost >= 0 {
		r.Gap = max(r.Gap, u.sent[len(u.sent)-1].Sub(u.sent[lost])+u.interval)
	}
	return r
}

// Stop ends the stream, waits a little for the last answers, and returns the report.
func (u *UDPStream) Stop() UDPReport {
	u.cancel()
	u.wait.Wait()
	u.conn.Close()
	return u.Report()
}

// OneWay sends numbered UDP packets that nobody answers; Server.Flow reports what arrived.
type OneWay struct {
	Flow uint64 // for Server.Flow

	cancel context.CancelFunc
	wait   sync.WaitGroup
	conn   *net.UDPConn
	sent   int
}

// StartOneWay sends a packet each interval (default 1ms) from ns until Stop is called or ctx ends. The target's port is PortSink by default.
func StartOneWay(ctx context.Context, ns *NS, s Socket, to netip.AddrPort, interval time.Duration) (*OneWay, error) {
	conn, err := ns.DialUDP(s, withPort(to, PortSink))
	if err != nil {
		return nil, fmt.Errorf("starting a one-way stream: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &OneWay{Flow: rand.Uint64(), cancel: cancel, conn: conn}
	o.wait.Go(func() {
		pace(ctx, orMillisecond(interval), func() {
			var packet [stampSize]byte
			stamp{flow: o.Flow, sequence: uint64(o.sent), sent: time.Now().UnixNano()}.put(packet[:])
			o.sent++
			writeAnyway(conn, packet[:])
		})
	})
	return o, nil
}

// Stop ends the stream and returns how many packets were sent.
func (o *OneWay) Stop() int {
	o.cancel()
	o.wait.Wait()
	o.conn.Close()
	return o.sent
}

// writeAnyway sends a packet also if the socket still has to tell of an ICMP error that an earlier one met.
func writeAnyway(conn *net.UDPConn, packet []byte) {
	if _, err := conn.Write(packet); err != nil {
		_, _ = conn.Write(packet)
	}
}

// pace calls f each interval until ctx ends. Late calls are made up for, at most 100 at a time.
func pace(ctx context.Context, interval time.Duration, f func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(next) > 100*interval {
			next = now
		}
		for !next.After(now) {
			f()
			next = next.Add(interval)
		}
		timer.Reset(time.Until(next))
	}
}

// withPort gives a target its default port.
func withPort(to netip.AddrPort, port uint16) netip.AddrPort {
	if to.Port() != 0 {
		return to
	}
	return netip.AddrPortFrom(to.Addr(), port)
}

// orMillisecond is the default interval.
func orMillisecond(d time.Duration) time.Duration {
	if d == 0 {
		return time.Millisecond
	}
	return d
}
