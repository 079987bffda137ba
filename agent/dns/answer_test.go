package dns

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/routes"
)

func mustName(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

// answerTo makes an answer to a query for www.example.org.
func answerTo(t testing.TB, query []byte, change func(*dnsmessage.Message)) []byte {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Fatal(err)
	}
	m.Response = true
	change(&m)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func resource(name string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: mustName(name), Class: dnsmessage.ClassINET, TTL: ttl}, Body: body}
}

func TestParse(t *testing.T) {
	t.Parallel()
	a := func(name string, ttl uint32, last byte) dnsmessage.Resource {
		return resource(name, ttl, &dnsmessage.AResource{A: [4]byte{192, 0, 2, last}})
	}
	six := func(name string, ttl uint32, last byte) dnsmessage.Resource {
		return resource(name, ttl, &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8, 15: last}})
	}
	alias := func(name string, ttl uint32, to string) dnsmessage.Resource {
		return resource(name, ttl, &dnsmessage.CNAMEResource{CNAME: mustName(to)})
	}
	addrs := func(all ...string) []netip.Addr {
		var list []netip.Addr
		for _, s := range all {
			list = append(list, netip.MustParseAddr(s))
		}
		return list
	}
	const www = "www.example.org."
	soa := resource("example.org.", 100, &dnsmessage.SOAResource{NS: mustName("ns."), MBox: mustName("m."), MinTTL: 30})
	for _, tt := range []struct {
		name    string
		v6      bool
		answers []dnsmessage.Resource
		more    func(*dnsmessage.Message)
		want    Addresses
		err     error
	}{
		{name: "addresses", answers: []dnsmessage.Resource{a(www, 60, 1), a("WWW.Example.ORG.", 20, 2), six(www, 5, 1)}, want: Addresses{Addrs: addrs("192.0.2.1", "192.0.2.2"), TTL: 20 * time.Second}},
		{name: "IPv6", v6: true, answers: []dnsmessage.Resource{a(www, 60, 1), six(www, 50, 1)}, want: Addresses{Addrs: addrs("2001:db8::1"), TTL: 50 * time.Second}},
		{name: "aliases, in any order", answers: []dnsmessage.Resource{a("c.net.", 60, 3), alias("B.net.", 10, "C.net."), alias(www, 30, "b.net.")}, want: Addresses{Addrs: addrs("192.0.2.3"), TTL: 10 * time.Second}},
		{name: "an alias only", answers: []dnsmessage.Resource{alias(www, 30, "B.net.")}, want: Addresses{TTL: 30 * time.Second, Alias: "b.net"}},
		{name: "somebody else's address", answers: []dnsmessage.Resource{a("bank.example.", 60, 3)}},
		{name: "in a circle", answers: []dnsmessage.Resource{alias(www, 30, "b.net."), alias("b.net.", 30, www)}, want: Addresses{TTL: 30 * time.Second, Alias: "www.example.org"}},
		{name: "nobody's addresses", answers: []dnsmessage.Resource{a(www, 60, 1), resource(www, 60, &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}), resource(www, 60, &dnsmessage.AResource{})},
			want: Addresses{Addrs: addrs("192.0.2.1"), TTL: time.Minute}},
		{name: "a TTL below 0", answers: []dnsmessage.Resource{a(www, 1<<31, 1)}, want: Addresses{Addrs: addrs("192.0.2.1")}},
		{name: "nothing", more: func(m *dnsmessage.Message) { m.Authorities = []dnsmessage.Resource{soa} }, want: Addresses{TTL: 30 * time.Second}},
		{name: "no such name", more: func(m *dnsmessage.Message) {
			m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa}
		}, want: Addresses{TTL: 30 * time.Second}},
		{name: "cut off", answers: []dnsmessage.Resource{a(www, 60, 1)}, more: func(m *dnsmessage.Message) { m.Truncated = true }, want: Addresses{Truncated: true}},
		{name: "refused", more: func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }, err: ErrRefused},
	} {
		family := routes.IPv4
		if tt.v6 {
			family = routes.IPv6
		}
		query, err := NewQuery("www.example.org", family, bytes.Repeat([]byte{0xa5}, RandomBytes))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(answerTo(t, query, func(m *dnsmessage.Message) {
			m.Answers = tt.answers
			if tt.more != nil {
				tt.more(m)
			}
		}), query, family)
		if !errors.Is(err, tt.err) || !slices.Equal(got.Addrs, tt.want.Addrs) || got.TTL != tt.want.TTL || got.Alias != tt.want.Alias || got.Truncated != tt.want.Truncated {
			t.Errorf("%s: %+v, %v, wanted %+v, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

// FuzzParse: whatever comes, what is read is bounded and of the right family.
func FuzzParse(f *testing.F) {
	query, err := NewQuery("www.example.org", routes.IPv4, bytes.Repeat([]byte{0xa5}, RandomBytes))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answerTo(f, query, func(m *dnsmessage.Message) {
		m.Answers = []dnsmessage.Resource{resource("www.example.org.", 60, &dnsmessage.CNAMEResource{CNAME: mustName("b.net.")}), resource("b.net.", 60, &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})}
	}), []byte(nil))
	f.Add(answerTo(f, query, func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), []byte("rest"))
	f.Fuzz(func(t *testing.T, data, rest []byte) {
		if len(data) >= len(query) { // the fuzzer does not find the question by itself
			copy(data[:2], query)
			copy(data[4:6], query[4:])
			copy(data[headerBytes:], query[headerBytes:])
		}
		got, err := Parse(append(data, rest...), query, routes.IPv4)
		if err != nil {
			return
		}
		if len(got.Addrs) > maxAddresses || got.TTL < 0 || got.TTL >= 1<<31*time.Second {
			t.Fatalf("%+v", got)
		}
		for _, a := range got.Addrs {
			if !a.Is4() || a.IsLoopback() || a.IsUnspecified() {
				t.Fatalf("address %s", a)
			}
		}
	})
}
