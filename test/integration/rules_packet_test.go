//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/test/lab"
)

// witness sees every packet that reaches the internet, of whatever protocol.
type witness struct {
	t        *testing.T
	file     *os.File
	wait     sync.WaitGroup
	patience time.Duration // after which a packet counts as lost

	mu   sync.Mutex
	seen map[destination]arrival // the first since forget
}

// destination is what NAT of the source leaves as it is.
type destination struct {
	addr  netip.Addr
	port  uint16 // 0 where the protocol has none
	proto uint8
}

// arrival is the rest of a packet.
type arrival struct {
	from netip.Addr
	port uint16 // of the source; 0 where the protocol has none
	dscp uint8
	data []byte // all behind the IP header
}

// watchInternet begins to look.
func watchInternet(t *testing.T, internet *lab.NS) *witness {
	t.Helper()
	w := &witness{t: t, patience: time.Second, seen: map[destination]arrival{}}
	must(t, internet.Do(func() error {
		all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		w.file = os.NewFile(uintptr(fd), "witness")
		return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}))
	w.wait.Go(w.look)
	t.Cleanup(func() {
		w.file.Close()
		w.wait.Wait()
	})
	return w
}

func (w *witness) look() {
	buffer := make([]byte, 2048)
	for {
		n, err := w.file.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if to, a, ok := parsePacket(buffer[:n]); ok {
			w.mu.Lock()
			if _, known := w.seen[to]; !known {
				a.data = slices.Clone(a.data)
				w.seen[to] = a
			}
			w.mu.Unlock()
		}
	}
}

// parsePacket reads the first packet of a connection: of TCP only requests to
// open one, of ICMP only echo requests.
func parsePacket(b []byte) (to destination, a arrival, ok bool) {
	if len(b) < 20 {
		return to, a, false
	}
	var rest []byte
	switch {
	case b[0]>>4 == 4:
		to.addr, a.from = netip.AddrFrom4([4]byte(b[16:20])), netip.AddrFrom4([4]byte(b[12:16]))
		to.proto, a.dscp = b[9], b[1]>>2
		rest = b[min(len(b), int(b[0]&15)*4):]
	case b[0]>>4 == 6 && len(b) >= 40:
		to.addr, a.from = netip.AddrFrom16([16]byte(b[24:40])), netip.AddrFrom16([16]byte(b[8:24]))
		to.proto, a.dscp = b[6], uint8(binary.BigEndian.Uint16(b)>>6)&0x3f
		rest = b[40:]
	default:
		return to, a, false
	}
	a.data = rest
	switch {
	case config.HasPorts(to.proto):
		if len(rest) < 4 || to.proto == unix.IPPROTO_TCP && (len(rest) < 14 || rest[13]&0x17 != 2) { // FIN, SYN, RST, ACK
			return to, a, false
		}
		a.port, to.port = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case to.proto == unix.IPPROTO_ICMP, to.proto == unix.IPPROTO_ICMPV6:
		if len(rest) < 1 || rest[0] != echoRequest(to.proto) {
			return to, a, false
		}
	}
	return to, a, true
}

// echoRequest is the ICMP type.
func echoRequest(proto uint8) byte {
	if proto == unix.IPPROTO_ICMPV6 {
		return 128
	}
	return 8
}

// forget makes room for another packet to the same destination.
func (w *witness) forget(to destination) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, to)
}

func (w *witness) find(to destination) (arrival, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.seen[to]
	return a, ok
}

// packet is the first packet of a connection that somebody begins.
type packet struct {
	ns           *lab.NS
	from, to     netip.Addr // from invalid: the kernel chooses
	proto        uint8
	sport, dport uint16 // sport 0: any
	dscp         uint8
	uid          int // of the thread that opens the socket
}

func (p packet) String() string {
	return fmt.Sprintf("%s: protocol %d from %s port %d to %s port %d, DSCP %d, user %d", p.ns.Name, p.proto, p.from, p.sport, p.to, p.dport, p.dscp, p.uid)
}

func (p packet) destination() destination { return destination{p.to, p.dport, p.proto} }

// What became of a packet, where it did not reach the internet.
const (
	refused = "refused" // with an ICMP error, or by the kernel at once
	lost    = "lost"
)

// send sends a packet and says what became of it: the address with which it
// reached the internet, or refused, or lost.
func (w *witness) send(p packet) (arrival, string) {
	w.t.Helper()
	to := p.destination()
	w.forget(to)
	file, err := p.open()
	if err != nil {
		w.t.Fatalf("sending %s: %v", p, err)
	}
	if file == nil {
		return arrival{}, refused
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	must(w.t, err)
	for end := time.Now().Add(w.patience); ; time.Sleep(200 * time.Microsecond) { // a condition with a deadline
		if a, ok := w.find(to); ok {
			return a, ""
		}
		failed := 0
		must(w.t, raw.Control(func(fd uintptr) { failed, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) }))
		must(w.t, err)
		if unreachable(unix.Errno(failed)) {
			return arrival{}, refused
		}
		if time.Now().After(end) {
			return arrival{}, lost
		}
	}
}

func unreachable(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EACCES)
}

// open opens the socket and sends the first packet; nil if the kernel refused
// that at once.
func (p packet) open() (*os.File, error) {
	var file *os.File
	err := p.ns.Do(func() error {
		var err error
		file, err = p.openHere()
		return err
	})
	if err != nil && file != nil {
		file.Close()
		file = nil
	}
	if unreachable(err) {
		return nil, nil
	}
	return file, err
}

// openHere is open in the namespace of the calling thread.
func (p packet) openHere() (*os.File, error) {
	family := unix.AF_INET
	if p.to.Is6() {
		family = unix.AF_INET6
	}
	kind, ports := unix.SOCK_RAW, false
	switch p.proto {
	case unix.IPPROTO_TCP:
		kind, ports = unix.SOCK_STREAM, true
	case unix.IPPROTO_UDP:
		kind, ports = unix.SOCK_DGRAM, true
	}
	if p.uid != 0 { // what counts is who opens the socket's file (nft_meta_get_eval_skugid, net/netfilter/nft_meta.c)
		defer unix.Setfsuid(0)
		if err := unix.Setfsuid(p.uid); err != nil {
			return nil, fmt.Errorf("becoming user %d: %w", p.uid, err)
		}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(p.proto))
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "packet")
	if family == unix.AF_INET6 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(p.dscp)<<2), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
	} else {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(p.dscp)<<2), unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
	}
	if err != nil {
		return file, err
	}
	if kind == unix.SOCK_STREAM { // closing leaves nothing behind
		err = errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err == nil && (p.from.IsValid() || ports && p.sport != 0) {
		from := p.from
		if !from.IsValid() {
			from = netip.IPv4Unspecified()
			if p.to.Is6() {
				from = netip.IPv6Unspecified()
			}
		}
		port := p.sport
		if !ports {
			port = 0
		}
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, port)))
	}
	if err != nil {
		return file, err
	}
	port := p.dport
	if !ports {
		port = 0
	}
	to := sockaddr(netip.AddrPortFrom(p.to, port))
	if kind != unix.SOCK_STREAM { // not connected: then the kernel puts no hash of the socket on the packet
		return file, unix.Sendto(fd, p.payload(), 0, to)
	}
	if err = unix.Connect(fd, to); errors.Is(err, unix.EINPROGRESS) {
		err = nil
	}
	return file, err
}

// payload is what a socket sends that is not TCP's.
func (p packet) payload() []byte {
	b := make([]byte, 32)
	switch p.proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		b[0] = echoRequest(p.proto)
		binary.BigEndian.PutUint32(b[4:], rand.Uint32()) // identifier and sequence
		if p.proto == unix.IPPROTO_ICMP {                // the kernel does it for IPv6
			binary.BigEndian.PutUint16(b[2:], lab.Checksum(b))
		}
	case unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
		binary.BigEndian.PutUint16(b, p.sport)
		binary.BigEndian.PutUint16(b[2:], p.dport)
		switch p.proto { // UDP-Lite covers all, which is written as 0
		case unix.IPPROTO_SCTP: // INIT (RFC 9260, 3.3.2)
			b[12], b[15] = 1, 20
			binary.BigEndian.PutUint32(b[16:], rand.Uint32()|1) // tag
			b[20], b[25], b[27] = 1, 1, 1                       // window and streams
			binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
			return b
		case unix.IPPROTO_DCCP: // REQUEST (RFC 4340, 5.1 and 5.3) with 12 bytes of data
			b[4], b[8] = 5, 1
			binary.BigEndian.PutUint32(b[12:], rand.Uint32()) // sequence number
		}
		binary.BigEndian.PutUint16(b[6:], lab.Checksum(append(pseudo(p.from, p.to, p.proto, len(b)), b...)))
	}
	return b
}

// pseudo is the header of addresses that checksums include, in the order of
// IPv6, which has the same sum as that of IPv4.
func pseudo(from, to netip.Addr, proto uint8, length int) []byte {
	return append(append(from.AsSlice(), to.AsSlice()...), 0, 0, byte(length>>8), byte(length), 0, 0, 0, proto)
}

// intact reports whether a packet of SCTP, DCCP or UDP-Lite has a right
// checksum.
func (a arrival) intact(to destination) bool {
	if to.proto != unix.IPPROTO_SCTP {
		return lab.Checksum(append(pseudo(a.from, to.addr, to.proto, len(a.data)), a.data...)) == 0
	}
	b := slices.Clone(a.data)
	clear(b[8:12])
	return binary.LittleEndian.Uint32(a.data[8:]) == crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
