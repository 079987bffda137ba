package nat

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Set is a set of values of one field, or of several fields together, with a
// name of its own; with verdicts it is a map. Its name says what is in it
// (named), and nobody can change its elements while a rule looks things up in
// it (NFT_SET_CONSTANT, nf_tables_newsetelem and nf_tables_delsetelem in
// net/netfilter/nf_tables_api.c). So a set that is there needs not be read to
// be compared, nor be written again.
type Set struct {
	Name     string
	Fields   []Field
	Verdicts bool
	Elements []Element // no two overlap; of one field, they are in order
}

// Element is one element of a Set: for each field a value or a range of values,
// one behind the other as in Value.Raw.
type Element struct {
	Lo, Hi  string // Hi is the last one; equal to Lo where there is but one
	Verdict Verdict
}

// setPrefix is how the names of our constant sets begin.
const setPrefix = "rules-"

// named gives the set its name.
func (s Set) named() Set {
	h := fnv.New64a()
	fmt.Fprintf(h, "%v %v %d\n", s.Fields, s.Verdicts, len(s.Elements))
	for _, e := range s.Elements {
		h.Write([]byte(e.Lo))
		h.Write([]byte(e.Hi))
		if s.Verdicts {
			h.Write([]byte(e.Verdict.String()))
			h.Write([]byte{0})
		}
	}
	s.Name = fmt.Sprintf("%s%016x", setPrefix, h.Sum64())
	return s
}

// ranges reports whether some element has a range. The kernel keeps such sets
// in other ways.
func (s Set) ranges() bool {
	return slices.ContainsFunc(s.Elements, func(e Element) bool { return e.Lo != e.Hi })
}

// Lookup looks fields up in a named set: it takes the verdict of the element
// that they are in, or goes on to the next statement if they are in one. It
// ends the rule where they are in none.
type Lookup struct {
	Fields []Field
	Map    bool
	Set    string
}

func (l Lookup) String() string {
	operator := ""
	if l.Map {
		operator = "vmap "
	}
	return fmt.Sprintf("%s %s@%s", together(l.Fields), operator, l.Set)
}

func (s Set) kind() string {
	if s.Verdicts {
		return "map"
	}
	return "set"
}

// definition is what nft writes between the braces of a set.
func (s Set) definition() []string {
	types := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		types[i] = keyType(f).Name
	}
	verdict, flags := "", "constant"
	if s.Verdicts {
		verdict = " : verdict"
	}
	if s.ranges() {
		flags += ",interval"
	}
	elements := make([]string, len(s.Elements))
	for i, e := range s.Elements {
		elements[i] = s.text(e)
	}
	return []string{"type " + strings.Join(types, " . ") + verdict, "flags " + flags, "elements = { " + strings.Join(elements, ", ") + " }"}
}

func (s Set) text(e Element) string {
	texts := make([]string, len(s.Fields))
	for i, at := 0, 0; i < len(s.Fields); i++ {
		end := at + fieldBytes(s.Fields[i])
		texts[i] = span{e.Lo[at:end], e.Hi[at:end]}.text(s.Fields[i])
		at = end
	}
	text := strings.Join(texts, " . ")
	if s.Verdicts {
		text += " : " + e.Verdict.String()
	}
	return text
}

// fieldBytes is the length of a field's values.
func fieldBytes(f Field) int { return int(keyType(f).Bytes) }

// registers is how many registers of 4 bytes the values of a field take, side
// by side with others'.
func registers(f Field) int { return (fieldBytes(f) + 3) / 4 }

// span is a range of values of one field, hi included, as in Value.Raw.
type span struct{ lo, hi string }

func (s span) text(f Field) string {
	one := func(raw string) string {
		switch f {
		case Source4, Dest4, Nexthop4, Source6, Dest6, Nexthop6:
			a, _ := netip.AddrFromSlice([]byte(raw))
			return a.String()
		case SourcePort, DestPort:
			return fmt.Sprint(binary.BigEndian.Uint16([]byte(raw)))
		case Protocol:
			return protocolText(raw[0])
		case SocketUID:
			return fmt.Sprint(binary.NativeEndian.Uint32([]byte(raw)))
		case ConnMark, PacketMark, ConnState, ConnStatus, SourceType, DestType:
			return fmt.Sprintf("0x%08x", binary.NativeEndian.Uint32([]byte(raw)))
		case InInterface, OutInterface:
			return fmt.Sprintf("%q", strings.TrimRight(raw, "\x00"))
		case EtherSource:
			return ether([6]byte([]byte(raw))).Text
		}
		return "0x" + hex.EncodeToString([]byte(raw))
	}
	if s.lo == s.hi {
		return one(s.lo)
	}
	if f == Source4 || f == Dest4 || f == Source6 || f == Dest6 {
		if mask, ok := prefixMask(Value{Raw: s.lo, Hi: s.hi}); ok {
			bits := 0
			for bits < len(mask)*8 && mask[bits/8]&(0x80>>(bits%8)) != 0 {
				bits++
			}
			return fmt.Sprintf("%s/%d", one(s.lo), bits)
		}
	}
	return one(s.lo) + "-" + one(s.hi)
}

func (s span) value(f Field) Value {
	v := Value{Text: s.text(f), Raw: s.lo}
	if s.lo != s.hi {
		v.Hi = s.hi
	}
	return v
}

// spans makes an ordered list of ranges that do not overlap, in place.
func spans(all []span) []span {
	slices.SortFunc(all, func(a, b span) int { return strings.Compare(a.lo, b.lo) })
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && s.lo <= merged[n-1].hi {
			merged[n-1].hi = max(merged[n-1].hi, s.hi)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// joined makes one of ranges that touch, in place; only where values have an
// order.
func joined(f Field, all []span) []span {
	if !ordered(f) {
		return all
	}
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && follows(s.lo, merged[n-1].hi) {
			merged[n-1].hi = s.hi
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// follows reports whether b+1 is a, as numbers of the same length.
func follows(a, b string) bool {
	i := len(b) - 1
	for ; i >= 0 && b[i] == 0xff; i-- {
		if a[i] != 0 {
			return false
		}
	}
	return i >= 0 && a[i] == b[i]+1 && a[:i] == b[:i]
}

// ordered reports whether neighbouring values of a field make a range: their
// bytes are compared, and most significant ones come first.
func ordered(f Field) bool {
	switch f {
	case Source4, Dest4, Source6, Dest6, SourcePort, DestPort:
		return true
	}
	return false
}

// hasPorts reports whether a protocol's header begins with two ports.
func hasPorts(protocol uint8) bool {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
		return true
	}
	return false
}
