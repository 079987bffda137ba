package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// badConfigs are the mistakes in testdata: bad-NAME.toml is read under the name
// NAME and must give exactly this error. What has no behaviour is no mistake but
// in those called NAME-unsupported.
var badConfigs = []struct{ name, want string }{
	{"address", `
address:4: uplink.dsl.addresses: "192.0.2.1/24" is a prefix: write the address alone, "192.0.2.1"
address:5: uplink.dsl.addresses: "192.0.2" is not an address: write one such as "192.0.2.1" or "2001:db8::1"
address:6: uplink.dsl.addresses: "[2001:db8::1]" is not an address: write it without brackets
address:7: uplink.dsl.addresses: "fe80::1%eth0" names an interface: write "fe80::1" alone
address:8: uplink.dsl.addresses: "::ffff:192.0.2.1" is an IPv4 address written as IPv6: write "192.0.2.1"
address:9: uplink.dsl.addresses: "0.0.0.0" means no address: write that of one host
address:10: uplink.dsl.addresses: "224.0.0.1" reaches many hosts: write the address of one
address:11: uplink.dsl.addresses: "127.0.0.1" is this host itself: write an address that others can reach
address:12: uplink.dsl.addresses: "1/2" is not an address: write one such as "192.0.2.1" or "2001:db8::1"
address:14: uplink.dsl.dns: "255.255.255.255" reaches many hosts: write the address of one
address:14: uplink.dsl.dns: "::1" is this host itself: write an address that others can reach`},
	{"api-values", `
api-values:4: api.socket: "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..." has 108 bytes: write a path of at most 107, which is what a socket can have
api-values:5: api.group: "a b" is not the name of a group: it has up to 32 bytes, without spaces, quotes, colons, commas and slashes
api-values:6: api.http: "9780" is not an address and port: write one such as "127.0.0.1:9780" or "[::1]:9780", or ""`},
	{"api", `
api:4: api.socket: "agent.sock" is not an absolute path: begin with /
api:5: api.group: an empty name: write that of a group, such as "root" to let nobody else read
api:6: api.http: "[::ffff:192.0.2.1]:80" is no address to listen on: write one such as "127.0.0.1:80"`},
	{"bandwidth", `
bandwidth:3: uplink.dsl.bandwidth.down: is the number 50, wants a rate such as "50mbit"
bandwidth:3: uplink.dsl.bandwidth.up: "10 Mbit" is not a rate: write a whole number and bit, kbit, mbit or gbit, such as "50mbit"
bandwidth:6: uplink.cable.bandwidth: is the string "50mbit", wants a table: write [uplink.cable.bandwidth] and the keys below it`},
	{"capacity", `
capacity:10: policy.default.balance: "capacity" needs to know what each uplink of this policy can carry, in both directions, and of "cable", "lte" it does not: add bandwidth = { down = "50mbit", up = "10mbit" } with the right numbers to [uplink.cable] and [uplink.lte]
capacity:15: policy.voice.balance: "capacity" needs to know what each uplink of this policy can carry, in both directions, and of "cable" it does not: add bandwidth = { down = "50mbit", up = "10mbit" } with the right numbers to [uplink.cable]`},
	{"crlf", `
crlf:4: router.lan: is the number 3, wants the name of a network interface, such as "eth1"
crlf:9: uplink.dsl.weigth: unknown key: did you mean weight?`},
	{"durations", `
durations:4: health.interval: 500 has no unit: write "500s" for seconds or "500ms" for milliseconds
durations:5: health.timeout: 1 has no unit: write "1s" for seconds or "1ms" for milliseconds
durations:6: health.suspect_interval: "1d" is not a time: write a number and a unit, such as "500ms", "10s", "5m" or "1h30m"
durations:7: health.hold_down: "-1s" is out of range: write a time from "0s" to "10m"
durations:8: health.degraded_latency: 0.5 has no unit: write "0.5s" for seconds or "0.5ms" for milliseconds`},
	{"empty", `
empty:1: uplink: there is no uplink: add at least one, such as [uplink.dsl] with interface = "eth1" below it`},
	{"entries-shape", `
entries-shape:1: port_forward[1]: is the number 1, wants a table: write [[port_forward]] and the keys below it
entries-shape:1: port_forward[2].protocol: is missing, wants "tcp" or "udp"
entries-shape:1: port_forward[2].port: is missing, wants a port from 1 to 65535, or a range such as "8000-8010"
entries-shape:1: port_forward[2].to: is missing, wants an address, with or without a port, such as "192.168.0.10", "192.168.0.10:8080", "fd00::10" or "[fd00::10]:8080"`},
	{"forward-conflict", `
forward-conflict:34: port_forward[5].port: port forward "dsl" at forward-conflict:8 takes this port too: choose another port, or give the two different uplinks`},
	{"forward-missing", `
forward-missing:3: port_forward[1].name: is missing, wants a name
forward-missing:3: port_forward[1].protocol: is missing, wants "tcp" or "udp"
forward-missing:3: port_forward[1].port: is missing, wants a port from 1 to 65535, or a range such as "8000-8010"
forward-missing:3: port_forward[1].to: is missing, wants an address, with or without a port, such as "192.168.0.10", "192.168.0.10:8080", "fd00::10" or "[fd00::10]:8080"`},
	{"forward-name", `
forward-name:9: port_forward[2].name: "web" is the name of another one too, at forward-name:4: choose two different names`},
	{"forward-ranges", `
forward-ranges:11: port_forward[2].port: port forward "one" at forward-ranges:6 takes this port too: choose another port, or give the two different uplinks
forward-ranges:17: port_forward[3].to: leads from ports 7999 to 9000-9001: write ranges of the same length
forward-ranges:21: port_forward[4].port: port forward "one" at forward-ranges:6 takes this port too: choose another port, or give the two different uplinks`},
	{"forward-sources", `
forward-sources:10: port_forward[1].sources: "2001:db8::/32" is IPv6, and the server IPv4: no such client can reach it, remove this one
forward-sources:11: port_forward[1].sources: "2001:db8::7" is IPv6, and the server IPv4: no such client can reach it, remove this one
forward-sources:18: port_forward[2].sources: "0.0.0.0/0" is IPv4, and the server IPv6: no such client can reach it, remove this one`},
	{"forward-values", `
forward-values:4: port_forward[1].name: "a b" cannot be a name: write letters, digits, - and _, and begin with a letter or digit
forward-values:5: port_forward[1].protocol: "sctp" is unknown: write "tcp" or "udp"
forward-values:6: port_forward[1].port: 0 is no port: write a number from 1 to 65535
forward-values:7: port_forward[1].to: "server" is no address with or without a port: write it like "192.168.0.10", "192.168.0.10:8080", "fd00::10" or "[fd00::10]:8080"
forward-values:11: port_forward[2].port: is the string "80", wants a port from 1 to 65535, or a range such as "8000-8010": write a single port without quotes
forward-values:12: port_forward[2].to: "0" is no port: write a number from 1 to 65535
forward-values:16: port_forward[3].port: "90-80" is not a range of ports: write the lower and the higher port from 1 to 65535, such as "8000-8010"
forward-values:17: port_forward[3].to: "fe80::1" is a link-local address, which nothing is routed to: write another address of that host
forward-values:20: port_forward[4].protocol: "TCP" is unknown: write "tcp" or "udp"
forward-values:21: port_forward[4].port: 65536 is no port: write a number from 1 to 65535
forward-values:22: port_forward[4].to: "127.0.0.1" is this host itself: write an address that others can reach
forward-values:27: port_forward[5].to: leads from ports 8000-8010 to 1-2: write ranges of the same length`},
	{"gateway-own", `
gateway-own:3: uplink.dsl.gateway: "192.0.2.2" is this uplink's own address: write the provider's router`},
	{"gateway", `
gateway:3: uplink.a.gateway: "2001:db8::1" is an IPv6 address: write it as gateway6
gateway:4: uplink.a.gateway6: "192.0.2.1" is an IPv4 address: write it as gateway
gateway:7: uplink.b.gateway: "off" is for gateway6 only: to take the uplink out write enabled = false
gateway:8: uplink.b.gateway6: "fe80::1%eth2" names an interface: write "fe80::1" alone
gateway:11: uplink.c.gateway: "192.0.2.1 offlink" is no gateway: write "auto", an IPv4 address, "ADDRESS onlink" or "none"
gateway:12: uplink.c.gateway6: "Auto" is no gateway: write "auto", an IPv6 address, "ADDRESS onlink", "none" or "off"
gateway:15: uplink.d.gateway: "192.0.2.1/24" is a prefix: write the address alone, "192.0.2.1"
gateway:16: uplink.d.gateway6: "ff02::1" reaches many hosts: write the address of one`},
	{"health-gateway", `
health-gateway:6: uplink.ppp.health.targets: gateway = "none" leaves no gateway to probe: remove "gateway" from the list
health-gateway:7: uplink.ppp.health.targets6: gateway6 = "none" leaves no gateway to probe: remove "gateway" from the list`},
	{"health-http", `
health-http:5: health.targets: "http://example.org" has no path: write "http://example.org/" for the first page
health-http:6: health.targets: "https://example.org?x=1 status=204" has no path: write "https://example.org/" for the first page
health-http:7: health.targets: "status=20" is no status to expect: write one from 200 to 599, such as status=204
health-http:8: health.targets: "status=0204" is no status to expect: write one from 200 to 599, such as status=204
health-http:9: health.targets: "status=" is no status to expect: write one from 200 to 599, such as status=204
health-http:10: health.targets: status= stands there twice: remove one
health-http:11: health.targets: "204" is no expectation: write status=NUMBER or text=TEXT behind the target, as in "http://HOST/PATH status=204"
health-http:14: health.targets6: text= expects nothing: write a text behind it, or remove it
health-http:15: health.targets6: the text to expect has 257 bytes: write at most 256
health-http:16: health.targets6: "icmp://[2001:db8::1] status=204" has something behind the target: only http and https can expect a status or a text
health-http:17: health.targets6: "gateway text=x" has something behind the target: only http and https can expect a status or a text
health-http:18: health.targets6: " http://example.org/" is not a target: write "icmp://HOST", "tcp://HOST:PORT", "dns://SERVER/NAME", "http://HOST/PATH", "https://HOST/PATH" or "gateway"
health-http:19: health.targets6: "https://example.org:0/" has no valid port: write one from 1 to 65535`},
	{"health-interval-all", `
health-interval-all:7: health.interval: "99ms" is shorter than suspect_interval, which is "100ms": write suspect_interval = "99ms" or less, too`},
	{"health-interval", `
health-interval:4: uplink.dsl.health.interval: "90ms" is shorter than suspect_interval, which is "100ms": write suspect_interval = "90ms" or less, too
health-interval:8: uplink.cable.health.suspect_interval: "2s" is longer than interval, which is "1s": after a miss probes come more often, not less: write "1s" or less
health-interval:13: uplink.fibre.health.suspect_interval: "30ms" is longer than interval, which is "20ms": after a miss probes come more often, not less: write "20ms" or less`},
	{"health-shape", `
health-shape:4: uplink.dsl.health.targets: is the string "icmp://192.0.2.1", wants a list, each element of it a target such as "icmp://192.0.2.1": put it in [ ]
health-shape:5: uplink.dsl.health.tiers: unknown key here: it belongs in [policy.NAME]
health-shape:7: health.targets: is the number 1, wants a target such as "icmp://192.0.2.1"
health-shape:7: health.targets: is true, wants a target such as "icmp://192.0.2.1"
health-shape:8: health.target: unknown key: did you mean targets?
health-shape:9: health.down_after: is the string "5", wants a whole number from 1 to 1000: write it without quotes`},
	{"health-timeout", `
health-timeout:7: uplink.lte.health.timeout: "50ms" is shorter than the "200ms" that profile "metered" waits at least: write "200ms" or more
health-timeout:12: uplink.fibre.health.timeout: "99ms" is shorter than the "100ms" that profile "fast" waits at least: write "100ms" or more
health-timeout:19: health.timeout: "150ms" is shorter than the "200ms" that profile "normal" waits at least: write "200ms" or more, or profile = "fast"`},
	{"health-too-many", `
health-too-many:4: health.targets: has 9 targets: write at most 8
health-too-many:8: health.targets6: "icmp://[2001:db8::1]" is in the list twice: remove one`},
	{"health-values", `
health-values:5: health.targets: "2606:4700:4700::1111" is an IPv6 address: write it in targets6
health-values:6: health.targets: "icmp://192.0.2.1:80" has more than a host: write "icmp://HOST"
health-values:7: health.targets: "tcp://192.0.2.1" is not a host and a port: write "tcp://HOST:PORT"
health-values:8: health.targets: "tcp://192.0.2.1:" has no port after its colon: write one from 1 to 65535
health-values:9: health.targets: "tcp://192.0.2.1:99999" has no valid port: write one from 1 to 65535
health-values:10: health.targets: "dns://192.0.2.1" does not say which name to ask for: write "dns://SERVER/NAME"
health-values:11: health.targets: "ftp" is an unknown way to probe: write icmp, tcp, dns, http or https
health-values:12: health.targets: "http://user@192.0.2.1/" is not a target: write "icmp://HOST", "tcp://HOST:PORT", "dns://SERVER/NAME", "http://HOST/PATH", "https://HOST/PATH" or "gateway"
health-values:13: health.targets: "-" is no host: write an address or a domain
health-values:14: health.targets: "192.0.2.1" is not a target: write "icmp://HOST", "tcp://HOST:PORT", "dns://SERVER/NAME", "http://HOST/PATH", "https://HOST/PATH" or "gateway"
health-values:15: health.targets: "0.0.0.0" means no address: write that of one host
health-values:17: health.targets6: "192.0.2.1" is an IPv4 address: write it in targets
health-values:18: health.down_after: 0 is out of range: write a whole number from 1 to 1000
health-values:19: health.degraded_loss: 101 is out of range: write a whole number from 0 to 100
health-values:20: health.profile: "quick" is unknown: write "normal", "fast" or "metered"`},
	{"hooks", `
hooks:4: hooks.on_change: "notify" is not an absolute path: begin with /
hooks:5: hooks.hook_timeout: 10 has no unit: write "10s" for seconds or "10ms" for milliseconds`},
	{"interface", `
interface:2: router.lan: "lo" is the loopback interface, which leads nowhere: write one such as "eth1"
interface:2: router.lan: "eth0:1" is an alias, not an interface: write "eth0" and list the uplink's own addresses in addresses
interface:2: router.lan: ".." is not the name of a network interface: write one such as "eth1"
interface:2: router.lan: "interface-with-long-name" has 24 bytes: the name of a network interface has at most 15
interface:2: router.lan: "a b" is not the name of a network interface: it has no spaces and no /
interface:2: router.lan: "a/b" is not the name of a network interface: it has no spaces and no /
interface:2: router.lan: "eth0" is in the list twice: remove one`},
	{"ipv6-mode", `
ipv6-mode:3: uplink.dsl.ipv6: "nat" is unknown: write "masquerade", "prefix", "routed" or "off"`},
	{"ipv6-routed", `
ipv6-routed:5: uplink.dsl.ipv6: "routed" needs the IPv6 prefix behind the router: add it to [router] routed, or write "masquerade"`},
	{"key-case", `
key-case:1: Router: unknown key: capital letters matter, write router
key-case:3: uplink.dsl.interface: is missing, wants the name of a network interface, such as "eth1"
key-case:4: uplink.dsl.Interface: unknown key: capital letters matter, write interface`},
	{"mark-mask-1", `
mark-mask-1:2: router.mark_mask: is a bare number: write it in quotes: "0xff000000"`},
	{"mark-mask-2", `
mark-mask-2:2: router.mark_mask: "0" is not a hexadecimal number of 32 bits: write one such as "0xff000000"`},
	{"mark-mask-3", `
mark-mask-3:2: router.mark_mask: "ff" is not a hexadecimal number of 32 bits: write one such as "0xff000000"`},
	{"mark-mask-4", `
mark-mask-4:2: router.mark_mask: "0x0" has no bits: write up to 8 adjacent ones, such as "0xff000000"`},
	{"mark-mask-5", `
mark-mask-5:2: router.mark_mask: "0x1ff" has 9 bits: write up to 8, such as "0xff000000"`},
	{"mark-mask-6", `
mark-mask-6:2: router.mark_mask: "0x50" has gaps between its bits: write up to 8 adjacent ones, such as "0xff000000"`},
	{"mark-mask-7", `
mark-mask-7:2: router.mark_mask: "0x1ffffffff" is not a hexadecimal number of 32 bits: write one such as "0xff000000"`},
	{"mark-mask-8", `
mark-mask-8:2: router.mark_mask: is true, wants a hexadecimal number in quotes, such as "0xff000000"`},
	{"mark-mask-room", `
mark-mask-room:8: router.mark_mask: has room for 3 uplinks and policies together, and there are 4: write a mask of 3 bits or more`},
	{"prefix6", `
prefix6:4: uplink.a.prefix6: "dhcp" is no prefix: write "auto", a prefix such as "2001:db8:1:ff00::/56", or the provider's block as "in 2001:db8::/32"
prefix6:8: uplink.b.prefix6: "2001:db8::1/56" has bits behind its length: write "2001:db8::/56", or "2001:db8::1" for the one host
prefix6:12: uplink.c.prefix6: "2001:db8::/72" has no room for a LAN: write a prefix of at most /64
prefix6:16: uplink.d.prefix6: "10.0.0.0/8" is an IPv4 prefix: write "auto", a prefix such as "2001:db8:1:ff00::/56", or the provider's block as "in 2001:db8::/32"
prefix6:20: uplink.e.prefix6: "fe80::/10" is no prefix that a provider delegates: write "auto", a prefix such as "2001:db8:1:ff00::/56", or the provider's block as "in 2001:db8::/32"
prefix6:24: uplink.f.prefix6: is the number 56, wants "auto", a prefix such as "2001:db8:1:ff00::/56", or the provider's block as "in 2001:db8::/32"
prefix6:27: uplink.g.prefix6: is for ipv6 = "prefix" alone: write that, or remove this key
prefix6:35: uplink.i.prefix6: overlaps with that of uplink "h" at prefix6:31: each prefix belongs to one uplink
prefix6:43: uplink.k.prefix6: overlaps with that of uplink "j" at prefix6:39: each prefix belongs to one uplink`},
	{"mtu-ipv6", `
mtu-ipv6:3: uplink.dsl.mtu: IPv6 needs packets of 1280 bytes: write that or more, or ipv6 = "off"`},
	{"name", `
name:1: uplink."a b": "a b" cannot be a name: write letters, digits, - and _, and begin with a letter or digit
name:3: uplink."": an empty name: write 1 to 31 letters, digits, - or _
name:5: uplink.-x: "-x" cannot be a name: write letters, digits, - and _, and begin with a letter or digit
name:7: uplink.a234567890123456789012345678901234567890: the name "a234567890123456789012345678901234567890" has 40 bytes: write at most 31
name:9: uplink."ärger": "ärger" cannot be a name: write letters, digits, - and _, and begin with a letter or digit`},
	{"no-interface", `
no-interface:1: uplink.dsl.interface: is missing, wants the name of a network interface, such as "eth1"
no-interface:4: uplink.cable.interface: is missing, wants the name of a network interface, such as "eth1"`},
	{"no-uplink", `
no-uplink:1: uplink: there is no uplink: add at least one, such as [uplink.dsl] with interface = "eth1" below it`},
	{"not-utf8", `
not-utf8:3: this line is not UTF-8 text: save the file as UTF-8`},
	{"numbers", `
numbers:2: router.table_base: 200 is out of range: write a whole number from 256 to 2147483392, because 253 to 255 are the kernel's own
numbers:3: router.rule_base: 32001 is out of range: write a whole number from 1 to 32000, because every rule must come before 32765
numbers:6: uplink.dsl.weight: 0 is out of range: write a whole number from 1 to 256
numbers:7: uplink.dsl.mtu: is the number 100, wants 0 for the interface's, or a whole number from 576 to 65535
numbers:9: policy.default.weights.dsl: 257 is out of range: write a whole number from 1 to 256`},
	{"pinned-twice", `
pinned-twice:7: uplink.cable.dns: "192.0.2.53" is reached through uplink "dsl" already, at pinned-twice:3: it can be pinned to one uplink only
pinned-twice:8: uplink.cable.destinations: "10.0.0.0/8" is reached through uplink "dsl" already, at pinned-twice:4: it can be pinned to one uplink only
pinned-twice:8: uplink.cable.destinations: "192.0.2.53" is reached through uplink "dsl" already, at pinned-twice:3: it can be pinned to one uplink only`},
	{"policy-fallback", `
policy-fallback:6: policy.default.fallback: is this very policy: write "reject"`},
	{"policy-tiers-unknown", `
policy-tiers-unknown:8: policy.default.tiers: no uplink is called "lte": known are "dsl", "cable"`},
	{"policy-tiers-twice", `
policy-tiers-twice:6: policy.default.tiers: "dsl" is in the list twice: remove one`},
	{"policy-tiers", `
policy-tiers:6: policy.default.tiers: an empty tier: name an uplink in it or remove it
policy-tiers:6: policy.default.tiers: "dsl" is in two tiers: remove one`},
	{"policy-unsupported", `
policy-unsupported:7: policy.default.fallback: is this very policy: write "reject"
policy-unsupported:9: policy.voice.weights.lte: no uplink is called "lte": known are "dsl", "cable"`},
	{"policy-values", `
policy-values:6: policy.default.balance: "random" is unknown: write "weight", "capacity" or "latency"
policy-values:7: policy.default.sticky: is true, wants "connection", "source" or "source-destination"
policy-values:8: policy.default.sticky_timeout: 600 has no unit: write "600s" for seconds or "600ms" for milliseconds
policy-values:9: policy.default.failback: "none" is unknown: write "new" or "all"
policy-values:10: policy.default.fallback: "drop" is unknown: write "reject" or "default"
policy-values:11: policy.default.tiers: is the string "dsl", wants a list of lists of uplinks, such as [["dsl", "cable"], ["lte"]]`},
	{"port-forward-types", `
port-forward-types:4: port_forward[1].name: is the number 3, wants a name
port-forward-types:5: port_forward[1].protocol: is the number 6, wants "tcp" or "udp"
port-forward-types:6: port_forward[1].port: is true, wants a port from 1 to 65535, or a range such as "8000-8010"
port-forward-types:7: port_forward[1].to: is the number 80, wants an address, with or without a port, such as "192.168.0.10", "192.168.0.10:8080", "fd00::10" or "[fd00::10]:8080"
port-forward-types:8: port_forward[1].uplinks: is the string "dsl", wants a list, each element of it a name: put it in [ ]`},
	{"prefix", `
prefix:2: router.routed: "192.0.2.1/24" has bits behind its length: write "192.0.2.0/24", or "192.0.2.1" for the one host
prefix:2: router.routed: "2001:db8::1/32" has bits behind its length: write "2001:db8::/32", or "2001:db8::1" for the one host
prefix:2: router.routed: "0.0.0.0/0" is every address there is: name the prefixes that are meant
prefix:2: router.routed: "::ffff:192.0.2.0/120" is an IPv4 prefix written as IPv6: write it as IPv4
prefix:2: router.routed: "192.0.2.0/33" is not a prefix: write one such as "192.0.2.0/24" or "2001:db8::/32"
prefix:2: router.routed: "here" is not an address or a prefix: write one such as "192.0.2.0/24" or "2001:db8::/32"
prefix:5: uplink.dsl.destinations: "::/0" is every address there is: name the prefixes that are meant
prefix:5: uplink.dsl.destinations: "10.0.0.1/8" has bits behind its length: write "10.0.0.0/8", or "10.0.0.1" for the one host
prefix:5: uplink.dsl.destinations: "fe80::1%eth0" names an interface: write "fe80::1" alone
prefix:5: uplink.dsl.destinations: "::ffff:192.0.2.1" is an IPv4 address written as IPv6: write "192.0.2.1"
prefix:5: uplink.dsl.destinations: "192.0.2.1/32" is in the list twice: remove one`},
	{"rule-clients", `
rule-clients:3: rule[1]: is about clients, and there are none: name their interfaces in [router] lan, or add local = true for the router's own traffic
rule-clients:6: rule[2]: is about clients, and there are none: name their interfaces in [router] lan, or add local = true for the router's own traffic`},
	{"rule-elements", `
rule-elements:6: rule[1].macs: "02:00:00:00:00:0a" is in the list twice: remove one
rule-elements:7: rule[1].dscp: "ef" is in the list twice: remove one
rule-elements:8: rule[1].hours: "24:00-06:00" is not a span of the day: write one such as "08:00-18:00" or "22:00-06:00"
rule-elements:11: rule[2].hours: "18:00-24:01" is not a span of the day: write one such as "08:00-18:00" or "22:00-06:00"`},
	{"rule-families", `
rule-families:7: rule[1].to: is about IPv6 only, and from about IPv4 only: no packet is both, correct or remove one
rule-families:12: rule[2].protocol: is about IPv4 only, and to about IPv6 only: no packet is both, correct or remove one
rule-families:16: rule[3].protocol: is about IPv6 only, and from about IPv4 only: no packet is both, correct or remove one
rule-families:31: rule[6].protocol: is about IPv6 only, and from about IPv4 only: no packet is both, correct or remove one`},
	{"rule-interfaces", `
rule-interfaces:6: rule[1].interfaces: "eth1" has no clients: add it to [router] lan, or write what is there: "eth0", "br-lan"
rule-interfaces:6: rule[1].interfaces: "br-guest" has no clients: add it to [router] lan, or write what is there: "eth0", "br-lan"`},
	{"rule-local", `
rule-local:7: rule[1].interfaces: the router's own traffic comes in by no interface: remove this key, or local
rule-local:8: rule[1].macs: the router's own traffic has no hardware address that it comes from: remove this key, or local`},
	{"rule-ports", `
rule-ports:6: rule[1].protocol: "icmp" has no ports: remove it, or ports
rule-ports:12: rule[2].protocol: "gre" has no ports: remove it, or source_ports
rule-ports:14: rule[2].protocol: "ah" has no ports: remove it, or source_ports`},
	{"rule-values", `
rule-values:5: rule[1].from: "192.168.0.20/24" has bits behind its length: write "192.168.0.0/24", or "192.168.0.20" for the one host
rule-values:6: rule[1].domains: "-bad.org" is not a domain: write one such as "example.org", or "*.example.org" for all below it
rule-values:6: rule[1].domains: "*.*.org" is not a domain: write one such as "example.org", or "*.example.org" for all below it
rule-values:6: rule[1].domains: "1.2.3.4" is not a domain: write one such as "example.org", or "*.example.org" for all below it
rule-values:7: rule[1].interfaces: "eth0:0" is an alias, not an interface: write "eth0" and list the uplink's own addresses in addresses
rule-values:8: rule[1].macs: "02-00-00-00-00-01" is not a hardware address: write one such as "02:00:00:00:00:01"
rule-values:8: rule[1].macs: "02:00" is not a hardware address: write one such as "02:00:00:00:00:01"
rule-values:9: rule[1].protocol: "tpc" is unknown: write "tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "gre", "esp", "ah", "ipip", "ipv6", "igmp", "ospf" or "l2tp"
rule-values:10: rule[1].ports: "5061-5060" is not a range of ports: write the lower and the higher port from 1 to 65535, such as "8000-8010"
rule-values:10: rule[1].ports: 0 is no port: write a number from 1 to 65535
rule-values:10: rule[1].ports: is the string "80", wants a port from 1 to 65535, or a range such as "8000-8010": write a single port without quotes
rule-values:11: rule[1].source_ports: is the number 80, wants a list, each element of it a port from 1 to 65535, or a range such as "8000-8010": put it in [ ]
rule-values:12: rule[1].dscp: "EF" is not a DSCP name: write one such as "ef", "af41" or "cs1"
rule-values:12: rule[1].dscp: is the number 46, wants a DSCP name
rule-values:13: rule[1].hours: "8-18" is not a span of the day: write one such as "08:00-18:00" or "22:00-06:00"
rule-values:14: rule[1].days: "Monday" is unknown: write "mon", "tue", "wed", "thu", "fri", "sat" or "sun"
rule-values:15: rule[1].local: is the string "no", wants true or false
rule-values:16: rule[1].uid: -1 is out of range: write a whole number from 0 to 4294967294
rule-values:17: rule[1].policy: no policy is called "voice": known are "default"
rule-values:20: rule[2].name: "x" is the name of another one too, at rule-values:4: choose two different names
rule-values:21: rule[2].protocol: "tcp" is in the list twice: remove one
rule-values:22: rule[2].hours: "08:00-08:00" has no length: write two different times
rule-values:23: rule[2].uid: only the router's own traffic has a user: add local = true
rule-values:25: rule[2].uplink: no uplink is called "dls": did you mean "dsl"?
rule-values:25: rule[2].uplink: a rule does one thing only, and this one has policy already: remove one
rule-values:28: rule[3].action: "drop" is unknown: write "bypass"
rule-values:30: rule[4]: does not say what to do: add policy, uplink or action`},
	{"same-address", `
same-address:10: uplink.cable.addresses: "192.0.2.9" is an address of uplink "dsl" at same-address:4 too: each address belongs to one uplink`},
	{"same-gateway", `
same-gateway:7: uplink.cable.gateway: two uplinks with the same gateway and interface: uplink "dsl" at same-gateway:3 has them too: correct or remove one
same-gateway:8: uplink.cable.gateway6: two uplinks with the same gateway and interface: uplink "dsl" at same-gateway:4 has them too: correct or remove one`},
	{"socket-path", `
socket-path:4: api.socket: "/run//a/../agent.sock" is not the shortest form of that path: write "/run/agent.sock"`},
	{"syntax-bare-word", `
syntax-bare-word:3: uplink.dsl.gateway: wrong TOML: expected value but found "auto" instead: write text in quotes, a number, true, false, or a list in [ ]`},
	{"syntax-duplicate", `
syntax-duplicate:4: uplink.dsl.weight: wrong TOML: Key 'uplink.dsl.weight' has already been defined: remove one, or join them`},
	{"syntax-header", `
syntax-header:1: wrong TOML: expected '.' or ']' to end table name, but got '\n' instead: close the header with ]`},
	{"syntax-separator", `
syntax-separator:2: uplink.dsl: wrong TOML: expected '.' or '=', but got '\n' instead: write key = value`},
	{"syntax-string", `
syntax-string:2: uplink.dsl.interface: wrong TOML: strings cannot contain newlines: close the text with the quote it begins with`},
	{"syntax-table-twice", `
syntax-table-twice:3: uplink: wrong TOML: Key 'uplink.dsl' has already been defined: remove one, or join them`},
	{"syntax-two", `
syntax-two:2: uplink.dsl: wrong TOML: expected a top-level item to end with a newline, comment, or EOF, but got 'w' instead: write one key = value in each line`},
	{"syntax-unclosed", `
syntax-unclosed:4: uplink.dsl.dns: wrong TOML: expected a comma (',') or array terminator (']'), but got '[': separate elements with commas and close the list with ]`},
	{"syntax", `
syntax:3: uplink.dsl.gateway: wrong TOML: expected value but found '\n' instead: write text in quotes, a number, true, false, or a list in [ ]`},
	{"too-deep", `
too-deep:3: brackets or dots are nested too deeply: no key needs that`},
	{"two-auto", `
two-auto:3: uplink.cable.gateway: uplink "dsl" at two-auto:1 is "auto" on interface "eth1" too, and nothing tells them apart: write the address of each gateway, or the uplink's own in addresses`},
	{"two-none", `
two-none:6: uplink.cable.gateway: uplink "dsl" at two-none:3 has interface "eth1" and no gateway too: name the gateway of one`},
	{"unknown-key", `
unknown-key:2: router.lann: unknown key: did you mean lan?
unknown-key:3: router.foo: unknown key: known here are guard, lan, manage_sysctls, mark_mask, routed, rule_base, table_base
unknown-key:6: uplink.dsl.iface: unknown key: known here are addresses, bandwidth, destinations, dns, enabled, gateway, gateway6, health, interface, ipv6, metered, mtu, prefix6, weight
unknown-key:7: uplink.dsl.mark_mask: unknown key here: it belongs in [router]
unknown-key:8: rooter: unknown key: did you mean router?`},
	{"unknown-top", `
unknown-top:1: interface: unknown key here: it belongs in [uplink.NAME]
unknown-top:2: anything: unknown key: known here are api, health, hooks, policy, port_forward, router, rule, uplink`},
	{"unknown-uplink", `
unknown-uplink:6: policy.default.weights.dsll: no uplink is called "dsll": did you mean "dsl"?
unknown-uplink:6: policy.default.weights.lte: no uplink is called "lte": known are "dsl", "cable"
unknown-uplink:12: port_forward[1].uplinks: no uplink is called "Cable": did you mean "cable"?`},
	{"wrong-shape", `
wrong-shape:1: rule: is the number 3, wants a list of tables: write [[rule]] with double brackets
wrong-shape:3: uplink.weight: stands outside of any [uplink.NAME]: write it below such a header
wrong-shape:4: uplink.lte: is the string "eth3", wants a table: write [uplink.lte] and the keys below it
wrong-shape:7: uplink.cable: is a list, wants a table: write [uplink.cable] with single brackets
wrong-shape:9: port_forward: is a table, wants a list of tables: write [[port_forward]] with double brackets
wrong-shape:11: api: is a list, wants a table: write [api] with single brackets`},
	{"wrong-type", `
wrong-type:2: router.lan: is the string "eth0", wants a list, each element of it the name of a network interface, such as "eth1": put it in [ ]
wrong-type:3: router.guard: is the string "yes", wants true or false
wrong-type:4: router.manage_sysctls: is the number 1, wants true or false
wrong-type:5: router.table_base: is the string "20000", wants a whole number from 256 to 2147483392: write it without quotes
wrong-type:6: router.rule_base: is the number 1.5, wants a whole number from 1 to 32000
wrong-type:7: router.routed: is the number 1, wants an address or a prefix
wrong-type:7: router.routed: is true, wants an address or a prefix
wrong-type:7: router.routed: is a date or time, wants an address or a prefix
wrong-type:9: uplink.dsl.interface: is a list, wants the name of a network interface, such as "eth1"
wrong-type:10: uplink.dsl.gateway: is a table, wants "auto", an IPv4 address, "ADDRESS onlink" or "none"
wrong-type:11: uplink.dsl.weight: is the string "many", wants a whole number from 1 to 256`},
}

func TestBad(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, tt := range badConfigs {
		tested["bad-"+tt.name+".toml"] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("testdata", "bad-"+tt.name+".toml"))
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := parse([]source{{name: tt.name, text: text}})
			if cfg != nil || err == nil {
				t.Fatalf("accepted: %+v", cfg)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	files, err := filepath.Glob("testdata/bad-*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if !tested[filepath.Base(f)] {
			t.Errorf("%s is not in the table", f)
		}
	}
}
