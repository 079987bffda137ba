package domains

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Forever is the timeout of an element that stays.
const Forever = time.Duration(1<<63 - 1)

// copyTime is how long it takes at most until what dnsmasq was answered is copied.
const copyTime = 5 * time.Second

// copies are what dnsmasq put into its sets, by set. When the table is lost the
// sets begin empty, and dnsmasq does not fill them from its cache. What was seen in
// one stays until the set is emptied.
type copies map[string]map[netip.Addr]bool

// Filled says that elements came to a set, by the name that it has in the kernel:
// that of a list's set, and a digit for the family. It never blocks.
func (r *Resolver) Filled(set string) {
	if set == "" {
		return
	}
	set = set[:len(set)-1]
	r.mu.Lock()
	first := r.told[set] && len(r.filled) == 0
	if r.told[set] {
		r.filled[set] = true
	}
	r.mu.Unlock()
	if !first {
		return // nothing new, or it is known that something is to be copied
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// copying is when the next copies are due; zero: nothing has changed.
func (x *running) copying() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.filled) == 0 {
		return time.Time{}
	}
	return x.copied.Add(copyTime)
}

// copy looks into the sets to which something came.
func (x *running) copy(now time.Time) {
	if due := x.copying(); due.IsZero() || now.Before(due) {
		return
	}
	x.mu.Lock()
	sets := x.filled
	x.filled = map[string]bool{}
	x.mu.Unlock()
	x.copied = now
	for set := range sets {
		c := x.copies[set]
		if c == nil {
			continue // nobody wants it any more
		}
		addrs, err := x.Holds(set)
		if err != nil { // such as that the table was lost: then it is put back
			x.Log.Debug("what dnsmasq found for a rule's domains could not be read", "set", set, "err", err)
			continue
		}
		for _, a := range addrs {
			c[a] = true
		}
	}
}

// tell makes the sets of lists hold what dnsmasq put into them: all, if they were
// made anew. A list that has only got more domains begins with what it had.
func (x *running) tell(old []List, lost bool) {
	before := x.copies
	x.copies = copies{}
	for _, l := range x.wanted.Lists {
		for i, set := range l.Told() {
			c, known := before[set]
			if !known {
				c = map[netip.Addr]bool{}
				if k := slices.IndexFunc(old, l.covers); k >= 0 {
					maps.Copy(c, before[old[k].Told()[i]])
				}
				x.mu.Lock()
				x.filled[set] = true // an agent before this one may have left something
				x.mu.Unlock()
			}
			x.copies[set] = c
			if lost || !known {
				x.restore(set)
			}
		}
	}
}

// restore puts back what is missing in a set.
func (x *running) restore(set string) {
	if len(x.copies[set]) == 0 {
		return
	}
	var missing []Element
	addrs, err := x.Holds(set)
	if err == nil {
		there := map[netip.Addr]bool{}
		for _, a := range addrs {
			there[a] = true
		}
		for a := range x.copies[set] {
			if !there[a] {
				missing = append(missing, Element{Set: set, Addr: a, Timeout: Forever})
			}
		}
		if len(missing) > 0 {
			err = x.Add(missing)
		}
	}
	if err != nil {
		x.Log.Warn("what dnsmasq found for a rule's domains could not be put back; restart dnsmasq, it fills the set again as clients ask", "set", set, "err", err)
	}
}
