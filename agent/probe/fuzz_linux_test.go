package probe

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
)

// secret is the nonce of the probe that waits in fuzz tests.
var secret = nonce{0xd1, 0x5e, 0xa5, 0xed, 0x0b, 0x5e, 0x55, 0x1f, 0xfe, 0xed, 0xfa, 0xce, 0xca, 0xfe, 0xba, 0xbe}

const (
	fuzzID     = 0x4d52
	fuzzNumber = 0x1234
	fuzzIndex  = 7
)

// waiting returns a prober without sockets, with one echo request waiting.
func waiting(source, target netip.Addr, now time.Time) *prober {
	p := &prober{
		leg:  health.Leg{Family: routes.FamilyOf(source)},
		path: health.Path{Source: source, Index: fuzzIndex},
		id:   fuzzID,
	}
	p.outstanding.next = fuzzNumber
	p.outstanding.add(sent{target: &pinged, to: target, nonce: secret, at: now, timeout: time.Second})
	return p
}

// pinged is the target of that request.
var pinged = target{Target: config.Target{Scheme: config.ICMP}}

// believable checks what was heard against what must hold of everything that is
// believed, and that the kernel's filter would have let it through.
func believable(t *testing.T, p *prober, h heard, data, seen []byte, now time.Time) {
	vm, err := bpf.NewVM(echoFilter(p.leg.Family, p.id))
	if err != nil {
		t.Fatal(err)
	}
	s, ok := p.believe(h, message{data: data, index: fuzzIndex, at: now})
	if !ok {
		return
	}
	if s.nonce != secret {
		t.Fatal("another probe")
	}
	if !h.failed && !bytes.Contains(data, secret[:]) {
		t.Fatalf("believed without the nonce: %x", data)
	}
	if h.failed && (!bytes.Contains(data, []byte{fuzzID >> 8, fuzzID & 0xff, fuzzNumber >> 8, fuzzNumber & 0xff}) || !bytes.Contains(data, s.to.AsSlice())) {
		t.Fatalf("believed an error about something else: %x", data)
	}
	if n, err := vm.Run(seen); err != nil || n == 0 {
		t.Fatalf("the filter drops what is believed (%v): %x", err, data)
	}
	if _, again := p.believe(h, message{data: data, index: fuzzIndex, at: now}); again {
		t.Fatal("believed twice")
	}
}

func FuzzICMP4(f *testing.F) {
	source, target := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.9")
	request := appendEcho(nil, routes.IPv4, fuzzID, fuzzNumber, secret)
	reply := append([]byte{echoReply4}, request[1:]...)
	about := append([]byte{unreachable4, 1, 0, 0, 0, 0, 0, 0}, ipPacket(source, target, request)...)
	f.Add(ipPacket(target, source, reply))
	f.Add(ipPacket(target, source, about))
	f.Add(ipPacket(target, source, about)[:header4+echoHeader+header4+echoHeader])
	options := ipPacket(target, source, reply)
	f.Add(append(append([]byte{0x46}, options[1:header4]...), append([]byte{1, 1, 1, 1}, options[header4:]...)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1e9, 0)
		h, ok := parseICMP4(data)
		if !ok {
			return
		}
		if h.failed {
			length := int(data[0]&0xf) * 4
			if data[length+echoHeader]&0xf != 5 {
				return // our probes have no options; the filter does not look for them
			}
		}
		believable(t, waiting(source, target, now), h, data, data, now.Add(time.Millisecond))
	})
}

func FuzzICMP6(f *testing.F) {
	source, target := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::9")
	request := appendEcho(nil, routes.IPv6, fuzzID, fuzzNumber, secret)
	f.Add(append([]byte{echoReply6}, request[1:]...))
	about := append([]byte{unreachable6, 1, 0, 0, 0, 0, 0, 0}, ipPacket(source, target, request)...)
	f.Add(about)
	f.Add(about[:echoHeader+header6+echoHeader])
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1e9, 0)
		if h, ok := parseICMP6(data, target, source); ok {
			believable(t, waiting(source, target, now), h, data, data, now.Add(time.Millisecond))
		}
	})
}

func FuzzARP(f *testing.F) {
	question := appendARP(nil, []byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.254"))
	f.Add(question)
	answer := append([]byte(nil), question...)
	answer[7] = replyARP
	f.Add(answer)
	f.Fuzz(func(t *testing.T, data []byte) {
		from, to, mac, ok := parseARP(data)
		if !ok {
			return
		}
		again := appendARP(nil, mac[:], to, from) // the question it answers
		if data[7] != replyARP || !bytes.Equal(again[8:18], data[18:28]) || !bytes.Equal(again[24:28], data[14:18]) {
			t.Fatalf("from %s to %s: %x", from, to, data)
		}
		vm, err := bpf.NewVM(filterARP(from))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := vm.Run(data); err != nil || n == 0 {
			t.Fatalf("the filter drops it (%v): %x", err, data)
		}
	})
}

func FuzzAdvertisement(f *testing.F) {
	gateway := netip.MustParseAddr("fe80::1")
	f.Add(append([]byte{neighbourReply6, 0, 0, 0, 0xe0, 0, 0, 0}, gateway.AsSlice()...))
	f.Add(appendSolicitation(nil, []byte{2, 0, 0, 0, 0, 1}, gateway))
	f.Fuzz(func(t *testing.T, data []byte) {
		addr, ok := parseAdvertisement(data)
		if !ok {
			return
		}
		if data[0] != neighbourReply6 || data[4]&solicitedND == 0 || !bytes.Equal(data[8:24], addr.AsSlice()) {
			t.Fatalf("%s: %x", addr, data)
		}
		vm, err := bpf.NewVM(filterND(addr))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := vm.Run(data); err != nil || n == 0 {
			t.Fatalf("the filter drops it (%v): %x", err, data)
		}
	})
}

// What the kernel tells along with a message may be cut off anywhere.
func FuzzControl(f *testing.F) {
	f.Add(unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 7}))
	f.Add(unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: 7}))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1e9, 0)
		m := message{at: now}
		m.control(data)
		if m.at.After(now) || now.Sub(m.at) > time.Minute {
			t.Fatalf("received at %s, read at %s", m.at, now)
		}
	})
}
