package nat

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableMessage is what we need of one table (NFT_MSG_NEWTABLE).
type tableMessage struct {
	name  string
	flags uint32
}

// chainMessage is what we need of one chain (NFT_MSG_NEWCHAIN).
type chainMessage struct {
	table, name, typ string
	hook, priority   uint32
}

// ruleMessage is what we need of one rule (NFT_MSG_NEWRULE).
type ruleMessage struct {
	table, chain, comment string
	handle                uint64
}

// setMessage is what we need of one set (NFT_MSG_NEWSET).
type setMessage struct {
	table, name string
	dynamicState
}

// decodeState makes the state of our table from the kernel's answers. Objects
// of other tables are skipped.
func decodeState(tables, chains, rules, sets []netlink.Message) (State, error) {
	s := State{chains: map[string]chainState{}, sets: map[string]bool{}, dynamic: map[string]dynamicState{}}
	for _, m := range tables {
		t, err := decodeTable(m)
		if err != nil {
			return State{}, err
		}
		if t.name == TableName {
			s.Exists, s.Dormant = true, t.flags&unix.NFT_TABLE_F_DORMANT != 0
		}
	}
	for _, m := range chains {
		c, err := decodeChain(m)
		if err != nil {
			return State{}, err
		}
		if c.table != TableName {
			continue
		}
		state := chainState{}
		if c.typ != "" {
			state.base = base(c.typ, c.hook, int32(c.priority))
		}
		s.chains[c.name] = state
	}
	for _, m := range rules {
		r, err := decodeRule(m)
		if err != nil {
			return State{}, err
		}
		if c, ok := s.chains[r.chain]; ok && r.table == TableName {
			c.rules, c.handles = append(c.rules, r.comment), append(c.handles, r.handle)
			s.chains[r.chain] = c
		}
	}
	used := s.used()
	for _, m := range sets {
		x, err := decodeSet(m)
		if err != nil {
			return State{}, err
		}
		switch {
		case x.table != TableName:
		case strings.HasPrefix(x.name, setPrefix):
			s.sets[x.name] = used[x.name]
		case isDynamic(x.name):
			s.dynamic[x.name] = x.dynamicState
		}
	}
	return s, nil
}

// decodeRules makes the rules of one of our chains from the kernel's answers.
func decodeRules(rules []netlink.Message, chain string) (chainState, error) {
	var c chainState
	for _, m := range rules {
		r, err := decodeRule(m)
		if err != nil {
			return chainState{}, err
		}
		if r.table == TableName && r.chain == chain {
			c.rules, c.handles = append(c.rules, r.comment), append(c.handles, r.handle)
		}
	}
	return c, nil
}

// used are the sets that our rules look things up in.
func (s State) used() map[string]bool {
	used := map[string]bool{}
	for _, c := range s.chains {
		for _, comment := range c.rules {
			if !strings.HasPrefix(comment, fingerprintPrefix) {
				continue
			}
			for word := range strings.FieldsSeq(comment) {
				if set, ok := strings.CutPrefix(word, "@"); ok {
					used[set] = true
				}
			}
		}
	}
	return used
}

func decodeTable(m netlink.Message) (t tableMessage, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			t.name = ad.String()
		case unix.NFTA_TABLE_FLAGS:
			t.flags = ad.Uint32()
		}
	})
	return t, err
}

func decodeChain(m netlink.Message) (c chainMessage, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.typ = ad.String()
		case unix.NFTA_CHAIN_HOOK:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				n.ByteOrder = binary.BigEndian
				for n.Next() {
					switch n.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = n.Uint32()
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = n.Uint32()
					}
				}
				return nil
			})
		}
	})
	return c, err
}

func decodeSet(m netlink.Message) (s setMessage, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_TABLE:
			s.table = ad.String()
		case unix.NFTA_SET_NAME:
			s.name = ad.String()
		case unix.NFTA_SET_FLAGS:
			s.flags = ad.Uint32()
		case unix.NFTA_SET_KEY_TYPE:
			s.keyType = ad.Uint32()
		case unix.NFTA_SET_KEY_LEN:
			s.keyBytes = ad.Uint32()
		case unix.NFTA_SET_TIMEOUT:
			s.timeout = ad.Uint64()
		case unix.NFTA_SET_DESC:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				n.ByteOrder = binary.BigEndian
				for n.Next() {
					if n.Type() == unix.NFTA_SET_DESC_SIZE {
						s.size = n.Uint32()
					}
				}
				return nil
			})
		}
	})
	return s, err
}

func decodeRule(m netlink.Message) (r ruleMessage, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			r.table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			r.chain = ad.String()
		case unix.NFTA_RULE_HANDLE:
			r.handle = ad.Uint64()
		case unix.NFTA_RULE_USERDATA:
			r.comment = comment(ad.Bytes())
		}
	})
	return r, err
}

// comment finds the comment in a rule's user data: type, length and value, over
// and over (libnftnl, udata.c). Whoever wrote the rule chose these bytes, so
// they may be anything.
func comment(data []byte) string {
	const typeComment = 0 // NFTNL_UDATA_RULE_COMMENT
	for len(data) >= 2 {
		typ, length := data[0], int(data[1])
		data = data[2:]
		if length > len(data) {
			return ""
		}
		if typ == typeComment {
			return strings.TrimRight(string(data[:length]), "\x00")
		}
		data = data[length:]
	}
	return ""
}

// generation is the end of a transaction (NFT_MSG_NEWGEN) and who made it.
type generation struct {
	thread uint32 // NFTA_GEN_PROC_PID: task_pid_nr(current), so a thread's number, in the first PID namespace
	name   string // NFTA_GEN_PROC_NAME: that thread's name; "" if the kernel does not say
}

// decodeGeneration reports whether m says that a transaction was committed.
func decodeGeneration(m netlink.Message) (g generation, ok bool) {
	if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return generation{}, false
	}
	err := attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_GEN_PROC_PID:
			g.thread = ad.Uint32()
		case unix.NFTA_GEN_PROC_NAME:
			g.name = ad.String()
		}
	})
	if err != nil {
		return generation{}, true
	}
	return g, true
}

// attributes walks the attributes of one nfnetlink message.
func attributes(m netlink.Message, visit func(*netlink.AttributeDecoder)) error {
	const header = 4 // struct nfgenmsg
	if len(m.Data) < header {
		return fmt.Errorf("reading table inet %s: a message of %d bytes has no header", TableName, len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return fmt.Errorf("reading table inet %s: %w", TableName, err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		visit(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("reading table inet %s: %w", TableName, err)
	}
	return nil
}
