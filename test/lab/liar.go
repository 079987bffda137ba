//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Liar is an attacker at a provider: it sees the customer's echo requests, and answers each with several replies that are all wrong. They come from
// the gateway's MAC address, and all but one kind from the right source.
type Liar struct {
	file    *os.File
	lying   atomic.Bool
	lies    atomic.Int64
	wait    sync.WaitGroup
	replays [][]byte // honest replies to requests from before it began to lie
}

// StartLiar makes the attacker listen. It only collects until Lie is called.
func (p *Provider) StartLiar() (*Liar, error) {
	link, err := p.NS.Link(customerSide)
	if err != nil {
		return nil, err
	}
	l := &Liar{}
	err = p.NS.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: link.Attrs().Index}))
		if err != nil {
			unix.Close(fd)
			return err
		}
		l.file = os.NewFile(uintptr(fd), "liar")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("starting an attacker at %s: %w", p.NS.Name, err)
	}
	l.wait.Go(l.run)
	return l, nil
}

// Lie makes it answer from now on.
func (l *Liar) Lie() { l.lying.Store(true) }

// Lies is how many wrong replies were sent.
func (l *Liar) Lies() int { return int(l.lies.Load()) }

// Close ends it.
func (l *Liar) Close() {
	l.file.Close()
	l.wait.Wait()
}

// run reads what the customer sends.
func (l *Liar) run() {
	buffer := make([]byte, 2048)
	for {
		n, err := l.file.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil { // the interface is down
			continue
		}
		reply, header := echoReply(buffer[:n])
		if reply == nil {
			continue
		}
		if !l.lying.Load() {
			if len(l.replays) < 16 {
				l.replays = append(l.replays, reply)
			}
			continue
		}
		for _, lie := range lies(reply, header) {
			l.send(lie)
		}
		for _, old := range l.replays { // correct once, and for every one an answer has come already
			l.send(old)
		}
	}
}

// send sends a frame.
func (l *Liar) send(frame []byte) {
	if _, err := l.file.Write(frame); err == nil {
		l.lies.Add(1)
	}
}

const etherHeader = 14

// echoReply makes the honest reply to an echo request in an Ethernet frame; header is the length of all headers before ICMP's. Nil: it is none.
func echoReply(frame []byte) (reply []byte, header int) {
	if len(frame) < etherHeader+20 {
		return nil, 0
	}
	reply = append([]byte(nil), frame...)
	copy(reply, frame[6:12])
	copy(reply[6:], frame[:6])
	ip := reply[etherHeader:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		header = etherHeader + int(ip[0]&15)*4
		if len(frame) < header+8 || ip[9] != unix.IPPROTO_ICMP || frame[header] != 8 {
			return nil, 0
		}
		swap(ip[12:16], ip[16:20])
		ip[8] = 60 // the time to live
		copy(ip[10:], []byte{0, 0})
		binary.BigEndian.PutUint16(ip[10:], Checksum(ip[:header-etherHeader]))
		reply[header] = 0
	case unix.ETH_P_IPV6:
		header = etherHeader + 40
		if len(frame) < header+8 || ip[6] != unix.IPPROTO_ICMPV6 || frame[header] != 128 {
			return nil, 0
		}
		swap(ip[8:24], ip[24:40])
		ip[7] = 60
		reply[header] = 129
	default:
		return nil, 0
	}
	seal(reply, header)
	return reply, header
}

// lies are replies that are all wrong: another identifier, another nonce, another source, a number that is yet to come.
func lies(reply []byte, header int) [][]byte {
	var all [][]byte
	lie := func(change func(icmp, ip []byte)) {
		wrong := append([]byte(nil), reply...)
		change(wrong[header:], wrong[etherHeader:header])
		if wrong[etherHeader]>>4 == 4 {
			ip := wrong[etherHeader:header]
			copy(ip[10:], []byte{0, 0})
			binary.BigEndian.PutUint16(ip[10:], Checksum(ip))
		}
		seal(wrong, header)
		all = append(all, wrong)
	}
	lie(func(icmp, _ []byte) { icmp[5]++ })                  // identifier
	lie(func(icmp, _ []byte) { icmp[7]++ })                  // sequence number
	lie(func(icmp, _ []byte) { icmp[7]++; clear(icmp[8:]) }) // early: it cannot know the next nonce
	lie(func(icmp, _ []byte) { clear(icmp[8:]) })            // nonce
	lie(func(icmp, _ []byte) { icmp[len(icmp)-1]++ })        // its last byte
	lie(func(_, ip []byte) {                                 // source
		if ip[0]>>4 == 4 {
			ip[15]++
		} else {
			ip[23]++
		}
	})
	return all
}

// swap exchanges two addresses.
func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// seal writes ICMP's checksum.
func seal(frame []byte, header int) {
	icmp := frame[header:]
	copy(icmp[2:], []byte{0, 0})
	odd := make([]byte, len(icmp)%2)
	if frame[etherHeader]>>4 == 4 {
		binary.BigEndian.PutUint16(icmp[2:], Checksum(slices.Concat(icmp, odd)))
		return
	}
	pseudo := append([]byte(nil), frame[etherHeader+8:header]...) // both addresses
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(icmp)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], Checksum(slices.Concat(pseudo, icmp, odd)))
}
