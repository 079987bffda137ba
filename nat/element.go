package nat

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// elementList writes the elements of a named set as netlink attributes. There
// may be a hundred thousand of them, so it does without the libraries' encoders,
// which take a buffer for each attribute.
type elementList struct {
	set     Set
	ranges  bool
	lengths []int // of the fields' values
	buf     []byte
}

// maxList bounds the elements in one message; the message's other attributes
// take less than the rest of maxAttributes.
const maxList = maxAttributes - 1000

func newElementList(s Set) *elementList {
	l := &elementList{set: s, ranges: s.ranges()}
	for _, f := range s.Fields {
		l.lengths = append(l.lengths, fieldBytes(f))
	}
	return l
}

// chunks returns the elements in as few lists as fit in messages. A list is
// valid until the next one.
func (l *elementList) chunks() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		l.buf = l.buf[:0]
		for _, e := range l.set.Elements {
			before := len(l.buf)
			l.element(e)
			if len(l.buf) <= maxList || before == 0 {
				continue
			}
			if !yield(l.buf[:before]) {
				return
			}
			l.buf = append(l.buf[:0], l.buf[before:]...)
		}
		if len(l.buf) > 0 {
			yield(l.buf)
		}
	}
}

// element writes one element. A range of one field is two for the kernel: the
// second begins behind it and is flagged as its end. A range of several fields
// is one, with two keys.
func (l *elementList) element(e Element) {
	together := len(l.lengths) > 1
	l.nest(unix.NFTA_LIST_ELEM, func() {
		l.key(unix.NFTA_SET_ELEM_KEY, e.Lo)
		if together && l.ranges {
			l.key(nftables.NFTA_SET_ELEM_KEY_END, e.Hi)
		}
		if l.set.Verdicts {
			l.verdict(verdict(e.Verdict))
		}
	})
	if together || !l.ranges {
		return
	}
	if end, ok := successor(e.Hi); ok {
		l.nest(unix.NFTA_LIST_ELEM, func() {
			l.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
			l.key(unix.NFTA_SET_ELEM_KEY, string(end))
		})
	}
}

// key writes a key; each field's value begins a register of 4 bytes.
func (l *elementList) key(typ uint16, raw string) {
	l.nest(typ, func() {
		l.attribute(unix.NFTA_DATA_VALUE, func() {
			for _, n := range l.lengths {
				l.buf = append(l.buf, raw[:n]...)
				raw = raw[n:]
				if len(l.lengths) > 1 {
					l.pad()
				}
			}
		})
	})
}

func (l *elementList) verdict(v *expr.Verdict) {
	l.nest(unix.NFTA_SET_ELEM_DATA, func() {
		l.nest(unix.NFTA_DATA_VERDICT, func() {
			l.number(unix.NFTA_VERDICT_CODE, uint32(v.Kind))
			if v.Chain != "" {
				l.attribute(unix.NFTA_VERDICT_CHAIN, func() { l.buf = append(append(l.buf, v.Chain...), 0) })
			}
		})
	})
}

func (l *elementList) number(typ uint16, n uint32) {
	l.attribute(typ, func() { l.buf = binary.BigEndian.AppendUint32(l.buf, n) })
}

func (l *elementList) nest(typ uint16, fill func()) { l.attribute(unix.NLA_F_NESTED|typ, fill) }

// attribute writes a netlink attribute: length and type in the machine's order,
// what fill writes, and padding.
func (l *elementList) attribute(typ uint16, fill func()) {
	start := len(l.buf)
	l.buf = binary.NativeEndian.AppendUint16(append(l.buf, 0, 0), typ)
	fill()
	binary.NativeEndian.PutUint16(l.buf[start:], uint16(len(l.buf)-start))
	l.pad()
}

// pad fills up to a multiple of 4 bytes.
func (l *elementList) pad() {
	for len(l.buf)%4 != 0 {
		l.buf = append(l.buf, 0)
	}
}
