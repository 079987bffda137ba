package nat

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answer makes a message of the kernel's from attributes.
func answer(t testing.TB, fill func(*netlink.AttributeEncoder)) netlink.Message {
	t.Helper()
	data, err := encodeAttributes(fill)
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{Data: append([]byte{unix.NFPROTO_INET, 0, 0, 0}, data...)}
}

func TestComment(t *testing.T) {
	for _, c := range []struct {
		name string
		data string
		want string
	}{
		{"none", "", ""},
		{"ours", string(userdata.AppendString(nil, userdata.TypeComment, "multiroute:1:x eth0")), "multiroute:1:x eth0"},
		{"after another kind", "\x05\x02ab\x00\x03cd\x00", "cd"},
		{"without a NUL", "\x00\x02cd", "cd"},
		{"empty", "\x00\x00", ""},
		{"one byte", "\x00", ""},
		{"longer than it is", "\x00\xffab", ""},
		{"another kind, longer than it is", "\x07\x09ab", ""},
		{"garbage behind it", "\x00\x02ab\x09", "ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := comment([]byte(c.data)); got != c.want {
				t.Errorf("%q, wanted %q", got, c.want)
			}
		})
	}
}

// TestDecodeMalformed: broken answers are errors, never a state.
func TestDecodeMalformed(t *testing.T) {
	table := answer(t, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, TableName) })
	long := netlink.Message{Data: []byte{1, 0, 0, 0, 200, 0, 1, 0, 'x'}} // an attribute that says 200 bytes
	for _, c := range []struct {
		name                  string
		tables, chains, rules []netlink.Message
	}{
		{"no header", []netlink.Message{{Data: []byte{1, 0}}}, nil, nil},
		{"attribute too long", []netlink.Message{long}, nil, nil},
		{"chain without header", []netlink.Message{table}, []netlink.Message{{}}, nil},
		{"chain attribute too long", []netlink.Message{table}, []netlink.Message{long}, nil},
		{"rule attribute too long", []netlink.Message{table}, nil, []netlink.Message{long}},
		{"flags of one byte", []netlink.Message{answer(t, func(ae *netlink.AttributeEncoder) { ae.Bytes(unix.NFTA_TABLE_FLAGS, []byte{1}) })}, nil, nil},
		{"hook of one byte", []netlink.Message{table}, []netlink.Message{answer(t, func(ae *netlink.AttributeEncoder) {
			nested(ae, unix.NFTA_CHAIN_HOOK, func(n *netlink.AttributeEncoder) { n.Bytes(unix.NFTA_HOOK_HOOKNUM, []byte{1}) })
		})}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if s, err := decodeState(c.tables, c.chains, c.rules, nil); err == nil {
				t.Errorf("no error: %+v", s)
			}
		})
	}
}

// FuzzDecode: whatever bytes come, there is a state or an error; and reading it
// does not fail either.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0})
	for _, fill := range []func(*netlink.AttributeEncoder){
		func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, TableName) },
		func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_CHAIN_TABLE, TableName)
			ae.String(unix.NFTA_CHAIN_NAME, "mark-1-dsl")
			nested(ae, unix.NFTA_CHAIN_HOOK, func(n *netlink.AttributeEncoder) { n.Uint32(unix.NFTA_HOOK_PRIORITY, 7) })
		},
		func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_RULE_TABLE, TableName)
			ae.String(unix.NFTA_RULE_CHAIN, "mark-1-dsl")
			ae.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, "multiroute:1:x eth0 via 1.2.3.4"))
		},
		func(ae *netlink.AttributeEncoder) { ae.Uint32(unix.NFTA_GEN_PROC_PID, 1) },
	} {
		f.Add(answer(f, fill).Data)
	}
	table := answer(f, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, TableName) })
	chain := answer(f, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, TableName)
		ae.String(unix.NFTA_CHAIN_NAME, "mark-1-dsl")
	})
	want := Compile(separate())
	f.Fuzz(func(t *testing.T, data []byte) {
		m := netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN}, Data: data}
		decodeGeneration(m)
		foreign(m)
		for _, all := range [][3][]netlink.Message{{{m}, nil, nil}, {{table}, {m}, nil}, {{table}, {chain}, {m}}, {{table}, {m}, {m}}} {
			s, err := decodeState(all[0], all[1], all[2], all[2])
			if err != nil {
				continue
			}
			s.Uplinks()
			s.Policies()
			s.Missing(want)
			s.Satisfies(want)
			s.Commands(want)
		}
	})
}

// TestForeign: only the end of a transaction counts, and only another process's.
func TestForeign(t *testing.T) {
	gen := answer(t, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_GEN_ID, 7)
		ae.Uint32(unix.NFTA_GEN_PROC_PID, 1)
		ae.String(unix.NFTA_GEN_PROC_NAME, "nft")
	})
	gen.Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	if g, ok := decodeGeneration(gen); !ok || g != (generation{1, "nft"}) {
		t.Errorf("decoded %+v, %v", g, ok)
	}
	if !foreign(gen) {
		t.Error("another process's transaction is not foreign")
	}
	rule := gen
	rule.Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE
	if foreign(rule) {
		t.Error("a message in the middle of a transaction counts")
	}
	broken := gen
	broken.Data = binary.NativeEndian.AppendUint32(nil, 0)
	if !foreign(broken) {
		t.Error("who does not say who he is counts as ours")
	}
}

// TestBatch: one attribute never outgrows its 16 bits of length.
func TestBatch(t *testing.T) {
	for _, s := range append(situations(), situation{"many", many(64, 20000)}, situation{"rules", ruleSpec(append(manyRules("to . ports", 9000), PolicyRule{To: manyPrefixes(50000, 0), Policy: markOf(10)})...)}) {
		for _, b := range difference(State{}, Compile(s.spec)) {
			if b.err != nil {
				t.Errorf("%s: %v", s.name, b.err)
			}
			for i, m := range b.messages {
				if len(m.Data) > maxAttributes || m.Header.Sequence != uint32(i+1) {
					t.Errorf("%s: message %d (%s): %d bytes, sequence %d", s.name, i, b.what[i], len(m.Data), m.Header.Sequence)
				}
			}
		}
	}
	long := Ruleset{Chains: []Chain{{Name: string(make([]byte, maxAttributes+1))}}}
	if b := difference(State{}, long); b[0].err == nil {
		t.Error("a message that is too long is no error")
	}
}
