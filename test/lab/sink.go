//go:build linux

package lab

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// stampSize is the length of a measured packet's header: flow, sequence number, time of sending.
const stampSize = 24

// stamp is the header of a measured packet.
type stamp struct {
	flow, sequence uint64
	sent           int64 // nanoseconds
}

// put writes the header.
func (s stamp) put(b []byte) {
	binary.BigEndian.PutUint64(b, s.flow)
	binary.BigEndian.PutUint64(b[8:], s.sequence)
	binary.BigEndian.PutUint64(b[16:], uint64(s.sent))
}

// parseStamp reads the header.
func parseStamp(b []byte) (stamp, bool) {
	if len(b) < stampSize {
		return stamp{}, false
	}
	return stamp{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), int64(binary.BigEndian.Uint64(b[16:]))}, true
}

// flow is what the sink knows of one sender.
type flow struct {
	seen    map[uint64]bool
	sources map[netip.AddrPort]int
	highest uint64
	last    time.Time // arrival
	sent    int64     // of the highest sequence number so far
	gap     time.Duration
	outage  time.Duration
}

// FlowReport is what a Server received of one flow of OneWay.
type FlowReport struct {
	Received int                    // without duplicates
	Lost     int                    // sequence numbers below the highest received that never came
	Sources  map[netip.AddrPort]int // addresses seen, and packets from each
	Gap      time.Duration          // longest time between arrivals, by the kernel's clock
	Outage   time.Duration          // longest time between the sending of two packets that came one after the other: free of queueing and scheduling
}

// Addresses returns the source addresses, without ports, in order.
func (r FlowReport) Addresses() []netip.Addr { return addresses(r.Sources) }

// addresses are the addresses in m's keys.
func addresses(m map[netip.AddrPort]int) []netip.Addr {
	set := map[netip.Addr]bool{}
	for a := range m {
		set[a.Addr()] = true
	}
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

// record takes account of a packet to the sink.
func (s *Server) record(d datagram) {
	st, ok := parseStamp(d.data)
	if !ok {
		return
	}
	arrived := timestamp(d.oob)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[st.flow]
	if f == nil {
		f = &flow{seen: map[uint64]bool{}, sources: map[netip.AddrPort]int{}, last: arrived, sent: st.sent}
		s.flows[st.flow] = f
	}
	f.sources[d.from]++
	f.gap = max(f.gap, arrived.Sub(f.last))
	f.last = arrived
	f.seen[st.sequence] = true
	if st.sequence >= f.highest {
		f.outage = max(f.outage, time.Duration(st.sent-f.sent))
		f.highest, f.sent = st.sequence, st.sent
	}
}

// Flow reports a flow of OneWay.
func (s *Server) Flow(id uint64) FlowReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[id]
	if f == nil {
		return FlowReport{}
	}
	return FlowReport{
		Received: len(f.seen),
		Lost:     int(f.highest) + 1 - len(f.seen),
		Sources:  maps.Clone(f.sources),
		Gap:      f.gap,
		Outage:   f.outage,
	}
}

// Missing returns the first sequence numbers below the highest received that never came, at most ten.
func (s *Server) Missing(id uint64) (all []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[id]
	if f == nil {
		return nil
	}
	for i := uint64(0); i < f.highest && len(all) < 10; i++ {
		if !f.seen[i] {
			all = append(all, i)
		}
	}
	return all
}
