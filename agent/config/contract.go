package config

import (
	"math"
	"net/netip"
)

// key is one row of the contract: a key that may be written, what it may hold,
// and what it holds if it is not written. In path, * stands for a name that the
// user chooses and [] for an entry of an array of tables.
type key struct {
	path string
	kind kind
	def  string // as TOML
}

// These stand in the default column for keys that have none.
const (
	required  = "(required)"
	noDefault = "(none)"
)

// contract lists every key there is.
var contract = []key{
	{"router.lan", listOf[string](interfaceName), `[]`},
	{"router.mark_mask", markMask, `"0xff000000"`},
	{"router.table_base", integer(256, math.MaxInt32-tableRoom, "because 253 to 255 are the kernel's own"), `20000`},
	{"router.rule_base", integer(1, 32000, "because every rule must come before 32765"), `10000`},
	{"router.manage_sysctls", boolean, `true`},
	{"router.guard", boolean, `true`},
	{"router.routed", listOf[netip.Prefix](narrowPrefix), `[]`},

	{"uplink.*.interface", interfaceName, required},
	{"uplink.*.gateway", gateway4, `"auto"`},
	{"uplink.*.addresses", listOf[netip.Addr](ownAddress), `[]`},
	{"uplink.*.gateway6", gateway6, `"auto"`},
	{"uplink.*.ipv6", enum("masquerade", "prefix", "routed", "off"), `"masquerade"`},
	{"uplink.*.prefix6", prefix6, `"auto"`},
	{"uplink.*.weight", integer(1, 256, ""), `1`},
	{"uplink.*.bandwidth.down", bitRate, noDefault},
	{"uplink.*.bandwidth.up", bitRate, noDefault},
	{"uplink.*.dns", listOf[netip.Addr](serverAddress), `[]`},
	{"uplink.*.destinations", listOf[netip.Prefix](narrowPrefix), `[]`},
	{"uplink.*.mtu", mtuSize, `0`},
	{"uplink.*.metered", boolean, `false`},
	{"uplink.*.enabled", boolean, `true`},
	{"uplink.*.health.targets", targets(target4), noDefault},
	{"uplink.*.health.targets6", targets(target6), noDefault},
	{"uplink.*.health.interval", probeTime, noDefault},
	{"uplink.*.health.timeout", waitTime, noDefault},
	{"uplink.*.health.suspect_interval", waitTime, noDefault},
	{"uplink.*.health.down_after", rounds, noDefault},
	{"uplink.*.health.up_after", rounds, noDefault},
	{"uplink.*.health.hold_down", holdTime, noDefault},
	{"uplink.*.health.degraded_loss", percent, noDefault},
	{"uplink.*.health.degraded_latency", latency, noDefault},
	{"uplink.*.health.profile", profile, noDefault},

	{"health.targets", targets(target4), `["icmp://1.1.1.1", "icmp://8.8.8.8", "icmp://9.9.9.9"]`},
	{"health.targets6", targets(target6), `["icmp://[2606:4700:4700::1111]", "icmp://[2001:4860:4860::8888]"]`},
	{"health.interval", probeTime, `"500ms"`},
	{"health.timeout", waitTime, `"1s"`},
	{"health.suspect_interval", waitTime, `"100ms"`},
	{"health.down_after", rounds, `5`},
	{"health.up_after", rounds, `5`},
	{"health.hold_down", holdTime, `"10s"`},
	{"health.degraded_loss", percent, `20`},
	{"health.degraded_latency", latency, `"0s"`},
	{"health.profile", profile, `"normal"`},

	{"policy.*.tiers", tiers, noDefault},
	{"policy.*.weights.*", integer(1, 256, ""), noDefault},
	{"policy.*.balance", enum("weight", "capacity", "latency"), `"weight"`},
	{"policy.*.sticky", enum("connection", "source", "source-destination"), `"connection"`},
	{"policy.*.sticky_timeout", stickyTime, `"10m"`},
	{"policy.*.failback", enum("new", "all"), `"new"`},
	{"policy.*.fallback", enum("reject", "default"), `"reject"`},

	{"rule.[].name", nameText, noDefault},
	{"rule.[].from", listOf[netip.Prefix](anyPrefix), `[]`},
	{"rule.[].to", listOf[netip.Prefix](anyPrefix), `[]`},
	{"rule.[].domains", listOf[string](domainName), `[]`},
	{"rule.[].interfaces", listOf[string](interfaceName), `[]`},
	{"rule.[].macs", listOf[mac](macAddress), `[]`},
	{"rule.[].protocol", oneOrMore[string](protocolName), `[]`},
	{"rule.[].ports", listOf[PortRange](portOrRange), `[]`},
	{"rule.[].source_ports", listOf[PortRange](portOrRange), `[]`},
	{"rule.[].dscp", listOf[string](dscpName), `[]`},
	{"rule.[].hours", hourRange, noDefault},
	{"rule.[].days", listOf[string](enum("mon", "tue", "wed", "thu", "fri", "sat", "sun")), `[]`},
	{"rule.[].local", boolean, `false`},
	{"rule.[].uid", listOf[uint32](whole[uint32](0, math.MaxUint32-1, "")), `[]`},
	{"rule.[].policy", nameText, noDefault},
	{"rule.[].uplink", nameText, noDefault},
	{"rule.[].action", enum("bypass"), noDefault},

	{"port_forward.[].name", nameText, required},
	{"port_forward.[].protocol", enum("tcp", "udp"), required},
	{"port_forward.[].port", portOrRange, required},
	{"port_forward.[].to", forwardTarget, required},
	{"port_forward.[].uplinks", listOf[string](nameText), `[]`},
	{"port_forward.[].sources", listOf[netip.Prefix](anyPrefix), `[]`},
	{"port_forward.[].hairpin", boolean, `true`},

	{"hooks.on_change", listOf[string](absolutePath), `[]`},
	{"hooks.hook_timeout", hookTime, `"10s"`},

	{"api.socket", socketPath, `"/run/multiroute/agent.sock"`},
	{"api.group", groupName, `"multiroute"`},
	{"api.http", listenAddress, `"127.0.0.1:9780"`},
}
