package nat

import "testing"

func TestMissingOption(t *testing.T) {
	t.Parallel()
	for op, want := range map[string]string{
		"chain masquerading: masquerade":                                                      "CONFIG_NFT_MASQ",
		"chain guard-out: tcp flags ! syn,rst reject with tcp reset":                          "CONFIG_NFT_REJECT_INET",
		"chain forward_ports: fib daddr type != local return":                                 "CONFIG_NFT_FIB_INET",
		"chain forward_ports: dnat ip to meta l4proto . th dport map {}":                      "CONFIG_NFT_NAT",
		"chain leave-1-dsl: ct mark & 0xff000000 0x01000000 snat ip6 prefix to 2001:db8::/64": `CONFIG_NFT_NAT of Linux 5.8 or newer, or ipv6 = "masquerade"`,
		"chain guard: ct status snat accept":                                                  "CONFIG_NFT_CT",
		"chain mark-1-dsl: meta mark set meta mark & 0x00ffffff":                              "",
		"chain bind-1-dsl: ct mark set ct mark & 0x00ffffff":                                  "CONFIG_NFT_CT and CONFIG_NF_CONNTRACK_MARK",
		"add chain bind":         "CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT",
		"add table":              "CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT",
		"flush chain masquerade": "",
	} {
		if got := missingOption(op); got != want {
			t.Errorf("%s: %q, wanted %q", op, got, want)
		}
	}
}
