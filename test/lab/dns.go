//go:build linux

package lab

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
)

// name is what the server's DNS knows of a name.
type name struct {
	ttl   time.Duration
	addrs []netip.Addr
	alias string // CNAME; empty: none
}

// Resolve makes the server's DNS (PortDNS) answer so for a name and, if it begins with "*.", for those below it; "*" is every name. Unknown names do not exist.
func (s *Server) Resolve(host string, ttl time.Duration, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[strings.ToLower(strings.TrimSuffix(host, "."))] = name{ttl: ttl, addrs: addrs}
}

// Alias makes the server's DNS answer that a name stands for another one (CNAME), with what it knows of that.
func (s *Server) Alias(host, target string, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[strings.ToLower(strings.TrimSuffix(host, "."))] = name{ttl: ttl, alias: strings.ToLower(strings.TrimSuffix(target, "."))}
}

// Queries returns how many questions of each name the server's DNS was asked.
func (s *Server) Queries(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[strings.ToLower(strings.TrimSuffix(host, "."))]
}

// DNS types and codes.
const (
	typeA, typeCNAME, typeAAAA, classIN = 1, 5, 28, 1
	dnsHeader                           = 12
	dnsResponse                         = 0x8580 // answer, authoritative, recursion desired and available
	dnsNoName                           = 3
)

// dns answers a question.
func (s *Server) dns(d datagram) {
	host, kind, end := question(d.data)
	if end == 0 {
		return
	}
	answer := append([]byte(nil), d.data[:end]...)
	known, ok := s.look(host)
	flags, count := uint16(dnsResponse), uint16(0)
	if !ok {
		flags |= dnsNoName
	}
	owner := []byte{0xc0, dnsHeader} // the question's name
	record := func(kind uint16, ttl time.Duration, data []byte) {
		count++
		answer = append(answer, owner...)
		answer = binary.BigEndian.AppendUint16(answer, kind)
		answer = binary.BigEndian.AppendUint16(answer, classIN)
		answer = binary.BigEndian.AppendUint32(answer, uint32(ttl/time.Second))
		answer = binary.BigEndian.AppendUint16(answer, uint16(len(data)))
		answer = append(answer, data...)
	}
	for range 8 { // no circles
		if known.alias == "" {
			break
		}
		target := labels(known.alias)
		record(typeCNAME, known.ttl, target)
		owner = target
		known, _ = s.look(known.alias)
	}
	for _, addr := range known.addrs {
		if addr.Is4() && kind != typeA || addr.Is6() && kind != typeAAAA {
			continue
		}
		record(kind, known.ttl, addr.AsSlice())
	}
	binary.BigEndian.PutUint16(answer[2:], flags)
	binary.BigEndian.PutUint16(answer[4:], 1)
	binary.BigEndian.PutUint16(answer[6:], count)
	clear(answer[8:dnsHeader])
	_, _, _ = d.conn.WriteMsgUDPAddrPort(answer, sourceOf(d.oob), d.from)
}

// labels is a name as messages have it.
func labels(host string) []byte {
	var b []byte
	for label := range strings.SplitSeq(host, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// look counts a question, and finds the name or the wildcard above it.
func (s *Server) look(host string) (name, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries[host]++
	if n, ok := s.names[host]; ok {
		return n, true
	}
	for rest := host; ; {
		_, above, ok := strings.Cut(rest, ".")
		if !ok {
			n, ok := s.names["*"]
			return n, ok
		}
		if n, ok := s.names["*."+above]; ok {
			return n, true
		}
		rest = above
	}
}

// question reads the first question of a message; end is where it ends, 0 if it is no question.
func question(b []byte) (host string, kind uint16, end int) {
	if len(b) < dnsHeader || b[2]&0x80 != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return "", 0, 0
	}
	var labels []string
	i := dnsHeader
	for {
		if i >= len(b) {
			return "", 0, 0
		}
		n := int(b[i])
		i++
		if n == 0 {
			break
		}
		if n > 63 || i+n > len(b) {
			return "", 0, 0
		}
		labels = append(labels, strings.ToLower(string(b[i:i+n])))
		i += n
	}
	if i+4 > len(b) {
		return "", 0, 0
	}
	return strings.Join(labels, "."), binary.BigEndian.Uint16(b[i:]), i + 4
}
