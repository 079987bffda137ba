package domains

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/agent/dns"
	"multiroute/routes"
)

// Answers of the test's server, by name.
func serve(m dnsmessage.Message, tcp bool) dnsmessage.Message {
	q := m.Questions[0]
	m.Response = true
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
	addr := func(name dnsmessage.Name, last byte) dnsmessage.Resource {
		h := h
		h.Name = name
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, last}}}
	}
	alias := func(to string) dnsmessage.Resource {
		h := h
		h.TTL = 30
		return dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}}
	}
	switch first := q.Name.String()[0] | 0x20; first {
	case 'l': // long
		if !tcp {
			m.Truncated = true
			break
		}
		for i := range byte(200) {
			m.Answers = append(m.Answers, addr(q.Name, i))
		}
	case 'c': // an alias with its addresses
		m.Answers = []dnsmessage.Resource{alias("a.org."), addr(dnsmessage.MustNewName("a.org."), 7)}
	case 'b': // an alias without them
		m.Answers = []dnsmessage.Resource{alias("a.org.")}
	case 'e': // of itself
		m.Answers = []dnsmessage.Resource{alias(q.Name.String())}
	case 'r':
		m.RCode = dnsmessage.RCodeRefused
	case 'n':
		m.RCode = dnsmessage.RCodeNameError
	case 'w': // addresses of nowhere, and of another name
		m.Answers = []dnsmessage.Resource{addr(dnsmessage.MustNewName("other.org."), 9)}
	default:
		m.Answers = []dnsmessage.Resource{addr(q.Name, 1), addr(q.Name, 2)}
	}
	return m
}

// startServer serves on a port of its own; each UDP answer comes after one for
// another question.
func startServer(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	answer := func(b []byte, tcp bool) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			return nil
		}
		m = serve(m, tcp)
		out, _ := m.Pack()
		return out
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			out := answer(b[:n], false)
			forged := slices.Clone(out)
			forged[0] ^= 1
			_, _ = u.WriteTo(forged, from)
			_, _ = u.WriteTo(out, from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var length [2]byte
			_, _ = io.ReadFull(c, length[:])
			b := make([]byte, binary.BigEndian.Uint16(length[:]))
			_, _ = io.ReadFull(c, b)
			out := answer(b, true)
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestFollow(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	a := Asker{Random: rand.Reader}
	for _, tt := range []struct {
		name  string
		n     int
		ttl   time.Duration
		fails bool
	}{
		{"a.org", 2, time.Minute, false},
		{"long.org", 200, time.Minute, false},
		{"cname.org", 1, 30 * time.Second, false},
		{"bare.org", 2, 30 * time.Second, false},
		{"endless.org", 0, 0, true},
		{"refused.org", 0, 0, true},
		{"nowhere.org", 0, 0, false},
		{"wrong.org", 0, 0, false},
	} {
		addrs, ttl, err := a.follow(t.Context(), Question{tt.name, routes.IPv4}, server)
		if len(addrs) != tt.n || ttl != tt.ttl || (err != nil) != tt.fails {
			t.Errorf("%s: %v, %v, %v", tt.name, addrs, ttl, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := a.follow(ctx, Question{"a.org", routes.IPv4}, server); err == nil {
		t.Error("it asked although nobody wants to know any more")
	}
}

func TestAskNobody(t *testing.T) {
	t.Parallel()
	a := Asker{Random: rand.Reader, System: filepath.Join(t.TempDir(), "resolv.conf")}
	if _, _, err := a.Ask(t.Context(), Question{"a.org", routes.IPv4}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if dns.Port != 53 {
		t.Errorf("port %d", dns.Port)
	}
}
