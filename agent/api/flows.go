package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
)

const (
	pathFlows = "/v1/flows"

	// maxLine is the longest line of a stream, in bytes.
	maxLine = 64 << 10

	// chunk is how much of a stream is collected before it is sent, in bytes.
	chunk = 16 << 10
)

// A Flow is one connection on an uplink: a line of "agent flows --json". Its keys never
// change their meaning; what is not known is nil here and null there.
type Flow struct {
	// Uplink is the name of the uplink; nil if none has the connection's mark any more.
	Uplink *string `json:"uplink"`

	// Protocol is that of the IP header: tcp, udp, icmp, icmpv6, gre, sctp, ..., or
	// "proto-50" for one without a name here.
	Protocol string `json:"protocol"`

	// Source began the connection, and Destination is where it wanted to go.
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`

	// NAT is what the destination sees instead of Source; nil where Source is not changed.
	NAT *Endpoint `json:"nat"`

	// Inbound is what Destination was changed to: the target of a port forward.
	Inbound *Endpoint `json:"inbound"`

	// State is "unreplied" as long as nothing came back. Then it is the state of TCP
	// ("established", "fin-wait", ...), and for other protocols "replied" or, once the
	// kernel takes it for more than a question and an answer, "assured".
	State string `json:"state"`

	// Sent and Received count what Source sent and got, in packets and in bytes of whole IP
	// packets. They are nil where the kernel does not count.
	SentPackets     *uint64 `json:"sent_packets"`
	SentBytes       *uint64 `json:"sent_bytes"`
	ReceivedPackets *uint64 `json:"received_packets"`
	ReceivedBytes   *uint64 `json:"received_bytes"`

	// Age is for how long there has been this connection, in seconds; nil where the kernel
	// does not note it.
	Age *int64 `json:"age_seconds"`

	// Timeout is after how many seconds without a packet the kernel forgets it; nil for a
	// connection in a flowtable.
	Timeout *uint32 `json:"timeout_seconds"`
}

// An Endpoint is one end of a connection.
type Endpoint struct {
	Address netip.Addr `json:"address"`

	// Port is nil for protocols without ports, and for those whose ports the kernel does
	// not know; for GRE it is the key.
	Port *uint16 `json:"port"`

	// ID is the identifier of an ICMP echo: of the source only.
	ID *uint16 `json:"id"`
}

// String returns "192.0.2.1:80" or "[2001:db8::1]:80"; an ICMP identifier stands where the
// port is.
func (e Endpoint) String() string {
	n := e.Port
	if n == nil {
		n = e.ID
	}
	if n == nil {
		return e.Address.String()
	}
	return netip.AddrPortFrom(e.Address, *n).String()
}

// flowsQuery reads the parameters of a list of connections.
func flowsQuery(query url.Values) (uplink string, err error) {
	for key, values := range query {
		switch {
		case key != "uplink":
			return "", fmt.Errorf("unknown parameter %q: known is uplink", key)
		case len(values) != 1:
			return "", fmt.Errorf("the parameter %q stands there twice: remove one", key)
		case values[0] == "":
			return "", errors.New("the parameter uplink is empty: write the name of an uplink, or leave it out")
		}
		uplink = values[0]
	}
	return uplink, nil
}

// Flows asks for the connections on an uplink, or ("") on all of them, and calls each for
// every one while the list arrives. An error of each ends the list and is returned. The
// error is an ErrUnknown if there is no such uplink; its text then names those that there
// are. The agent breaks the list off if it is not read to its end within 60 seconds.
func (c *Client) Flows(ctx context.Context, uplink string, each func(Flow) error) error {
	path := pathFlows
	if uplink != "" {
		path += "?" + url.Values{"uplink": {uplink}}.Encode()
	}
	n := 0
	var failure error // of each
	err := c.read(ctx, http.MethodGet, path, func(body io.Reader) error {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			var line struct {
				Flow
				errorBody
			}
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				return fmt.Errorf("understanding the agent's answer: %w", err)
			}
			if line.Error != "" {
				return &Error{Code: http.StatusInternalServerError, Text: line.Error}
			}
			if failure = each(line.Flow); failure != nil {
				return failure
			}
			n++
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		return nil
	})
	var answer *Error
	switch {
	case failure != nil:
		return failure
	case err == nil || n == 0:
		return err
	case errors.As(err, &answer):
		return fmt.Errorf("the list is cut off after %d connections: %w", n, err)
	}
	return fmt.Errorf("the list is cut off after %d connections (it has to be read within a minute: write it to a file first): %w", n, err)
}

// A stream is a result that is sent line by line: a JSON value for each call of emit.
type stream func(ctx context.Context, emit func(any) error) error

// streams counts those that are being sent.
type streams struct {
	mu     sync.Mutex
	all    int
	others int // of those, not root's or the own user's
}

// enter reports whether there is room for one more; the caller must then leave.
func (n *streams) enter(owner bool, l limits) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all >= l.streams || !owner && n.others >= l.streams-l.streamsReserved {
		return false
	}
	n.all++
	if !owner {
		n.others++
	}
	return true
}

func (n *streams) leave(owner bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all--
	if !owner {
		n.others--
	}
}

// stream sends a stream as it comes. An error before the first chunk is answered as that of
// any request; one behind it is the last line. A client that does not read is cut off by
// the connection's deadline for writing.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, owner bool, do stream) {
	if !s.streams.enter(owner, s.limits) {
		s.fail(w, http.StatusServiceUnavailable, ErrBusy.Error()+": it sends "+strconv.Itoa(s.limits.streams-s.limits.streamsReserved)+" lists already; try again")
		return
	}
	defer s.streams.leave(owner)
	out := &lineWriter{w: w}
	lines := bufio.NewWriterSize(out, chunk)
	emit := func(v any) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("the list was not read in time: %w", err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding a line: %w", err)
		}
		_, err = lines.Write(append(b, '\n'))
		return err
	}
	err := do(ctx, emit)
	switch {
	case err != nil && !out.begun:
		s.fail(w, StatusCode(err), err.Error())
		return
	case err != nil:
		b, _ := json.Marshal(errorBody{Error: err.Error()}) // a string can always be encoded
		_, _ = lines.Write(append(b, '\n'))                 // the client may have gone away
	}
	// Without a single line there still is a header.
	_, _ = out.Write(nil)
	_ = lines.Flush() // the client may have gone away
}

// lineWriter sends the header before the first bytes, and the bytes at once.
type lineWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lineWriter) Write(b []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/jsonl")
		l.w.WriteHeader(http.StatusOK)
	}
	n, err := l.w.Write(b)
	if err == nil {
		err = http.NewResponseController(l.w).Flush()
	}
	return n, err
}
