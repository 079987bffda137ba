package probe

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
	"multiroute/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// patience is how long a test waits for what must happen.
const patience = 5 * time.Second

// families are those of the tests that run in both.
var families = []routes.Family{routes.IPv4, routes.IPv6}

// world is a router with uplinks, each with its mark and table, and main's own
// default routes, which prefer the first uplink.
type world struct {
	*lab.Topology
	roots *x509.CertPool
}

// newWorld builds one.
func newWorld(t testing.TB, build func(lab.Options) (*lab.Topology, error), o lab.Options) *world {
	t.Helper()
	o.DefaultRoutes = true
	w := &world{Topology: lab.New(t, build, o)}
	for _, u := range w.Uplinks {
		for _, family := range families {
			gateway := u.Gateway
			if family == routes.IPv6 {
				gateway = u.Gateway6
			}
			table := 20000 + u.ID
			route := lab.Route{Dst: family.Default(), Gateway: gateway, Interface: u.Interface, Table: table}
			if err := w.Router.AddRoute(route); err != nil {
				t.Fatal(err)
			}
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Mark, rule.Table = int(family), 10100, mark(u), table
			if err := w.Router.Handle().RuleAdd(rule); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// routeAddresses makes rules for packets from the uplinks' addresses, as the
// agent does: what still arrives for a connection that was reset is answered with
// another reset, by the kernel, which has no mark.
func (w *world) routeAddresses(t testing.TB) {
	t.Helper()
	for _, u := range w.Uplinks {
		for _, family := range families {
			from := w.path(t, u, family).Source
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Table = int(family), 10300, 20000+u.ID
			rule.Src = &net.IPNet{IP: from.AsSlice(), Mask: net.CIDRMask(from.BitLen(), from.BitLen())}
			if err := w.Router.Handle().RuleAdd(rule); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// mark is the mark of an uplink.
func mark(u *lab.Uplink) uint32 { return uint32(u.ID) << 24 }

// path returns where the probes of an uplink leave.
func (w *world) path(t testing.TB, u *lab.Uplink, family routes.Family) health.Path {
	t.Helper()
	link, err := w.Router.Link(u.Interface)
	if err != nil {
		t.Fatal(err)
	}
	path := health.Path{Interface: u.Interface, Index: link.Attrs().Index, Mark: mark(u), Source: u.Address.Addr(), Gateway: u.Gateway, DNS: []netip.Addr{u.DNS}}
	if family == routes.IPv6 {
		path.Source, path.Gateway, path.DNS = u.Address6.Addr(), u.Gateway6, []netip.Addr{u.DNS6}
	}
	return path
}

// internet is an address that every uplink reaches.
func internet(family routes.Family) netip.Addr {
	if family == routes.IPv6 {
		return lab.InternetAddress6
	}
	return lab.InternetAddress
}

// client is an open prober and what it reports.
type client struct {
	*prober
	results chan health.Result
	token   uint64
}

// open opens the prober of an uplink, which is closed at the end.
func (w *world) open(t testing.TB, u *lab.Uplink, family routes.Family, targets ...config.Target) *client {
	t.Helper()
	return w.openPath(t, u.Name, family, w.path(t, u, family), targets...)
}

// openPath opens a prober, and collects all the time until it is closed.
func (w *world) openPath(t testing.TB, name string, family routes.Family, path health.Path, targets ...config.Target) *client {
	t.Helper()
	c := &client{results: make(chan health.Result, 1024)}
	opener := Opener(Options{Random: rand.Reader, Roots: w.roots, enter: w.Router.Do})
	p, err := opener(health.Leg{Uplink: name, Family: family}, path, targets, func(r health.Result) { c.results <- r })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	c.prober = p.(*prober)
	go func() {
		for tick := time.NewTicker(time.Millisecond); c.ctx.Err() == nil; <-tick.C {
			c.Collect()
		}
	}()
	return c
}

// send sends a probe and returns its token.
func (c *client) send(i int, timeout time.Duration) uint64 {
	c.token++
	c.Send(i, c.token, timeout)
	return c.token
}

// wait returns the next result, which must be of that probe.
func (c *client) wait(t testing.TB, token uint64) health.Result {
	t.Helper()
	select {
	case r := <-c.results:
		if r.Token != token {
			t.Fatalf("a result for token %d, %v; want token %d", r.Token, r.Err, token)
		}
		return r
	case <-time.After(2 * patience): // a probe may take all of its own
		t.Fatalf("no result for token %d", token)
	}
	return health.Result{}
}

// answered makes a probe, which must be answered.
func (c *client) answered(t testing.TB, i int) time.Duration {
	t.Helper()
	r := c.wait(t, c.send(i, patience))
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if r.RTT <= 0 || r.RTT > patience {
		t.Fatalf("RTT %s", r.RTT)
	}
	return r.RTT
}

// refused makes a probe, which must come to an error with that text.
func (c *client) refused(t testing.TB, i int, text string) {
	t.Helper()
	r := c.wait(t, c.send(i, patience))
	if r.Err == nil || r.Err.Error() != text {
		t.Fatalf("got %v, want %s", r.Err, text)
	}
}

// ignoring waits until so many answers were ignored.
func (c *client) ignoring(t testing.TB, want uint64) {
	t.Helper()
	eventually(t, func() error {
		if got := c.Ignored(); got != want {
			return fmt.Errorf("%d answers ignored, want %d", got, want)
		}
		return nil
	})
}

// quiet fails if there is a result.
func (c *client) quiet(t testing.TB) {
	t.Helper()
	select {
	case r := <-c.results:
		t.Fatalf("a result for token %d: RTT %s, %v", r.Token, r.RTT, r.Err)
	default:
	}
}

// eventually waits until f has no error.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// line is somebody on an uplink's segment, who sees all packets and can send any.
type line struct {
	fd    int
	index int
}

// listen puts somebody on the provider's side of an uplink.
func listen(t testing.TB, u *lab.Uplink) *line {
	t.Helper()
	link, err := u.Provider.NS.Link("customer")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{index: link.Attrs().Index}
	err = u.Provider.NS.Do(func() (err error) {
		l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(l.fd) })
	all := uint16(unix.ETH_P_ALL)
	wait := unix.NsecToTimeval(int64(patience))
	for _, err := range []error{
		unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: l.index}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// frame is a packet and the neighbour it came from, or goes to.
type frame struct {
	protocol uint16 // as on the wire
	mac      [8]byte
	packet   []byte
}

// next returns the next packet that matches.
func (l *line) next(t testing.TB, match func(frame) bool) frame {
	t.Helper()
	for {
		b := make([]byte, 2048)
		n, from, err := unix.Recvfrom(l.fd, b, 0)
		if err != nil {
			t.Fatalf("waiting for a packet: %v", err)
		}
		link := from.(*unix.SockaddrLinklayer)
		f := frame{link.Protocol, link.Addr, b[:n]}
		if match(f) {
			return f
		}
	}
}

// send sends a packet.
func (l *line) send(t testing.TB, f frame) {
	t.Helper()
	to := &unix.SockaddrLinklayer{Protocol: f.protocol, Ifindex: l.index, Halen: 6, Addr: f.mac}
	if err := unix.Sendto(l.fd, f.packet, 0, to); err != nil {
		t.Fatal(err)
	}
}

// isEcho matches echo requests.
func isEcho(f frame) bool {
	return len(f.packet) >= header4+echoLength && f.packet[0]>>4 == 4 && f.packet[9] == unix.IPPROTO_ICMP && f.packet[20] == echoRequest4 ||
		len(f.packet) >= header6+echoLength && f.packet[0]>>4 == 6 && f.packet[6] == unix.IPPROTO_ICMPV6 && f.packet[40] == echoRequest6
}

// ping is an echo request, in parts, that an answer can be made of.
type ping struct {
	frame
	from, to netip.Addr
	icmp     []byte
}

// nextPing returns the next echo request.
func (l *line) nextPing(t testing.TB) ping {
	t.Helper()
	p := ping{frame: l.next(t, isEcho)}
	if p.packet[0]>>4 == 4 {
		p.from, p.to, _, p.icmp, _ = parseHeader4(p.packet)
	} else {
		p.from, p.to = netip.AddrFrom16([16]byte(p.packet[8:])), netip.AddrFrom16([16]byte(p.packet[24:]))
		p.icmp = p.packet[header6:]
	}
	return p
}

// reply makes the right answer, and changes it.
func (p ping) reply(change func(from, to *netip.Addr, icmp *[]byte)) frame {
	from, to, icmp := p.to, p.from, append([]byte(nil), p.icmp...)
	icmp[0] = echoReply4
	if to.Is6() {
		icmp[0] = echoReply6
	}
	change(&from, &to, &icmp)
	return frame{p.protocol, p.mac, ipPacket(from, to, icmp)}
}

// unreachable makes the right error message, and changes the quoted packet.
func (p ping) unreachable(from netip.Addr, change func(quoted *[]byte)) frame {
	quoted := append([]byte(nil), p.packet...)
	change(&quoted)
	kind := byte(unreachable4)
	if from.Is6() {
		kind = unreachable6
	}
	return frame{p.protocol, p.mac, ipPacket(from, p.from, append([]byte{kind, 1, 0, 0, 0, 0, 0, 0}, quoted...))}
}

// ipPacket makes an IP packet of an ICMP message.
func ipPacket(from, to netip.Addr, icmp []byte) []byte {
	icmp[2], icmp[3] = 0, 0
	if len(icmp)%2 == 1 {
		icmp = append(icmp, 0)
	}
	if from.Is4() {
		binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
		b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0}
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(icmp)))
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(b, icmp...)
	}
	hops := byte(64)
	if icmp[0] == neighbourReply6 {
		hops = hopsND
	}
	addrs := append(from.AsSlice(), to.AsSlice()...)
	pseudo := append(append([]byte(nil), addrs...), 0, 0, byte(len(icmp)>>8), byte(len(icmp)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))
	b := append([]byte{0x60, 0, 0, 0, byte(len(icmp) >> 8), byte(len(icmp)), unix.IPPROTO_ICMPV6, hops}, addrs...)
	return append(b, icmp...)
}

// text writes an address as in a target.
func text(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// icmpTarget is a target to ping.
func icmpTarget(a netip.Addr) config.Target {
	return config.Target{Text: "icmp://" + text(a), Scheme: config.ICMP, Addr: a, Host: a.String()}
}

// tcpTarget is a target to connect to.
func tcpTarget(a netip.Addr, port uint16) config.Target {
	return config.Target{Text: fmt.Sprintf("tcp://%s:%d", text(a), port), Scheme: config.TCP, Addr: a, Host: a.String(), Port: port}
}
