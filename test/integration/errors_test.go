package integration

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestErrorsLeaveByTheirUplink: what the router says about a packet that came in
// (its time is up; there is no way to go on) leaves by the uplink that the
// packet came in by, with that uplink's address.
func TestErrorsLeaveByTheirUplink(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, topology, lab.Options{})
			h.start(ctx, rig.Config(h.Topology, nil))
			client4, client6 := lab.ClientAddress(0)
			for _, u := range h.Uplinks {
				// A shared interface tells uplinks apart by who sent the frame: the
				// agent has to have heard of the gateway.
				for _, v6 := range []bool{false, true} {
					h.connectionOn(ctx, u, v6).Close()
				}
				for _, to := range []netip.Addr{client4, client6} {
					own, source := u.Address.Addr(), lab.InternetAddress
					if to.Is6() {
						own, source = u.Address6.Addr(), lab.InternetAddress6
					}
					route := netip.PrefixFrom(to, to.BitLen())
					must(t, u.Provider.NS.ReplaceRoute(lab.Route{Dst: route, Gateway: own}))
					back, err := h.Internet.Handle().RouteGet(own.AsSlice())
					must(t, err)
					via, _ := netip.AddrFromSlice(back[0].Gw)
					must(t, h.Internet.ReplaceRoute(lab.Route{Dst: route, Gateway: via.Unmap()}))
					h.until(5*time.Second, "an error about a packet by "+u.Name+" to "+to.String(), func() bool {
						from, ok := exceeded(t, h.Internet, netip.AddrPortFrom(source, 0), netip.AddrPortFrom(to, 9))
						return ok && from == own
					})
				}
			}
		})
	}
}

// exceeded sends a packet whose time is up at the second router, and returns who
// says so.
func exceeded(t *testing.T, ns *lab.NS, from, to netip.AddrPort) (said netip.Addr, ok bool) {
	t.Helper()
	must(t, ns.Do(func() error {
		network := "udp4"
		if to.Addr().Is6() {
			network = "udp6"
		}
		c, err := net.DialUDP(network, net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		if err := raw.Control(func(fd uintptr) {
			if to.Addr().Is6() {
				if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1); failed == nil {
					failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 2)
				}
			} else if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1); failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, 2)
			}
		}); err != nil || failed != nil {
			return err
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		end := time.Now().Add(300 * time.Millisecond)
		for !ok && time.Now().Before(end) {
			_ = raw.Control(func(fd uintptr) {
				pfd := []unix.PollFd{{Fd: int32(fd)}} // an error wakes it whatever is asked for
				_, _ = unix.Poll(pfd, 50)
				oob := make([]byte, 512)
				_, n, _, _, err := unix.Recvmsg(int(fd), make([]byte, 64), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
				if err == nil {
					said, ok = offender(oob[:n])
				}
			})
		}
		return nil
	}))
	return said, ok
}

// offender reads who sent an ICMP error (ip(7), SO_EE_OFFENDER: the address
// stands behind struct sock_extended_err).
func offender(oob []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	const extended = 16
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR && len(m.Data) >= extended+8:
			return netip.AddrFrom4([4]byte(m.Data[extended+4:])), true
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR && len(m.Data) >= extended+24:
			return netip.AddrFrom16([16]byte(m.Data[extended+8:])), true
		}
	}
	return netip.Addr{}, false
}
