package nat

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listed is an address of a list.
type Listed struct {
	List    string
	Addr    netip.Addr
	Timeout time.Duration // from now on; rounded up to milliseconds, at least one; Forever: none
}

// Forever is the timeout of what stays.
const Forever = time.Duration(math.MaxInt64)

// maxFilled is how many elements one transaction adds, see maxElements.
const maxFilled = 1000

// filling makes the transactions that put addresses into lists: those of each
// set by themselves, because one that is full fails as a whole.
//
// The kernel leaves an element alone that is added again (before Linux 6.12;
// since then it depends on the timeouts: nft_add_set_elem,
// net/netfilter/nf_tables_api.c). So each is added, deleted and added in one
// transaction, which no packet sees in between: it has the new timeout whether
// it was there or not.
func filling(all []Listed) [][]*batch {
	bySet := map[string][]Listed{}
	var names []string
	for _, x := range all {
		name := ListSet(x.List, x.Addr.Is6())
		if bySet[name] == nil {
			names = append(names, name)
		}
		bySet[name] = append(bySet[name], x)
	}
	sets := make([][]*batch, len(names))
	for i, name := range names {
		for some := range slices.Chunk(bySet[name], maxFilled) {
			b := newBatch()
			b.elements(unix.NFT_MSG_NEWSETELEM, name, elementsOf(some, true))
			b.elements(unix.NFT_MSG_DELSETELEM, name, elementsOf(some, false))
			b.elements(unix.NFT_MSG_NEWSETELEM, name, elementsOf(some, true))
			b.end()
			sets[i] = append(sets[i], b)
		}
	}
	return sets
}

// emptying makes the transaction that takes all addresses out of lists.
func emptying(lists []string) *batch {
	b := newBatch()
	for _, list := range lists {
		for _, v6 := range []bool{false, true} {
			b.elements(unix.NFT_MSG_DELSETELEM, ListSet(list, v6), nil)
		}
	}
	b.end()
	return b
}

// elementsOf writes addresses of one family as a list of elements.
func elementsOf(list []Listed, timeouts bool) []byte {
	l := elementList{lengths: []int{len(list[0].Addr.AsSlice())}}
	for _, x := range list {
		l.nest(unix.NFTA_LIST_ELEM, func() {
			l.key(unix.NFTA_SET_ELEM_KEY, string(x.Addr.AsSlice()))
			if timeouts && x.Timeout != Forever {
				l.attribute(unix.NFTA_SET_ELEM_TIMEOUT, func() {
					l.buf = binary.BigEndian.AppendUint64(l.buf, uint64(max(x.Timeout+time.Millisecond-1, time.Millisecond)/time.Millisecond))
				})
			}
		})
	}
	return l.buf
}

// fillingSet is what elements does, before the name of the set.
const fillingSet = "filling set "

// elements adds a message about elements of a set; without a list, about all of
// them.
func (b *batch) elements(message netlink.HeaderType, set string, list []byte) {
	flags := netlink.HeaderFlags(0)
	if message == unix.NFT_MSG_NEWSETELEM {
		flags = netlink.Create
	}
	b.add(message, flags, fillingSet+set, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		if list != nil {
			ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
		}
	})
}

// fills reports whether m is about elements that come and go in a dynamic set of
// ours, which is nothing to look at, and the name of the set.
func fills(m netlink.Message) (set string, ok bool) {
	switch m.Header.Type {
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
	default:
		return "", false
	}
	table := ""
	err := attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = ad.String()
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = ad.String()
		}
	})
	return set, err == nil && table == TableName && isDynamic(set)
}
