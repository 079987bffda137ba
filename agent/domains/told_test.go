package domains

import (
	"net/netip"
	"testing"
	"time"
)

// tell does what dnsmasq does when it has an answer, and the kernel then.
func (w *world) tell(r *Resolver, set string, a netip.Addr) {
	w.set(func() { w.sets[Element{Set: set, Addr: a}] = time.Now().Add(Forever) })
	family := "4"
	if a.Is6() {
		family = "6"
	}
	r.Filled(set + family)
}

func (w *world) told(set string, a netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sets[Element{Set: set, Addr: a}].After(time.Now().Add(1000 * time.Hour))
}

// TestTold: what dnsmasq found is put back where the table was lost, also what it
// found before we were there, and goes with the domains, or in its turn.
func TestTold(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world, r *Resolver) {
		l, other := NewList([]string{"*.a.org"}), NewList([]string{"*.b.org"})
		told := l.Told()
		lose := func() {
			w.set(func() { clear(w.sets) })
			r.Update(Wanted{Lists: []List{l, other}}, true)
			after(time.Second)
		}
		w.set(func() { w.sets[Element{Set: told[0], Addr: one}] = time.Now().Add(Forever) })
		r.Update(Wanted{Lists: []List{l, other}}, true)
		after(2 * copyTime)
		w.tell(r, told[0], two)
		w.tell(r, told[1], two)
		w.tell(r, other.Told()[0], netip.MustParseAddr("2001:db8::2"))
		r.Filled("domain-")
		r.Filled("")
		after(2 * copyTime)
		lose()
		if !w.told(told[0], one) || !w.told(told[0], two) || !w.told(told[1], two) || w.told(told[1], one) {
			t.Errorf("after the table was lost: %v", w.sets)
		}
		lose() // at once again
		if !w.told(told[0], one) || !w.told(other.Told()[0], netip.MustParseAddr("2001:db8::2")) {
			t.Errorf("after it was lost once more: %v", w.sets)
		}

		wider := NewList([]string{"*.a.org", "*.c.org"})
		r.Update(Wanted{Lists: []List{wider, other}}, true)
		after(time.Second)
		if set := wider.Told()[0]; !w.told(set, one) || !w.told(set, two) {
			t.Errorf("a list with one domain more: %v", w.sets)
		}
		less := NewList([]string{"*.c.org"})
		r.Update(Wanted{Lists: []List{less, other}}, true)
		after(time.Second)
		if set := less.Told()[0]; w.told(set, one) || w.told(set, two) {
			t.Errorf("a list without that domain has its addresses: %v", w.sets)
		}

		r.Update(Wanted{Lists: []List{l, other}}, true)
		w.tell(r, told[0], one)
		w.tell(r, told[1], one)
		after(2 * copyTime)
		after(period)
		w.set(func() { clear(w.sets) })
		r.Update(Wanted{Lists: []List{l, other}}, true)
		after(time.Second)
		if w.told(told[0], one) == w.told(told[1], one) {
			t.Errorf("one of the two was emptied in its turn: %v", w.sets)
		}
	})
}
