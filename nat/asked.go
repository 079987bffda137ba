package nat

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Asked is a look-up that a walk has made in a constant set: one with a name, or
// one that is a part of a rule. (What is in dynamic sets comes and goes: Walk asks
// for it.)
type Asked struct {
	Chain  string
	Rule   int    // its index in the chain
	Set    string // empty: it is a part of the rule
	Fields []Field
	Key    string // the values of the fields side by side, as in Value.Raw
	Says   string // what the set says of the key, as nft(8) writes it; empty: the key is not in it
	number int    // among the rule's look-ups
}

// says is what a set that is no map says of a key.
func says(in bool) string {
	if in {
		return "an element"
	}
	return ""
}

// ask records a look-up. A key that is no value of the fields is one that the
// kernel does not have either: a gateway of the other family.
func (w *walker) ask(set string, fields []Field, key, says string) {
	length := 0
	for _, f := range fields {
		length += fieldBytes(f)
	}
	if a := w.at; len(key) == length {
		a.Set, a.Fields, a.Key, a.Says = set, fields, key, says
		w.asked = append(w.asked, a)
	}
	w.at.number++
}

// lookedUpIn returns the name of the set that the kernel's rule looks into; empty:
// it is not the rule that was compiled. Messages are the rules of its chain.
func (a Asked) lookedUpIn(messages []netlink.Message) (string, error) {
	if a.Rule >= len(messages) {
		return "", nil
	}
	sets, err := lookups(messages[a.Rule])
	if err != nil || a.number >= len(sets) || a.Set != "" && sets[a.number] != a.Set {
		return "", err
	}
	return sets[a.number], nil
}

// lookups returns the names of the sets that a rule looks into, in order.
func lookups(m netlink.Message) (sets []string, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_RULE_EXPRESSIONS {
			each(ad, unix.NFTA_LIST_ELEM, func(x *netlink.AttributeDecoder) {
				if name, p := expression(x); name == "lookup" {
					sets = append(sets, p.text(unix.NFTA_LOOKUP_SET))
				}
			})
		}
	})
	return sets, err
}

// otherThan tells how a chain's rules in the kernel differ from those that were
// compiled; empty: they do not.
func (s chainState) otherThan(c Chain) string {
	switch {
	case slices.Equal(s.rules, c.fingerprints()):
		return ""
	case len(s.rules) == 0:
		return "chain " + c.Name + " has no rules"
	}
	return "chain " + c.Name + " has other rules"
}

// otherThan tells how what the kernel says differs from what the compiled set
// says; empty: it does not.
func (a Asked) otherThan(element parts, found bool) string {
	have, want := "", a.Says
	if found {
		have = elementText(element)
	}
	if have == want {
		return ""
	}
	set := "set " + a.Set
	if a.Set == "" {
		set = fmt.Sprintf("a set of rule %d in chain %s", a.Rule+1, a.Chain)
	}
	for _, s := range []*string{&have, &want} {
		if *s == "" {
			*s = "nothing"
		}
	}
	return fmt.Sprintf("%s has %s for %s, wanted is %s", set, have, Set{Fields: a.Fields}.text(Element{Lo: a.Key, Hi: a.Key}), want)
}

// elementText is what an element of the kernel's says, as nft(8) writes it.
func elementText(element parts) string {
	if v := element.verdict(unix.NFTA_SET_ELEM_DATA); v != nil {
		switch v.code {
		case verdictDrop:
			return string(Drop)
		case verdictAccept:
			return string(Accept)
		case verdictReturn:
			return string(Return)
		case verdictGoto:
			return Verdict{Goto, v.chain}.String()
		}
		return fmt.Sprintf("verdict %d", v.code)
	}
	if data := element.data(unix.NFTA_SET_ELEM_DATA); data != nil {
		return dataText(data)
	}
	return says(true)
}

// dataText is where a DNAT leads: an address, or an address and a port, as they
// are in registers.
func dataText(data []byte) string {
	const register = 4
	if a, ok := netip.AddrFromSlice(data); ok {
		return a.String()
	}
	if n := len(data) - register; n > 0 {
		if a, ok := netip.AddrFromSlice(data[:n]); ok {
			return fmt.Sprintf("%s . %s", a, span{string(data[n : n+2]), string(data[n : n+2])}.text(DestPort))
		}
	}
	return "0x" + hex.EncodeToString(data)
}
