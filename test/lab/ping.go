//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Ping sends one ICMP echo request from ns, and waits for the answer as long as ctx lasts. It returns the round trip time.
func Ping(ctx context.Context, ns *NS, s Socket, to netip.Addr) (time.Duration, error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	d := net.Dialer{Control: s.control}
	if s.Local.IsValid() {
		d.LocalAddr = &net.IPAddr{IP: s.Local.Addr().AsSlice()}
	}
	c, err := inNS[*net.IPConn](ns, func() (any, error) { return d.DialContext(ctx, network, to.String()) })
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	packet := make([]byte, 64)
	packet[0] = request
	binary.BigEndian.PutUint64(packet[4:], rand.Uint64())    // identifier, sequence and the beginning of the data
	binary.BigEndian.PutUint16(packet[2:], Checksum(packet)) // the kernel does it again for IPv6
	start := time.Now()
	if _, err := c.Write(packet); err != nil {
		return 0, fmt.Errorf("pinging %s from %s: %w", to, ns.Name, err)
	}
	answer := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(answer) // without the IP header, unlike Read
		if err != nil {
			return 0, fmt.Errorf("pinging %s from %s: %w", to, ns.Name, err)
		}
		if n == len(packet) && answer[0] == reply && [8]byte(answer[4:12]) == [8]byte(packet[4:12]) {
			return time.Since(start), nil
		}
	}
}

// Checksum is the internet checksum (RFC 1071).
func Checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
