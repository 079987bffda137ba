// Package dns asks for the addresses of names, and reads what servers answer:
// messages only, no sockets.
package dns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/routes"
)

// Port is where servers listen.
const Port = 53

const (
	headerBytes = 12
	response    = 0x80 // in byte 2
	opcode      = 0x78 // in byte 2
	rcode       = 0x0f // in byte 3
)

// RandomBytes is how many of them a query takes.
const RandomBytes = 34

// NewQuery makes a query for the addresses of a name. Which of its letters are
// capitals is random, as is the id: an answer repeats both. random has at least 2
// bytes; RandomBytes are enough for every name.
func NewQuery(name string, family routes.Family, random []byte) ([]byte, error) {
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

// Answers says whether b answers our query, and with which code. The
// question must be there as it was asked, letter by letter.
func Answers(b, query []byte) (dnsmessage.RCode, bool) {
	if len(b) < len(query) || !bytes.Equal(b[:2], query[:2]) {
		return 0, false
	}
	if b[2]&response == 0 || b[2]&opcode != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, false
	}
	if !bytes.Equal(b[headerBytes:len(query)], query[headerBytes:]) {
		return 0, false
	}
	return dnsmessage.RCode(b[3] & rcode), true
}
