package nat

import (
	"errors"
	"math"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Foreign reads the chains of all tables but ours, iptables-nft's included. It
// needs CAP_NET_ADMIN. What is read by ip_tables (iptables-legacy) is not here.
func (t *Table) Foreign() (*Foreign, error) {
	return uninterrupted(func() (*Foreign, error) { return t.foreignOnce(math.MaxUint32) })
}

// ForeignUpTo is Foreign for who has no time to read more rules than that; nil:
// there are more. Those that lead to a chain count for it, too.
func (t *Table) ForeignUpTo(rules uint32) (*Foreign, error) {
	return uninterrupted(func() (*Foreign, error) { return t.foreignOnce(rules) })
}

// others says in errors what was read.
const others = "the tables of others"

func (t *Table) foreignOnce(most uint32) (*Foreign, error) {
	f := &Foreign{sets: map[setKey]*foreignSet{}}
	ours := func(k setKey) bool { return k.family == unix.NFPROTO_INET && k.table == TableName }
	chains, err := t.dumpAll(others, unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	index := map[setKey]int{}
	for _, m := range chains {
		c, err := decodeForeignChain(m)
		if err != nil {
			return nil, err
		}
		if key := (setKey{c.Family, c.Table, c.Name}); !ours(key) {
			index[key] = len(f.Chains)
			f.Chains = append(f.Chains, c)
			if c.uses > most {
				return nil, nil
			}
			most -= c.uses
		}
	}
	if len(f.Chains) == 0 {
		return f, nil
	}
	sets, err := t.dumpAll(others, unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range sets {
		key, s, err := decodeForeignSet(m)
		if err != nil {
			return nil, err
		}
		f.sets[key] = s
	}
	rules, err := t.dumpAll(others, unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		chain, r, err := decodeForeignRule(m, func(k setKey) *foreignSet { return f.sets[k] })
		if err != nil {
			return nil, err
		}
		if i, ok := index[chain]; ok {
			f.Chains[i].rules = append(f.Chains[i].rules, r)
		}
	}
	for _, key := range f.wanted() {
		attrs, err := encodeAttributes(func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, key.table)
			ae.String(unix.NFTA_SET_ELEM_LIST_SET, key.name)
		})
		if err != nil {
			return nil, err
		}
		elements, err := t.dumpAll(others, unix.NFT_MSG_GETSETELEM, byte(key.family), attrs)
		if err != nil {
			return nil, err
		}
		for _, m := range elements {
			if err := decodeForeignElements(m, f.sets[key]); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// Probe returns the features that the kernel does not have. It writes and deletes
// our table again and again: t must have been opened in a network namespace that
// is there for this alone.
func (t *Table) Probe() ([]Feature, error) { return t.probe(probes()) }

func (t *Table) probe(all []probe) (missing []Feature, err error) {
	for _, p := range all {
		switch err := t.Write(State{}, p.rules); {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
			missing = append(missing, p.Feature)
			continue
		case err != nil:
			return missing, err
		}
		if err := t.Delete(); err != nil {
			return missing, err
		}
	}
	return missing, nil
}
