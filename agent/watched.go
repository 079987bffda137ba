package agent

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// watched is the set of neighbours whose changes matter: the gateways of
// uplinks that share an interface. A router with many clients would otherwise
// look at the kernel whenever one of them wakes up. The owner sets it, the
// monitor reads it.
type watched struct{ v atomic.Pointer[[]netip.Addr] }

func (w *watched) set(a []netip.Addr) { w.v.Store(&a) }

func (w *watched) has(a netip.Addr) bool {
	p := w.v.Load()
	return p != nil && slices.Contains(*p, a)
}
