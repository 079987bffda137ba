package nat

import (
	"encoding/binary"
	"slices"
)

// Sight is what is known of a packet that walks through others' rules: a TCP
// packet whose mark has no bits but those of Ours. An interface that is not set is
// one that the packet does not have (yet).
type Sight struct {
	In, Out           string
	InIndex, OutIndex int
	IPv6              bool
	Reply             bool // of a known connection; else the first packet of one
	Forwarded         bool // by a port forward: its destination was changed
	Ours              uint32
}

// Fate is what becomes of a packet in one of others' chains.
type Fate struct {
	Accepted bool // it may be
	Dropped  bool // it may be; with both set, that hangs on what Sight does not tell
	// By is where it is dropped: a chain's name, and whether by its policy.
	By      string
	Policy  bool     // or by one behind it
	Effects []Effect // of the rules that it may meet, in order
}

// Lost reports whether the packet is dropped for sure.
func (f Fate) Lost() bool { return f.Dropped && !f.Accepted }

// Verdicts (linux/netfilter.h, linux/netfilter/nf_tables.h).
const (
	verdictDrop     = 0
	verdictAccept   = 1
	verdictContinue = -1
	verdictBreak    = -2
	verdictJump     = -3
	verdictGoto     = -4
	verdictReturn   = -5
)

// maxDepth is more than the kernel's limit for jumps (NFT_JUMP_STACK_SIZE).
const maxDepth = 20

// truth is what is known of a condition.
type truth int

const (
	no truth = iota
	maybe
	yes
)

// Walk follows a packet through a base chain.
func (f *Foreign) Walk(c *ForeignChain, p Sight) Fate {
	w := sightWalker{Foreign: f, packet: p, seen: map[*ForeignChain]bool{}}
	if !w.walk(c, 0) {
		return w.fate
	}
	if c.Drop {
		w.dropped(c.Name, true)
	} else {
		w.fate.Accepted = true
	}
	return w.fate
}

type sightWalker struct {
	*Foreign
	packet Sight
	fate   Fate
	seen   map[*ForeignChain]bool // walked before: whether its end is reached
}

func (w *sightWalker) dropped(by string, policy bool) {
	if !w.fate.Dropped {
		w.fate.Dropped, w.fate.By = true, by
	}
	w.fate.Policy = w.fate.Policy || policy
}

// walk reports whether the packet may come out at the chain's end.
func (w *sightWalker) walk(c *ForeignChain, depth int) bool {
	if c == nil || depth > maxDepth {
		return true
	}
	if end, ok := w.seen[c]; ok {
		return end
	}
	end := w.rules(c, depth)
	w.seen[c] = end
	return end
}

func (w *sightWalker) rules(c *ForeignChain, depth int) bool {
	end := false
	for _, r := range c.rules {
		matches := yes
		for _, x := range r.conditions {
			matches = min(matches, x.holds(w.packet))
		}
		if matches == no {
			continue
		}
		for _, e := range r.effects {
			if !slices.Contains(w.fate.Effects, e) {
				w.fate.Effects = append(w.fate.Effects, e)
			}
		}
		possible, certain := r.outcome(w.packet)
		goesOn := !certain || matches == maybe
		for _, v := range possible {
			switch v.code {
			case verdictDrop:
				w.dropped(c.Name, false)
			case verdictAccept:
				w.fate.Accepted = true
			case verdictContinue, verdictBreak:
				goesOn = true
			case verdictReturn:
				end = true
			case verdictJump:
				goesOn = w.walk(w.Chain(c.Family, c.Table, v.chain), depth+1) || goesOn
			case verdictGoto:
				end = w.walk(w.Chain(c.Family, c.Table, v.chain), depth+1) || end
			default: // a queue: its program decides
				w.fate.Accepted = true
				w.dropped(c.Name, false)
			}
		}
		if !goesOn {
			return end
		}
	}
	return true
}

// outcome returns the verdicts that the rule may have for p, and whether it is
// one of them for sure, instead of none.
func (r foreignRule) outcome(p Sight) (possible []foreignVerdict, certain bool) {
	m := r.verdicts
	switch {
	case r.verdict != nil:
		return []foreignVerdict{*r.verdict}, true
	case m == nil:
		return nil, false
	case m.set == nil: // it came after the sets were read
		return nil, false
	}
	for _, e := range m.set.elements {
		one := *m
		one.set, one.value, one.not = nil, e.key, false
		if one.property == unknown || !m.set.plain {
			one.property = unknown
		}
		switch matches := one.holds(p); {
		case e.verdict == nil || matches == no:
		case matches == yes:
			return []foreignVerdict{*e.verdict}, true
		default:
			possible = append(possible, *e.verdict)
		}
	}
	return possible, false
}

// holds reports whether the condition is met.
func (x condition) holds(p Sight) truth {
	if x.asksForeignMark(p.Ours) {
		if x.not {
			return yes
		}
		return no
	}
	have, ok := p.value(x)
	if !ok {
		return maybe
	}
	met := false
	switch {
	case x.set == nil:
		if len(x.value) > len(have) {
			return maybe
		}
		// A name that ends in * is compared in part.
		met = string(have[:len(x.value)]) == string(x.value)
	case !x.set.plain:
		return maybe
	default:
		met = slices.ContainsFunc(x.set.elements, func(e foreignElement) bool { return string(e.key) == string(have[:min(len(e.key), len(have))]) })
	}
	if met != x.not {
		return yes
	}
	return no
}

// asksForeignMark reports whether the condition compares a mark with something
// that has bits other than ours.
func (x condition) asksForeignMark(ours uint32) bool {
	if x.property != packetMark && x.property != connMark || x.set != nil || len(x.value) != 4 {
		return false
	}
	want := binary.NativeEndian.Uint32(x.value)
	if len(x.xor) == 4 {
		want ^= binary.NativeEndian.Uint32(x.xor)
	}
	return want&^ours != 0
}

// value is what the condition compares, if that is known of the packet.
func (p Sight) value(x condition) ([]byte, bool) {
	const (
		established = 2
		first       = 8
		dnat        = 1 << 5 // IPS_DST_NAT
		stateSNAT   = 1 << 6 // XT_CONNTRACK_STATE_SNAT
		stateDNAT   = 1 << 7
	)
	pick := func(second bool, a, b uint32) uint32 {
		if second {
			return b
		}
		return a
	}
	var v []byte
	known := ^uint32(0)
	switch x.property {
	case inName, outName:
		name := p.In
		if x.property == outName {
			name = p.Out
		}
		v = append([]byte(name), make([]byte, max(0, 16-len(name)))...)
	case inIndex:
		v = native(uint32(p.InIndex))
	case outIndex:
		v = native(uint32(p.OutIndex))
	case networkFamily:
		v = []byte{byte(pick(p.IPv6, 2, 10))}
	case etherType:
		v = binary.BigEndian.AppendUint16(nil, uint16(pick(p.IPv6, 0x0800, 0x86dd)))
	case transport:
		v = []byte{6}
	case ctState:
		v = native(pick(p.Reply, first, established))
	case iptablesState: // nftables' bits and two more, the first of which is not known
		v, known = native(pick(p.Reply, first, established)|pick(p.Forwarded, 0, stateDNAT)), ^uint32(stateSNAT)
	case ctStatus: // only this bit of it is known
		v, known = native(pick(p.Forwarded, 0, dnat)), dnat
	default:
		return nil, false
	}
	if x.mask != nil {
		if len(x.mask) != len(v) || len(x.xor) != len(v) {
			return nil, false
		}
		if known != ^uint32(0) {
			known |= ^binary.NativeEndian.Uint32(x.mask)
		}
		for i := range v {
			v[i] = v[i]&x.mask[i] ^ x.xor[i]
		}
	}
	return v, known == ^uint32(0)
}
