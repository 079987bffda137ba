package nat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Counter counts packets and bytes in the counter with that name. Counters are
// made with the first rule that counts in them and go with the last; what they
// have counted outlives every change of rules between.
type Counter struct{ Name string }

// Count is what a counter has counted.
type Count struct{ Packets, Bytes uint64 }

func (c Counter) String() string { return fmt.Sprintf("counter name %q", c.Name) }

// Names of an uplink's counters begin so.
const (
	downCounter = "down-" // what comes in by it
	upCounter   = "up-"   // what leaves by it
)

// Counters returns the names of the counters in which the bytes of the uplink's
// connections are counted, if it is Counted.
func (u Uplink) Counters() (down, up string) { return u.chain(downCounter), u.chain(upCounter) }

// marking is the chain that puts the uplink's mark on packets of its
// connections. Where they are counted, nothing else needs to look at them: what
// does not come from the provider goes to it.
func (c *compiler) marking(u Uplink) []Rule {
	set := SetMark{Mask: c.Mask, Value: u.Mark}
	if !u.Counted || u.Mark == 0 {
		return []Rule{{set, u.note()}}
	}
	down, up := u.Counters()
	var rules []Rule
	for _, from := range c.fromProvider(u.Interface) {
		rules = append(rules, append(from, Counter{down}, set, Verdict{Kind: Return}))
	}
	return append(rules, Rule{Counter{up}}, Rule{set, u.note()})
}

// fromProvider matches what comes in by an uplink's interface, but not from
// clients there.
func (c *compiler) fromProvider(name string) []Rule {
	in := Match{Field: InInterface, Values: []Value{ifname(name)}}
	networks := c.networks(name)
	if len(networks) == 0 {
		return []Rule{{in}}
	}
	var rules []Rule
	for _, v6 := range []bool{false, true} {
		provider := Match{Field: IPv6, Values: []Value{nfproto(v6)}}
		if clients := prefixes(family(networks, v6)); len(clients) > 0 {
			provider = Match{Field: source(v6), Op: IsNot, Values: clients}
		}
		rules = append(rules, Rule{in, provider})
	}
	return rules
}

// counted reports whether an uplink's bytes are counted.
func (c *compiler) counted() bool {
	return slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Counted })
}

// counters returns the names of all counters, sorted.
func (r Ruleset) counters() []string {
	var all []string
	for _, c := range r.Chains {
		for _, rule := range c.Rules {
			for _, s := range rule {
				if s, ok := s.(Counter); ok {
					all = append(all, s.Name)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// counterChanges returns the counters that are to be made, and those that
// nobody counts in any more.
func (s State) counterChanges(want Ruleset) (add, stale []string) {
	wanted := want.counters()
	for _, name := range wanted {
		if !slices.Contains(s.counters, name) {
			add = append(add, name)
		}
	}
	for _, name := range s.counters {
		if !slices.Contains(wanted, name) {
			stale = append(stale, name)
		}
	}
	return add, stale
}

// counts reports whether one of our rules counts: if none does, there are no
// counters of ours.
func counts(rules []netlink.Message) (bool, error) {
	for _, m := range rules {
		r, err := decodeRule(m)
		if err != nil {
			return false, err
		}
		if r.table == TableName && strings.HasPrefix(r.comment, fingerprintPrefix) && strings.Contains(r.comment, " "+counterSign) {
			return true, nil
		}
	}
	return false, nil
}

// counterSign stands before the name of a counter in the comment of a rule.
const counterSign = "%"

func (b *batch) addCounter(name string) {
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, "add counter "+name, func(ae *netlink.AttributeEncoder) {
		b.counter(ae, name)
		nested(ae, unix.NFTA_OBJ_DATA, func(*netlink.AttributeEncoder) {})
	})
}

func (b *batch) deleteCounter(name string) {
	b.add(unix.NFT_MSG_DELOBJ, 0, "delete counter "+name, func(ae *netlink.AttributeEncoder) { b.counter(ae, name) })
}

func (*batch) counter(ae *netlink.AttributeEncoder, name string) {
	ae.String(unix.NFTA_OBJ_TABLE, TableName)
	ae.String(unix.NFTA_OBJ_NAME, name)
	ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
}

// counterMessage is what we need of one counter (NFT_MSG_NEWOBJ).
type counterMessage struct {
	table, name string
	kind        uint32
	Count
}

func decodeCounter(m netlink.Message) (c counterMessage, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_OBJ_TABLE:
			c.table = ad.String()
		case unix.NFTA_OBJ_NAME:
			c.name = ad.String()
		case unix.NFTA_OBJ_TYPE:
			c.kind = ad.Uint32()
		case unix.NFTA_OBJ_DATA:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case unix.NFTA_COUNTER_BYTES:
						c.Bytes = n.Uint64()
					case unix.NFTA_COUNTER_PACKETS:
						c.Packets = n.Uint64()
					}
				}
				return nil
			})
		}
	})
	return c, err
}

// decodeCounters returns what our counters have counted, by name.
func decodeCounters(objects []netlink.Message) (map[string]Count, error) {
	all := map[string]Count{}
	for _, m := range objects {
		c, err := decodeCounter(m)
		if err != nil {
			return nil, err
		}
		ours := strings.HasPrefix(c.name, downCounter) || strings.HasPrefix(c.name, upCounter)
		if c.table == TableName && c.kind == unix.NFT_OBJECT_COUNTER && ours {
			all[c.name] = c.Count
		}
	}
	return all, nil
}
