package nat

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Dynamic is a set whose elements come and go without Compile: packets add
// them, or programs do. What is in it is neither read nor compared, and it stays
// as it is, whatever rules become, for as long as it is wanted like this; when
// it is not, it goes with all elements. What is wanted otherwise should have
// another name: nothing can be looked up in a set while it is made anew.
type Dynamic struct {
	Name    string // begins as one of dynamicPrefixes
	Fields  []Field
	Packets bool          // rules change elements (Update, Delete)
	Timeout time.Duration // whole seconds, after which an element goes that has no time of its own; 0: none goes
	Size    int           // how many elements it takes; 0: any number, without Packets only
}

// dynamicPrefixes are how the names of dynamic sets begin. Sets in our table
// with such names that nobody wants are deleted.
var dynamicPrefixes = []string{"sticky-", "domain-"}

func isDynamic(name string) bool {
	return slices.ContainsFunc(dynamicPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// dynamicState is a dynamic set's definition, as the kernel tells it.
type dynamicState struct {
	flags, keyType, keyBytes, size uint32
	timeout                        uint64 // milliseconds
}

// Update puts a packet's fields into a dynamic set with Packets, or begins their
// time there anew. It ends the rule if the set is full.
type Update struct {
	Fields  []Field
	Set     string
	Timeout time.Duration // whole seconds; 0: the set's
}

func (u Update) String() string {
	timeout := ""
	if u.Timeout > 0 {
		timeout = " timeout " + timeText(u.Timeout)
	}
	return fmt.Sprintf("update @%s { %s%s }", u.Set, together(u.Fields), timeout)
}

// Delete takes a packet's fields out of a dynamic set with Packets; they may not
// be in it.
type Delete struct {
	Fields []Field
	Set    string
}

func (d Delete) String() string {
	return fmt.Sprintf("delete @%s { %s }", d.Set, together(d.Fields))
}

// together is how nft writes fields side by side.
func together(fields []Field) string {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = fieldText[f]
	}
	return strings.Join(texts, " . ")
}

// uses reports whether a rule of the chain needs one of the sets.
func (c Chain) uses(sets []string) bool {
	return len(sets) > 0 && slices.ContainsFunc(c.Rules, func(r Rule) bool {
		return slices.ContainsFunc(r, func(s Statement) bool {
			switch s := s.(type) {
			case Lookup:
				return slices.Contains(sets, s.Set)
			case Update:
				return slices.Contains(sets, s.Set)
			case Delete:
				return slices.Contains(sets, s.Set)
			}
			return false
		})
	})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE (linux/netfilter/nf_tables.h).
const dynsetDelete = 2

// change changes a dynamic set.
func (e *encoded) change(fields []Field, set string, operation uint32, timeout time.Duration) {
	e.fetchTogether(fields)
	e.add(&expr.Dynset{SrcRegKey: reg, SetName: set, Operation: operation, Timeout: timeout})
}

func (d Dynamic) state() dynamicState {
	s := dynamicState{flags: unix.NFT_SET_TIMEOUT, size: uint32(d.Size), timeout: uint64(d.Timeout.Milliseconds())}
	if d.Packets {
		s.flags |= unix.NFT_SET_EVAL
	}
	key := d.key()
	s.keyType, s.keyBytes = key.GetNFTMagic(), key.Bytes
	return s
}

func (d Dynamic) key() nftables.SetDatatype {
	types := make([]nftables.SetDatatype, len(d.Fields))
	for i, f := range d.Fields {
		types[i] = keyType(f)
	}
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...)
}

// definition is what nft writes between the braces of a set.
func (d Dynamic) definition() []string {
	types := make([]string, len(d.Fields))
	for i, f := range d.Fields {
		types[i] = keyType(f).Name
	}
	lines := []string{"type " + strings.Join(types, " . ")}
	if d.Size > 0 {
		lines = append(lines, fmt.Sprintf("size %d", d.Size))
	}
	if d.Packets {
		lines = append(lines, "flags dynamic,timeout")
	} else {
		lines = append(lines, "flags timeout")
	}
	if d.Timeout > 0 {
		lines = append(lines, "timeout "+timeText(d.Timeout))
	}
	return lines
}

// timeText writes whole seconds as nft does.
func timeText(d time.Duration) string {
	var b strings.Builder
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	return b.String()
}

// addDynamic adds a dynamic set, empty.
func (b *batch) addDynamic(d Dynamic) {
	b.sets++
	id, s := b.sets, d.state()
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, "add set "+d.Name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, TableName)
		ae.String(unix.NFTA_SET_NAME, d.Name)
		ae.Uint32(unix.NFTA_SET_FLAGS, s.flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType)
		ae.Uint32(unix.NFTA_SET_KEY_LEN, s.keyBytes)
		ae.Uint32(unix.NFTA_SET_ID, id)
		if s.timeout > 0 {
			ae.Uint64(unix.NFTA_SET_TIMEOUT, s.timeout)
		}
		if s.size > 0 {
			nested(ae, unix.NFTA_SET_DESC, func(n *netlink.AttributeEncoder) { n.Uint32(unix.NFTA_SET_DESC_SIZE, s.size) })
		}
		order := uint32(2) // as in addSet
		if len(d.Fields) == 1 && keyOrder(d.Fields[0]) == binaryutil.NativeEndian {
			order = 1
		}
		ae.Bytes(unix.NFTA_SET_USERDATA, userdata.Append(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, native(order)))
	})
}

// dynamicChanges returns the dynamic sets that are to be added; the names of
// those of them that go before, because they are defined in another way; and the
// names, sorted, of those that nobody wants.
func (s State) dynamicChanges(want Ruleset) (add []Dynamic, changed, stale []string) {
	wanted := map[string]bool{}
	for _, d := range want.Dynamic {
		wanted[d.Name] = true
		have, ok := s.dynamic[d.Name]
		if have == d.state() {
			continue
		}
		add = append(add, d)
		if ok {
			changed = append(changed, d.Name)
		}
	}
	for name := range s.dynamic {
		if !wanted[name] {
			stale = append(stale, name)
		}
	}
	slices.Sort(stale)
	return add, changed, stale
}

// missingDynamic lists the dynamic sets that the kernel lacks or has otherwise.
func (s State) missingDynamic(want Ruleset) []string {
	var lost []string
	for _, d := range want.Dynamic {
		switch have, ok := s.dynamic[d.Name]; {
		case !ok:
			lost = append(lost, "set "+d.Name)
		case have != d.state():
			lost = append(lost, "set "+d.Name+": definition")
		}
	}
	return lost
}

// holdsDynamic reports whether the kernel has exactly want's dynamic sets.
func (s State) holdsDynamic(want Ruleset) bool {
	return len(s.dynamic) == len(want.Dynamic) && len(s.missingDynamic(want)) == 0
}
