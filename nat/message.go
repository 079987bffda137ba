package nat

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch is one transaction: netlink messages, and what each of them does, for
// errors. The messages are our own rather than google/nftables': that has no
// way to say in which byte order anonymous sets are printed (so nft(8) lists
// marks swapped and interface names empty), asks for an echo of every rule, and
// cuts long sets without a word.
type batch struct {
	messages []netlink.Message
	what     []string // of the message with the same index
	sets     uint32   // numbers of anonymous sets, valid in this batch
	err      error
}

// difference makes the transactions that turn what Read found into want, but
// for what nothing leads to any more (leftovers). The last one does it, all at
// once; those before it load long sets, which nothing looks at yet. Chains that
// are right already are left alone.
//
// A transaction that deletes a rule ends the elements of its map, or of a map
// that goes with it, in the same moment (nft_map_deactivate,
// net/netfilter/nf_tables_api.c). A packet that is among the old rules then
// finds nothing in it: it would leave without NAT, or unbound. So new rules come
// before the old ones in their chains, and those go when no packet should be among
// them. One still is where a hypervisor held it up there for long enough: behind
// maps whose uplink it must not miss there are rules for that.
func difference(have State, want Ruleset) []*batch {
	var all []*batch
	dynamic, changed, _ := have.dynamicChanges(want)
	refill, stale := have.changes(want)
	moves := func(c Chain) bool { old, ok := have.chains[c.Name]; return ok && old.base != c.base() }
	// To other hooks: only another version's do, and no rule may lead to one. Nor
	// to a dynamic set that is made anew.
	moving := slices.ContainsFunc(refill, moves) || len(changed) > 0
	if !moving {
		refill = slices.DeleteFunc(refill, func(c Chain) bool { old, ok := have.chains[c.Name]; return ok && old.begins(c) })
	}
	sets, staleSets := have.setChanges(want)
	early, sets := loadedFirst(sets)
	all = append(all, loading(early, staleSets)...)
	b, there := newBatch(), have.Exists && !have.Dormant
	if there {
		b = emptyBatch() // where the table has gone meanwhile, it fails
	}
	empty := len(b.messages)
	for _, s := range sets {
		if slices.Contains(staleSets, s.Name) { // half of it, and nothing looks things up in it
			b.deleteSet(s.Name)
		}
	}
	stays := func(c Chain) bool { return len(have.chains[c.Name].rules) > 0 && !moving }
	if moving {
		for _, name := range append(stale, names(refill)...) {
			if len(have.chains[name].rules) > 0 {
				b.flushChain(name)
			}
		}
	}
	for _, c := range refill {
		if moves(c) {
			b.deleteChain(c.Name)
		}
	}
	for _, name := range changed {
		b.deleteSet(name)
	}
	// All chains, counters and sets exist before the first rule or element that leads to one.
	for _, c := range refill {
		if _, ok := have.chains[c.Name]; !ok || moves(c) {
			b.addChain(c)
		}
	}
	counters, _ := have.counterChanges(want)
	for _, name := range counters {
		b.addCounter(name)
	}
	for _, s := range sets {
		b.addNamed(s)
		for list := range newElementList(s).chunks() {
			b.addElements(s, list)
		}
	}
	for _, d := range dynamic {
		b.addDynamic(d)
	}
	for _, c := range refill {
		if !stays(c) {
			for _, r := range c.Rules {
				b.addRule(c.Name, r, last)
			}
			continue
		}
		b.addRule(c.Name, Rule{Verdict{Kind: Return}}, first)
		for _, r := range slices.Backward(c.Rules) {
			b.addRule(c.Name, r, first)
		}
	}
	if there && len(b.messages) == empty {
		return all
	}
	b.end()
	return append(all, b)
}

func names(chains []Chain) []string {
	var all []string
	for _, c := range chains {
		all = append(all, c.Name)
	}
	return all
}

// leftovers makes the transaction that deletes what stands behind want's rules
// in their chains, and chains, sets and counters that nothing leads to any more; nil if
// there is nothing.
func leftovers(have State, want Ruleset) *batch {
	b := emptyBatch()
	empty := len(b.messages)
	for _, c := range want.Chains {
		if old := have.chains[c.Name]; old.begins(c) && len(old.handles) == len(old.rules) {
			for _, handle := range old.handles[len(c.Rules):] {
				b.deleteRule(c.Name, handle)
			}
		}
	}
	_, stale := have.changes(want)
	for _, name := range stale {
		b.flushChain(name)
	}
	_, sets := have.setChanges(want)
	_, _, dynamic := have.dynamicChanges(want)
	for _, name := range slices.Concat(sets, dynamic) {
		b.deleteSet(name)
	}
	_, counters := have.counterChanges(want)
	for _, name := range counters {
		b.deleteCounter(name)
	}
	for _, name := range stale {
		b.deleteChain(name)
	}
	if len(b.messages) == empty {
		return nil
	}
	b.end()
	return b
}

// maxElements is how many elements are written with everything else, and
// maxLists how many lists of elements one transaction loads of more. At
// the end of a transaction the kernel makes a page of notification for each
// element, as long as anybody anywhere listens (nf_tables_setelem_notify,
// net/netfilter/nf_tables_api.c), and frees none before the last: a hundred
// thousand prefixes would take a gigabyte and, in a virtual machine, 5 seconds.
// Very short transactions take long, too: each has the kernel make an array of
// all ranges (nft_rbtree_commit).
const (
	maxElements = 4000
	maxLists    = 8
)

// loadedFirst chooses the sets to load before everything else, so that not too
// many elements are left to go with it.
func loadedFirst(sets []Set) (early, rest []Set) {
	left := 0
	for _, s := range sets {
		left += len(s.Elements)
	}
	for i, s := range sets {
		if left <= maxElements {
			return sets[:i], sets[i:]
		}
		left -= len(s.Elements)
	}
	return sets, nil
}

// loading makes the transactions that load sets. If they stop in the middle, no
// rule looks things up in them, which is how the next Read knows.
func loading(sets []Set, stale []string) []*batch {
	var all []*batch
	if len(sets) == 0 {
		return nil
	}
	b, bytes := newBatch(), 0
	added := map[string]bool{}
	for _, s := range sets {
		if slices.Contains(stale, s.Name) {
			b.deleteSet(s.Name)
		}
		for _, e := range s.Elements {
			if name := e.Verdict.Chain; name != "" && !added[name] {
				added[name] = true
				b.addChain(Chain{Name: name})
			}
		}
		b.addNamed(s)
		for list := range newElementList(s).chunks() {
			if bytes+len(list) > maxLists*maxList {
				b.end()
				all, b, bytes = append(all, b), newBatch(), 0
			}
			b.addElements(s, list)
			bytes += len(list)
		}
	}
	b.end()
	return append(all, b)
}

// removal makes the transaction that removes our table; it must not fail where
// there is none.
func removal() *batch {
	b := newBatch()
	b.add(unix.NFT_MSG_DELTABLE, 0, "delete table", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, TableName)
	})
	b.end()
	return b
}

// emptyBatch begins a transaction.
func emptyBatch() *batch {
	b := &batch{}
	b.mark(unix.NFNL_MSG_BATCH_BEGIN, "begin")
	return b
}

// newBatch begins a transaction. Our table exists from then on.
func newBatch() *batch {
	b := emptyBatch()
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, "add table", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, TableName)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, 0)
	})
	return b
}

// end ends a transaction. The last operation is the one that the kernel
// confirms, after the commit.
func (b *batch) end() {
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	b.mark(unix.NFNL_MSG_BATCH_END, "end")
}

// mark adds a message that begins or ends the batch.
func (b *batch) mark(typ netlink.HeaderType, what string) {
	b.append(netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request},
		Data: append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, binaryutil.BigEndian.PutUint16(unix.NFNL_SUBSYS_NFTABLES)...)}, what)
}

func (b *batch) append(m netlink.Message, what string) {
	m.Header.Sequence = uint32(len(b.messages) + 1)
	b.messages, b.what = append(b.messages, m), append(b.what, what)
}

// maxAttributes bounds the attributes of one message: their lengths are 16 bits
// wide, and the library cuts what is longer without a word.
const maxAttributes = 60000

func (b *batch) add(typ netlink.HeaderType, flags netlink.HeaderFlags, what string, fill func(*netlink.AttributeEncoder)) {
	data, err := encodeAttributes(fill)
	if err == nil && len(data) > maxAttributes {
		err = fmt.Errorf("%d bytes do not fit in a netlink message", len(data))
	}
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("%s: %w", what, err)
	}
	b.append(netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: netlink.Request | flags},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...)}, what)
}

func encodeAttributes(fill func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	fill(ae)
	return ae.Encode()
}

// nested fills a nested attribute, in network byte order.
func nested(ae *netlink.AttributeEncoder, typ uint16, fill func(*netlink.AttributeEncoder)) {
	ae.Nested(typ, func(n *netlink.AttributeEncoder) error {
		n.ByteOrder = binary.BigEndian
		fill(n)
		return nil
	})
}

func (b *batch) addChain(c Chain) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, "add chain "+c.Name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, TableName)
		ae.String(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook == "" {
			return
		}
		nested(ae, unix.NFTA_CHAIN_HOOK, func(n *netlink.AttributeEncoder) {
			n.Uint32(unix.NFTA_HOOK_HOOKNUM, hookNumbers[c.Hook])
			n.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
		ae.String(unix.NFTA_CHAIN_TYPE, string(c.Type))
	})
}

func (b *batch) deleteChain(name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, "delete chain "+name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, TableName)
		ae.String(unix.NFTA_CHAIN_NAME, name)
	})
}

// flushChain deletes all rules of a chain.
func (b *batch) flushChain(name string) {
	b.add(unix.NFT_MSG_DELRULE, 0, "flush chain "+name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, TableName)
		ae.String(unix.NFTA_RULE_CHAIN, name)
	})
}

// deleteRule deletes one rule of a chain.
func (b *batch) deleteRule(chain string, handle uint64) {
	b.add(unix.NFT_MSG_DELRULE, 0, fmt.Sprintf("delete rule %s handle %d", chain, handle), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, TableName)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Uint64(unix.NFTA_RULE_HANDLE, handle)
	})
}

// Where a rule is put in its chain (nf_tables_newrule, net/netfilter/nf_tables_api.c).
const (
	first netlink.HeaderFlags = 0
	last                      = netlink.Append
)

func (b *batch) addRule(chain string, r Rule, where netlink.HeaderFlags) {
	what := "chain " + chain + ": " + r.String()
	e := encode(r)
	for _, s := range e.sets {
		b.addSet(s, what)
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|where, what, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, TableName)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		nested(ae, unix.NFTA_RULE_EXPRESSIONS, func(n *netlink.AttributeEncoder) {
			for _, x := range e.exprs {
				n.Do(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, func() ([]byte, error) { return marshal(x) })
			}
		})
		ae.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.Fingerprint()))
	})
}

func (b *batch) deleteSet(name string) {
	b.add(unix.NFT_MSG_DELSET, 0, "delete set "+name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, TableName)
		ae.String(unix.NFTA_SET_NAME, name)
	})
}

// addNamed adds a named set, still empty. As long as no rule looks things up in
// it, it takes elements.
func (b *batch) addNamed(s Set) {
	b.sets++
	id, what := b.sets, "add "+s.kind()+" "+s.Name
	flags, ranges := uint32(unix.NFT_SET_CONSTANT), s.ranges()
	if ranges {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.Verdicts {
		flags |= unix.NFT_SET_MAP
	}
	together := len(s.Fields) > 1
	if together && ranges {
		flags |= nftables.NFT_SET_CONCAT
	}
	types := make([]nftables.SetDatatype, len(s.Fields))
	for i, f := range s.Fields {
		types[i] = keyType(f)
	}
	key := types[0]
	if together {
		key = nftables.MustConcatSetType(types...) // fits makes sure that there are not too many
	}
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, what, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, TableName)
		ae.String(unix.NFTA_SET_NAME, s.Name)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, key.GetNFTMagic())
		ae.Uint32(unix.NFTA_SET_KEY_LEN, key.Bytes)
		ae.Uint32(unix.NFTA_SET_ID, id)
		if s.Verdicts {
			ae.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		}
		switch {
		case !ranges:
			nested(ae, unix.NFTA_SET_DESC, func(n *netlink.AttributeEncoder) {
				n.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.Elements)))
			})
		case together:
			nested(ae, unix.NFTA_SET_DESC, func(n *netlink.AttributeEncoder) {
				describe(n, types)
			})
		}
		order := uint32(2) // as in addSet
		if !together && keyOrder(s.Fields[0]) == binaryutil.NativeEndian {
			order = 1
		}
		ae.Bytes(unix.NFTA_SET_USERDATA, userdata.Append(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, binary.NativeEndian.AppendUint32(nil, order)))
	})
}

// maxEntries bounds the elements in one message: one attribute holds 64 KiB.
const maxEntries = 500

// describe tells the lengths of the fields of a set of ranges.
func describe(ae *netlink.AttributeEncoder, types []nftables.SetDatatype) {
	nested(ae, nftables.NFTA_SET_DESC_CONCAT, func(n *netlink.AttributeEncoder) {
		for _, t := range types {
			nested(n, unix.NFTA_LIST_ELEM, func(n *netlink.AttributeEncoder) {
				n.Uint32(1, t.Bytes) // NFTA_SET_FIELD_LEN
			})
		}
	})
}

// addElements adds a list of elements to a named set.
func (b *batch) addElements(s Set, list []byte) {
	b.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, "add element "+s.Name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
	})
}

// addSet adds an anonymous set in as many messages as its elements take, and
// has its rule refer to it.
func (b *batch) addSet(s encodedSet, what string) {
	b.sets++
	id := b.sets
	s.lookup.SetName, s.lookup.SetID = "__set%d", id
	flags := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	if s.set.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	together := s.set.Interval && s.set.Concatenation
	if together {
		flags |= nftables.NFT_SET_CONCAT
	}
	if s.set.IsMap {
		flags |= unix.NFT_SET_MAP
		s.lookup.SetName = "__map%d"
	}
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, what, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, TableName)
		ae.String(unix.NFTA_SET_NAME, s.lookup.SetName)
		ae.Uint32(unix.NFTA_SET_FLAGS, flags)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.set.KeyType.GetNFTMagic())
		ae.Uint32(unix.NFTA_SET_KEY_LEN, s.set.KeyType.Bytes)
		ae.Uint32(unix.NFTA_SET_ID, id)
		if s.set.IsMap && s.set.DataType == nftables.TypeVerdict {
			ae.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		} else if s.set.IsMap {
			ae.Uint32(unix.NFTA_SET_DATA_TYPE, s.set.DataType.GetNFTMagic())
			ae.Uint32(unix.NFTA_SET_DATA_LEN, s.set.DataType.Bytes)
		}
		nested(ae, unix.NFTA_SET_DESC, func(n *netlink.AttributeEncoder) {
			n.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))
			if together {
				describe(n, nftables.ConcatSetTypeElements(s.set.KeyType))
			}
		})
		order := uint32(2) // BYTEORDER_BIG_ENDIAN in nft(8), for its listings
		if s.set.KeyByteOrder == binaryutil.NativeEndian {
			order = 1 // BYTEORDER_HOST_ENDIAN
		}
		ae.Bytes(unix.NFTA_SET_USERDATA, userdata.Append(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, binary.NativeEndian.AppendUint32(nil, order)))
	})
	for chunk := range slices.Chunk(s.elements, maxEntries) {
		b.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, what, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
			ae.String(unix.NFTA_SET_ELEM_LIST_SET, s.lookup.SetName)
			ae.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
			nested(ae, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(n *netlink.AttributeEncoder) {
				for _, x := range chunk {
					nested(n, unix.NFTA_LIST_ELEM, func(n *netlink.AttributeEncoder) { element(n, x) })
				}
			})
		})
	}
}

func element(ae *netlink.AttributeEncoder, x nftables.SetElement) {
	if x.IntervalEnd {
		ae.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	nested(ae, unix.NFTA_SET_ELEM_KEY, func(n *netlink.AttributeEncoder) { n.Bytes(unix.NFTA_DATA_VALUE, x.Key) })
	if x.KeyEnd != nil {
		nested(ae, nftables.NFTA_SET_ELEM_KEY_END, func(n *netlink.AttributeEncoder) { n.Bytes(unix.NFTA_DATA_VALUE, x.KeyEnd) })
	}
	switch {
	case x.VerdictData != nil:
		nested(ae, unix.NFTA_SET_ELEM_DATA, func(n *netlink.AttributeEncoder) {
			nested(n, unix.NFTA_DATA_VERDICT, func(n *netlink.AttributeEncoder) {
				n.Uint32(unix.NFTA_VERDICT_CODE, uint32(x.VerdictData.Kind))
				if x.VerdictData.Chain != "" {
					n.String(unix.NFTA_VERDICT_CHAIN, x.VerdictData.Chain)
				}
			})
		})
	case len(x.Val) > 0:
		nested(ae, unix.NFTA_SET_ELEM_DATA, func(n *netlink.AttributeEncoder) { n.Bytes(unix.NFTA_DATA_VALUE, x.Val) })
	}
}
