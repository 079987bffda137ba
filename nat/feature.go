package nat

import "strings"

// missingOption names the kernel option that a batch's operation needs, where
// the kernel says that it does not know something; "" if it would be a guess.
// The options are those of net/netfilter/Kconfig.
func missingOption(op string) string {
	if strings.HasPrefix(op, "add table") || strings.HasPrefix(op, "add chain") {
		return "CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT"
	}
	_, rule, ok := strings.Cut(op, ": ")
	if !ok {
		return "" // what is not there to be changed was deleted by somebody
	}
	for _, o := range []struct{ part, option string }{
		{"masquerade", "CONFIG_NFT_MASQ"},
		{"dnat ip", "CONFIG_NFT_NAT"},
		{"snat ip6 prefix", "CONFIG_NFT_NAT of Linux 5.8 or newer, or ipv6 = \"masquerade\""},
		{"snat ip", "CONFIG_NFT_NAT"},
		{"reject with", "CONFIG_NFT_REJECT_INET"},
		{"fib daddr", "CONFIG_NFT_FIB_INET"},
		{"ct mark", "CONFIG_NFT_CT and CONFIG_NF_CONNTRACK_MARK"},
		{"ct ", "CONFIG_NFT_CT"},
	} {
		if strings.Contains(rule, o.part) {
			return o.option
		}
	}
	return ""
}
