package nat

import (
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleOf is the kernel's answer for a rule with one expression.
func ruleOf(t testing.TB, name string, fill func(*netlink.AttributeEncoder)) []byte {
	return answer(t, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, "t")
		ae.String(unix.NFTA_RULE_CHAIN, "c")
		nested(ae, unix.NFTA_RULE_EXPRESSIONS, func(l *netlink.AttributeEncoder) {
			nested(l, unix.NFTA_LIST_ELEM, func(x *netlink.AttributeEncoder) {
				x.String(unix.NFTA_EXPR_NAME, name)
				nested(x, unix.NFTA_EXPR_DATA, fill)
			})
		})
	}).Data
}

// FuzzForeign: whatever others' rules hold, reading and walking them ends, and
// a packet's fate is known or open.
func FuzzForeign(f *testing.F) {
	f.Add(ruleOf(f, "match", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_MATCH_NAME, "conntrack")
		ae.Uint32(unix.NFTA_MATCH_REV, 3)
		ae.Bytes(unix.NFTA_MATCH_INFO, make([]byte, 160))
	}))
	f.Add(ruleOf(f, "target", func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TARGET_NAME, "CONNMARK")
		ae.Bytes(unix.NFTA_TARGET_INFO, make([]byte, 5))
	}))
	f.Add(ruleOf(f, "cmp", func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NFTA_CMP_SREG, 1) }))
	f.Add(ruleOf(f, "lookup", func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_LOOKUP_SET, "s") }))
	f.Add(ruleOf(f, "immediate", func(ae *netlink.AttributeEncoder) {
		nested(ae, unix.NFTA_IMMEDIATE_DATA, func(n *netlink.AttributeEncoder) {
			nested(n, unix.NFTA_DATA_VERDICT, func(n *netlink.AttributeEncoder) {
				n.Uint32(unix.NFTA_VERDICT_CODE, ^uint32(2)) // jump
				n.String(unix.NFTA_VERDICT_CHAIN, "c")       // to itself
			})
		})
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := netlink.Message{Data: data}
		set := &foreignSet{plain: true}
		_ = decodeForeignElements(m, set)
		_, _, _ = decodeForeignSet(m)
		if _, err := decodeForeignChain(m); err != nil && len(data) < 4 {
			return
		}
		_, r, err := decodeForeignRule(m, func(setKey) *foreignSet { return set })
		if err != nil {
			return
		}
		all := Foreign{Chains: []ForeignChain{{Family: unix.NFPROTO_INET, Table: "t", Name: "c", Type: Filter, Hook: Forward, rules: []foreignRule{r, r}}}}
		all.wanted()
		if fate := all.Walk(&all.Chains[0], Sight{In: "a", Out: "b", Ours: 0xff000000}); !fate.Accepted && !fate.Dropped {
			t.Errorf("%+v", fate)
		}
	})
}
