//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Conn is a TCP connection to a Server, which has said which address it sees.
type Conn struct {
	*net.TCPConn
	Seen netip.AddrPort

	reader *bufio.Reader
	line   []byte
}

// Connect opens a connection from ns to a Server.
func Connect(ctx context.Context, ns *NS, s Socket, to netip.AddrPort) (*Conn, error) {
	tcp, err := ns.DialTCP(ctx, s, to)
	if err != nil {
		return nil, err
	}
	c := &Conn{TCPConn: tcp, reader: bufio.NewReaderSize(tcp, 256)}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			c.Close()
			return nil, err
		}
	}
	line, err := c.reader.ReadString('\n')
	if err == nil {
		c.Seen, err = netip.ParseAddrPort(line[:len(line)-1])
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("reading the server's greeting: %w", err)
	}
	return c, nil
}

// Ping sends a line and waits for its echo.
func (c *Conn) Ping(timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	c.line = fmt.Appendf(c.line[:0], "ping %d\n", time.Now().UnixNano())
	if _, err := c.Write(c.line); err != nil {
		return err
	}
	got, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if string(got) != string(c.line) {
		return fmt.Errorf("sent %q and received %q", c.line, got)
	}
	return nil
}

// SpreadReport is what the servers saw of a number of connections.
type SpreadReport struct {
	Sources map[netip.Addr]int // connections per address seen
	Errors  int
	Samples []error // the first few
}

// String lists the addresses.
func (r SpreadReport) String() string {
	return fmt.Sprintf("%v, %d errors %v", r.Sources, r.Errors, r.Samples)
}

// Target chooses where the i-th connection goes, and how its socket is bound.
type Target func(i int) (Socket, netip.AddrPort)

// To goes to the same place each time.
func To(to netip.AddrPort) Target { return func(int) (Socket, netip.AddrPort) { return Socket{}, to } }

// Everywhere goes to many addresses of the internet, one after the other, by IPv4.
func Everywhere(i int) (Socket, netip.AddrPort) {
	return Socket{}, netip.AddrPortFrom(nth(InternetPrefix.Addr(), 1+i%250), PortTCP)
}

// Everywhere6 goes to many addresses of the internet, one after the other, by IPv6.
func Everywhere6(i int) (Socket, netip.AddrPort) {
	return Socket{}, netip.AddrPortFrom(nth(InternetPrefix6.Addr(), 1+i%60000), PortTCP)
}

// From binds the sockets of a target to local addresses, in turn.
func (t Target) From(local ...netip.Addr) Target {
	return func(i int) (Socket, netip.AddrPort) {
		s, to := t(i)
		s.Local = netip.AddrPortFrom(local[i%len(local)], 0)
		return s, to
	}
}

// Spread opens n connections from ns, some at a time, makes two round trips on each and closes them.
func Spread(ctx context.Context, ns *NS, n int, to Target) SpreadReport {
	report := SpreadReport{Sources: map[netip.Addr]int{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			seen, err := visit(ctx, ns, to, i)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				report.Sources[seen]++
				return
			}
			report.Errors++
			if len(report.Samples) < 5 {
				report.Samples = append(report.Samples, err)
			}
		})
	}
	wait.Wait()
	return report
}

// visit makes one connection of Spread or Churn.
func visit(ctx context.Context, ns *NS, to Target, i int) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	socket, target := to(i)
	c, err := Connect(ctx, ns, socket, target)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	for range 2 {
		if err := c.Ping(patience); err != nil {
			return c.Seen.Addr(), err
		}
	}
	return c.Seen.Addr(), c.finish()
}

// finish closes the connection in order: when it returns, the server has closed its side, and nothing of the connection is on its way.
func (c *Conn) finish() error {
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.reader.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("closing: %w", err)
	}
	return nil
}

// patience is how long a client waits for anything before it calls it failed: long enough for a few retransmissions.
const patience = 5 * time.Second
