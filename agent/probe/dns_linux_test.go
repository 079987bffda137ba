package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/dns"
	"multiroute/routes"
	"multiroute/test/lab"
)

// A DNS message's header, and the flag of a response in its byte 2.
const (
	headerDNS   = 12
	responseDNS = 0x80
)

// dnsTarget asks a server for a name.
func dnsTarget(server netip.Addr, name string) config.Target {
	return config.Target{Text: "dns://" + text(server) + "/" + name, Scheme: config.DNS, Addr: server, Host: server.String(), Port: dns.Port, Name: name}
}

func TestDNS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	w.Server.Resolve("www.example.org", time.Minute, lab.InternetAddress, lab.InternetAddress6)
	for i, u := range w.Uplinks {
		for _, family := range families {
			server, other := u.DNS, w.Uplinks[1-i].DNS
			if family == routes.IPv6 {
				server, other = u.DNS6, w.Uplinks[1-i].DNS6
			}
			// A name that does not exist is an answer, too.
			p := w.open(t, u, family, dnsTarget(server, "www.example.org"), dnsTarget(server, "missing.example.org."), dnsTarget(other, "www.example.org"))
			for range 5 {
				p.answered(t, 0)
				p.answered(t, 1)
			}
			// It answers behind its own provider only.
			if r := p.wait(t, p.send(2, patience)); r.Err == nil {
				t.Errorf("%s: the other provider's server answered", u.Name)
			}
			if p.Ignored() != 0 {
				t.Errorf("%s %s: %d right answers ignored", u.Name, family, p.Ignored())
			}
		}
	}
	if err := w.Leaks(); err != nil {
		t.Error(err)
	}
}

func TestForgedDNSAnswersAreIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	dsl := w.Uplinks[0]
	if err := dsl.Provider.Blackhole(true); err != nil {
		t.Fatal(err)
	}
	p := w.open(t, dsl, routes.IPv4, dnsTarget(dsl.DNS, "www.example.org"))
	attacker := listen(t, dsl)
	ports, ids, spellings := map[uint16]bool{}, map[uint16]bool{}, map[string]bool{}
	ask := func() (uint64, frame) {
		token := p.send(0, patience)
		f := attacker.next(t, func(f frame) bool {
			return len(f.packet) > header4+8+headerDNS && f.packet[0] == 0x45 && f.packet[9] == unix.IPPROTO_UDP && f.packet[header4+3] == dns.Port
		})
		ports[binary.BigEndian.Uint16(f.packet[header4:])] = true
		ids[binary.BigEndian.Uint16(f.packet[header4+8:])] = true
		spellings[string(f.packet[header4+8+headerDNS:])] = true
		return token, f
	}
	answer := func(f frame, change func(ip, udp, dns []byte)) frame {
		b := append([]byte(nil), f.packet...)
		ip, udp, dns := b[:header4], b[header4:header4+8], b[header4+8:]
		copy(ip[12:16], f.packet[16:20])
		copy(ip[16:20], f.packet[12:16])
		copy(udp[0:2], f.packet[header4+2:])
		copy(udp[2:4], f.packet[header4:])
		udp[6], udp[7] = 0, 0 // no checksum
		dns[2] |= responseDNS
		change(ip, udp, dns)
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return frame{f.protocol, f.mac, b}
	}
	same := func(_, _, _ []byte) {}

	forged := 0
	for _, c := range []struct {
		name   string
		unseen bool // the kernel drops it before anybody counts
		change func(ip, udp, dns []byte)
	}{
		{"another id", false, func(_, _, dns []byte) { dns[1] ^= 1 }},
		{"another spelling", false, func(_, _, dns []byte) { dns[headerDNS+5] ^= 0x20 }},
		{"another name", false, func(_, _, dns []byte) { dns[headerDNS+5] = 'x' }},
		{"another type", false, func(_, _, dns []byte) { dns[len(dns)-3] ^= 1 }},
		{"no response", false, func(_, _, dns []byte) { dns[2] &^= responseDNS }},
		{"another opcode", false, func(_, _, dns []byte) { dns[2] |= 0x28 }},
		{"no question", false, func(_, _, dns []byte) { dns[5] = 0 }},
		{"from another port", true, func(_, udp, _ []byte) { udp[1]++ }},
		{"from another server", true, func(ip, _, _ []byte) { ip[15]++ }},
	} {
		ignored := p.Ignored()
		token, f := ask()
		attacker.send(t, answer(f, c.change))
		forged++
		if !c.unseen {
			p.ignoring(t, ignored+1)
		}
		p.quiet(t)
		attacker.send(t, answer(f, same))
		if r := p.wait(t, token); r.Err != nil {
			t.Errorf("%s: the right answer after it: %v", c.name, r.Err)
		}
		attacker.send(t, answer(f, same)) // repeated
		forged++
	}
	p.quiet(t)
	t.Logf("%d forged or repeated DNS answers: 0 believed; of %d queries: %d ports, %d ids, %d spellings", forged, forged/2, len(ports), len(ids), len(spellings))
	if len(ports) < 6 || len(ids) < 6 || len(spellings) < 6 {
		t.Error("the queries are too much alike")
	}

	for code, want := range map[byte]string{0: "", 2: "RCodeServerFailure", 3: "", 5: "RCodeRefused"} {
		token, f := ask()
		attacker.send(t, answer(f, func(_, _, dns []byte) { dns[2] |= 2; dns[3] |= code })) // truncated: never mind
		if want != "" {
			want = fmt.Sprintf("dns://%s/www.example.org: the server answers %s", dsl.DNS, want)
		}
		got := ""
		if r := p.wait(t, token); r.Err != nil {
			got = r.Err.Error()
		}
		if got != want {
			t.Errorf("code %d: %q, want %q", code, got, want)
		}
	}
}
