package dns

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/routes"
)

func FuzzDNSAnswer(f *testing.F) {
	query, err := NewQuery("www.example.org", routes.IPv4, bytes.Repeat([]byte{0xa5}, 34))
	if err != nil {
		f.Fatal(err)
	}
	answer := append([]byte(nil), query...)
	answer[2] |= response
	f.Add(answer)
	f.Add(query)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, ok := Answers(data, query); !ok {
			return
		}
		var got, want dnsmessage.Parser
		h, err := got.Start(data)
		if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(query) {
			t.Fatalf("believed %+v, %v: %x", h, err, data)
		}
		if _, err := want.Start(query); err != nil {
			t.Fatal(err)
		}
		asked, _ := want.Question()
		if q, err := got.Question(); err != nil || q != asked {
			t.Fatalf("believed %+v, %v: %x", q, err, data)
		}
	})
}

func FuzzDNSQuery(f *testing.F) {
	f.Add("www.example.org", bytes.Repeat([]byte{0xa5}, 34))
	f.Add(".", make([]byte, 34))
	f.Fuzz(func(t *testing.T, name string, random []byte) {
		if len(random) < 2 {
			return
		}
		query, err := NewQuery(name, routes.IPv6, random)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			t.Fatal(err)
		}
		want := strings.ToLower(strings.TrimSuffix(name, ".") + ".")
		if got := m.Questions[0].Name.String(); !strings.EqualFold(got, want) {
			t.Fatalf("asked for %q, want %q", got, want)
		}
	})
}
