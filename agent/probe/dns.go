package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/routes"
)

// portDNS is where DNS servers listen.
const portDNS = 53

const (
	headerDNS   = 12
	responseDNS = 0x80 // in byte 2
	opcodeDNS   = 0x78 // in byte 2
	rcodeDNS    = 0x0f // in byte 3
)

// newQuery makes a query for the addresses of a name. Which of its letters are
// capitals is random, as is the id: an answer repeats both.
func newQuery(name string, family routes.Family, random []byte) ([]byte, error) {
	kind := dnsmessage.TypeA
	if family == routes.IPv6 {
		kind = dnsmessage.TypeAAAA
	}
	spelled, err := dnsmessage.NewName(spell(name, random[2:]))
	if err != nil {
		return nil, fmt.Errorf("asking for %q: %w", name, err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: binary.BigEndian.Uint16(random), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: spelled, Type: kind, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("asking for %q: %w", name, err)
	}
	return query, nil
}

// spell makes a random choice of the letters capitals, and the name complete.
func spell(name string, random []byte) string {
	b := []byte(strings.ToLower(strings.TrimSuffix(name, ".") + "."))
	for i, c := range b {
		if 'a' <= c && c <= 'z' && len(random) > 0 && random[i/8%len(random)]>>(i%8)&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// answersQuery says whether b answers our query, and with which code. The
// question must be there as it was asked, letter by letter.
func answersQuery(b, query []byte) (dnsmessage.RCode, bool) {
	if len(b) < len(query) || !bytes.Equal(b[:2], query[:2]) {
		return 0, false
	}
	if b[2]&responseDNS == 0 || b[2]&opcodeDNS != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, false
	}
	if !bytes.Equal(b[headerDNS:len(query)], query[headerDNS:]) {
		return 0, false
	}
	return dnsmessage.RCode(b[3] & rcodeDNS), true
}
