//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"multiroute/conntrack"
)

const (
	flows = 1000 // known connections
	batch = 50   // packets between two looks at the clock: short enough that most batches run undisturbed
)

// Ports: those of known connections, and those of new ones. The destination has always the same.
const (
	firstPort  = 20000
	firstNew   = 30000
	newPorts   = 32768
	targetPort = 443
)

// track drives packets through a house and takes the time.
type track struct {
	house *house
	conns *conntrack.Conn

	out   *sender // known connections, from the LAN
	back  *sender // their replies, from the internet
	fresh *sender // first packets, from the LAN
	bare  *sender // straight from the router's end of a cable: what sending and dropping cost without a router

	sockets       *socketPair
	socketsBack   *sender // the replies to the sockets' known connections
	socketsOpened int     // the sockets' new connections so far

	opened int   // new connections so far
	spread []int // known connections per uplink, since connect
}

func newTrack(h *house) (*track, error) {
	t := &track{house: h}
	err := h.Router.Do(func() (err error) {
		t.conns, err = conntrack.Dial()
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.out, err = newSender(h.Client(), flows); err != nil {
		return nil, err
	}
	if t.back, err = newSender(h.internet, flows); err != nil {
		return nil, err
	}
	if t.fresh, err = newSender(h.Client(), batch); err != nil {
		return nil, err
	}
	if t.bare, err = newSender(h.Router, batch); err != nil {
		return nil, err
	}
	if t.sockets, err = newSocketPair(h.Client(), h.internet); err != nil {
		return nil, err
	}
	if t.socketsBack, err = newSender(h.internet, socketFlows); err != nil {
		return nil, err
	}
	first, err := h.Router.Link(h.Uplinks[0].Interface)
	if err != nil {
		return nil, err
	}
	direct := wire{index: first.Attrs().Index, from: h.wans[0].to, to: h.wans[0].from}
	for i := range batch {
		from, to := netip.AddrPortFrom(h.Uplinks[0].Address.Addr(), uint16(firstPort+i)), netip.AddrPortFrom(target(i), targetPort)
		t.bare.set(i, direct, newFrame(direct, from, to))
	}
	for i := range flows {
		from, to := netip.AddrPortFrom(clientAddress.Addr(), uint16(firstPort+i)), netip.AddrPortFrom(target(i%250), targetPort)
		t.out.set(i, h.lan, newFrame(h.lan, from, to))
	}
	return t, nil
}

// target is the n-th address of targets.
func target(n int) netip.Addr {
	a := targets.Addr().As4()
	a[2], a[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

// forget deletes all connections of the router: those without a bit that nobody sets.
func (t *track) forget() error { return t.conns.DeleteByMark(0, 0x00400000, conntrack.FamilyAny) }

// connect opens the known connections anew and answers each of them once, so that for the router they are established.
func (t *track) connect() error {
	if err := t.forget(); err != nil {
		return err
	}
	if err := t.out.send(0, flows); err != nil {
		return err
	}
	spread, err := t.answer(t.back, targetPort)
	t.spread = spread
	return err
}

// answer answers each known connection to a port once, and says how many there are per uplink. The sender has room for exactly those.
func (t *track) answer(s *sender, port uint16) (spread []int, err error) {
	uplinks := map[netip.Addr]int{}
	for i, u := range t.house.Uplinks {
		uplinks[u.Address.Addr()] = i
	}
	n, all := 0, len(s.frames)
	spread = make([]int, len(t.house.Uplinks))
	err = t.conns.Each(conntrack.Filter{}, func(e conntrack.Entry) error {
		if e.Orig.Src != clientAddress.Addr() || e.Orig.DstPort != port || n == all {
			return nil
		}
		i, ok := uplinks[e.Reply.Dst]
		if !ok {
			return fmt.Errorf("a connection is not NATed to an uplink's address: %s", e)
		}
		w := t.house.wans[i]
		s.set(n, w, newFrame(w, netip.AddrPortFrom(e.Reply.Src, e.Reply.SrcPort), netip.AddrPortFrom(e.Reply.Dst, e.Reply.DstPort)))
		spread[i]++
		n++
		return nil
	})
	if err == nil && n != all {
		err = fmt.Errorf("the router knows %d connections of %d", n, all)
	}
	if err != nil {
		return nil, fmt.Errorf("opening connections: %w", err)
	}
	return spread, s.send(0, all)
}

// established sends packets of known connections, from the LAN (or back to it), for a time.
func (t *track) established(d time.Duration, s *sender, times *samples) error {
	return t.checked(s == t.out, func() (sent int, err error) {
		for end := time.Now().Add(d); ; {
			i := sent % flows
			start := time.Now()
			if err := s.send(i, i+batch); err != nil {
				return sent, err
			}
			now := time.Now()
			sent += batch
			times.add(now.Sub(start))
			if now.After(end) {
				return sent, nil
			}
		}
	})
}

// first opens n new connections by a packet each.
func (t *track) first(n int, times *samples) error {
	f := newFrame(t.house.lan, netip.AddrPortFrom(clientAddress.Addr(), 1), netip.AddrPortFrom(targets.Addr(), 1))
	return t.checked(true, func() (sent int, err error) {
		for ; sent < n; sent += batch {
			for i := range batch {
				from := netip.AddrPortFrom(clientAddress.Addr(), uint16(firstNew+t.opened%newPorts))
				f.address(from, netip.AddrPortFrom(target(256+t.opened/newPorts%60000), targetPort))
				t.fresh.set(i, t.house.lan, f)
				t.opened++
			}
			start := time.Now()
			if err := t.fresh.send(0, batch); err != nil {
				return sent, err
			}
			times.add(time.Since(start))
		}
		return sent, nil
	})
}

// direct sends packets past the router.
func (t *track) direct(batches int, times *samples) error {
	return t.checked(true, func() (sent int, err error) {
		for range batches {
			start := time.Now()
			if err := t.bare.send(0, batch); err != nil {
				return sent, err
			}
			times.add(time.Since(start))
			sent += batch
		}
		return sent, nil
	})
}

// checked runs f, which says how many packets it sent, and makes sure that they came through.
func (t *track) checked(out bool, f func() (int, error)) error {
	internet, client, err := t.house.received()
	if err != nil {
		return err
	}
	sent, err := f()
	if err != nil {
		return err
	}
	internet2, client2, err := t.house.received()
	if err != nil {
		return err
	}
	got := client2 - client
	if out {
		got = internet2 - internet
	}
	if got < uint64(sent)*999/1000 {
		return fmt.Errorf("only %d of %d packets came through", got, sent)
	}
	return nil
}

// samples are the times of batches.
type samples []time.Duration

func (s *samples) add(d time.Duration) { *s = append(*s, d) }

// packet is the time of a packet. What else the machine does can only make a batch take longer, so this is from the quickest quarter.
func (s samples) packet() float64 {
	slices.Sort(s)
	return float64(s[len(s)/4].Nanoseconds()) / batch
}

func (t *track) close() {
	for _, s := range []*sender{t.out, t.back, t.fresh, t.bare, t.socketsBack} {
		if s != nil {
			s.close()
		}
	}
	if t.sockets != nil {
		t.sockets.close()
	}
	_ = t.conns.Close()
}
