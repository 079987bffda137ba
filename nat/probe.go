package nat

import "net/netip"

// Feature is something that our rules need of the kernel.
type Feature struct {
	Name   string
	Option string // the kernel's build option
}

// probe is a feature with the smallest ruleset that shows it.
type probe struct {
	Feature
	rules Ruleset
}

// probes lists what rules are made of (net/netfilter/Kconfig).
func probes() []probe {
	one := func(name, option string, typ ChainType, hook Hook, priority int32, rules ...Rule) probe {
		return probe{Feature{name, option}, Ruleset{Chains: []Chain{{Name: "probe", Type: typ, Hook: hook, Priority: priority, Rules: rules}}}}
	}
	tcpOnly := Match{Field: Protocol, Values: []Value{{Text: "tcp", Raw: "\x06"}}}
	return []probe{
		one("tables for both families (inet)", "CONFIG_NF_TABLES_INET", Filter, Forward, priorityFilter, Rule{Verdict{Kind: Accept}}),
		one("NAT in them", "CONFIG_NFT_NAT, Linux 5.2", NAT, Postrouting, priorityMangle, Rule{SNAT{To: netip.AddrFrom4([4]byte{192, 0, 2, 1})}}),
		one("masquerade", "CONFIG_NFT_MASQ", NAT, Postrouting, priorityMangle, Rule{Masquerade{}}),
		one("re-routing of the router's own packets", "CONFIG_NF_TABLES_INET, Linux 5.2", Route, Output, priorityMangle, Rule{SetMark{Mask: 1 << 24, Value: 1 << 24}}),
		one("connection marks", "CONFIG_NFT_CT and CONFIG_NF_CONNTRACK_MARK", Filter, Forward, priorityFilter, Rule{SetMark{Conn: true, Mask: 1 << 24, Value: 1 << 24}}),
		one("what an address is to routing (fib)", "CONFIG_NFT_FIB_INET", Filter, Prerouting, priorityMangle, Rule{Match{Field: DestType, Values: []Value{local}}, Verdict{Kind: Return}}),
		one("resets (reject)", "CONFIG_NFT_REJECT_INET", Filter, Forward, priorityFilter, Rule{tcpOnly, Reset{}}),
		one("NAT from prefix to prefix", "CONFIG_NFT_NAT, Linux 5.8", NAT, Postrouting, priorityMangle,
			Rule{Match{Field: IPv6, Values: []Value{nfproto(true)}}, SNATPrefix{netip.MustParsePrefix("2001:db8::/64")}}),
	}
}
