package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/nat"
	"multiroute/routes"
)

const basic = `
[router]
lan = ["eth0"]
[uplink.dsl]
interface = "eth1"
gateway = "192.0.2.1"
gateway6 = "off"
[uplink.cable]
interface = "eth2"
gateway = "198.51.100.1"
gateway6 = "off"
`

// healthy is a router on which everything is right.
func healthy(t *testing.T, text string) *Facts {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &Facts{Config: cfg, Unseen: map[string]error{}, Tables: &nat.Foreign{}, Links: map[string]Speed{},
		Connections: Connections{Count: 10, Max: 65536, Buckets: 65536, Established: 7440, Bytes: true, Start: true, MemoryMiB: 1024},
		Daemon:      Daemon{Running: true, Ready: true}}
	for i, prefix := range []string{"192.168.0.1/24", "192.0.2.2/24", "198.51.100.2/24"} {
		f.Kernel.Links = append(f.Kernel.Links, routes.Link{Name: fmt.Sprint("eth", i), Index: i + 1, Up: true, Carrier: true, MTU: 1500})
		f.Kernel.Addrs = append(f.Kernel.Addrs, routes.Addr{Index: i + 1, Prefix: netip.MustParsePrefix(prefix), Global: true, Usable: true})
	}
	for _, family := range []routes.Family{routes.IPv4, routes.IPv6} {
		for priority, table := range map[int]int{0: 255, 32766: 254, 32767: 253} {
			f.Rules = append(f.Rules, routes.ForeignRule{Family: family, Priority: priority, Table: table})
		}
	}
	return f
}

func (f *Facts) planned() *Facts {
	f.Plan = plan.Make(plan.Input{Config: f.Config, Facts: f.Kernel, IDs: plan.Assign(plan.IDs{}, f.Config)})
	return f
}

func base(table, name string, hook nat.Hook, priority int32, drop bool) nat.ForeignChain {
	return nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: table, Name: name, Type: nat.Filter, Hook: hook, Priority: priority, Drop: drop}
}

func base6(table, name string, hook nat.Hook) nat.ForeignChain {
	c := base(table, name, hook, 0, true)
	c.Family = unix.NFPROTO_IPV6
	return c
}

// ipv6 is an uplink with IPv6 for the configuration.
const ipv6 = "[uplink.third]\ninterface = \"eth2\"\ngateway = \"198.51.100.7\""

// TestHealthy: nothing is found where nothing is wrong, and all was looked at.
func TestHealthy(t *testing.T) {
	t.Parallel()
	r := Examine(healthy(t, basic).planned())
	if len(r.Findings)+len(r.Unseen) > 0 || len(r.Checked) != 11 || r.Worst() != Note {
		t.Errorf("%+v", r)
	}
}

// TestFindings: each fault alone is found, as severity, subject, text and remedy.
func TestFindings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		config string // more of it
		spoil  func(*Facts)
		want   string // parts of the finding, in order, with * between them
	}{
		{"no carrier", "", func(f *Facts) { f.Kernel.Links[1].Carrier = false }, "warning*uplink dsl*carries nothing*no carrier*ethtool eth1"},
		{"no interface", "", func(f *Facts) { f.Kernel.Links = slices.Delete(f.Kernel.Links, 1, 2) }, "warning*uplink dsl*does not exist*correct interface in [uplink.dsl]"},
		{"no address", "", func(f *Facts) { f.Kernel.Addrs = slices.Delete(f.Kernel.Addrs, 1, 2) }, "warning*uplink dsl*start what gets one for eth1"},
		{"dead", "", func(f *Facts) { f.Daemon.Down = map[string]string{"cable": "no answer from 1.1.1.1"} }, "warning*uplink cable*finds it down: no answer from 1.1.1.1*modem"},
		{"IPv4 only", ipv6, func(*Facts) {}, "note*uplink third*IPv4 only*gateway6 = \"off\" in [uplink.third]"},
		{"switched off", "", func(f *Facts) { f.Kernel.Links[1].Up = false }, "warning*uplink dsl*carries nothing*ip link set eth1 up"},
		{"nothing usable", "", func(f *Facts) { f.Kernel.Links = f.Kernel.Links[:1] }, "error*configuration*no uplink is usable"},
		{"mtu", "mtu = 9000", func(*Facts) {}, "warning*uplink cable*mtu = 9000*1500*ip link set eth2 mtu 9000"},
		{"slow card", "", func(f *Facts) { f.Links["eth1"] = Speed{100, "half"} }, "note*uplink dsl*100 Mbit/s, half duplex*ethtool eth1"},
		{"LRO", "", func(f *Facts) { f.Joining = []string{"eth0", "eth9"} }, "warning*interface eth0*LRO*ethtool -K eth0 lro off"},
		{"LAN and uplink alike", "", func(f *Facts) {
			f.Kernel.Addrs = append(f.Kernel.Addrs, routes.Addr{Index: 2, Prefix: netip.MustParsePrefix("192.168.0.77/24"), Global: true, Usable: true})
		}, "warning*192.168.0.0/24*LAN and uplink*another subnet"},
		{"two uplinks alike", "", func(f *Facts) {
			f.Kernel.Addrs = append(f.Kernel.Addrs, routes.Addr{Index: 3, Prefix: netip.MustParsePrefix("192.0.2.9/24"), Global: true, Usable: true})
		}, "note*192.0.2.0/24*one of them only"},
		{"foreign marks", "", func(f *Facts) {
			f.Kernel.Marks = []routes.ForeignMark{{Family: routes.IPv4, Priority: 99, Mark: 1 << 28, Mask: 0xf0000000}}
		}, "warning*configuration*rule 99*overlaps our mark_mask*agent(8) says where"},

		{"feature", "", func(f *Facts) { f.Missing = []Missing{{"masquerade", "CONFIG_NFT_MASQ"}} }, "error*kernel*no masquerade*CONFIG_NFT_MASQ"},

		{"sysctl unmanaged", "[router]\nmanage_sysctls = false", func(f *Facts) {
			f.Deviations = []sysctl.Deviation{{Setting: sysctl.Setting{Key: "net/ipv4/ip_forward", Value: "1"}, Have: "0"}}
		}, "error*sysctl net.ipv4.ip_forward*nothing is forwarded*sysctl -w net.ipv4.ip_forward=1"},
		{"loose filter unmanaged", "[router]\nmanage_sysctls = false", func(f *Facts) {
			f.Deviations = []sysctl.Deviation{{Setting: sysctl.Setting{Key: "net/ipv4/conf/eth1.5/rp_filter", Value: "2"}, Have: "1"}}
		}, "warning*net.ipv4.conf.eth1/5.rp_filter*is 1, needed is 2"},
		{"sysctl fought over", "", func(f *Facts) {
			f.Deviations = []sysctl.Deviation{{Setting: sysctl.Setting{Key: "net/ipv4/ip_forward", Value: "1"}, Have: "0"}}
		}, "warning*sysctl net.ipv4.ip_forward*somebody changes it"},
		{"sysctl at boot", "", func(f *Facts) {
			f.SysctlFiles = []File{{"/etc/sysctl.d/10-x.conf", "# x\nnet.ipv4.conf.*.rp_filter = 1\nnet.ipv4.conf.eth2.rp_filter = 2\n"}}
		}, "note*/etc/sysctl.d/10-x.conf:2*net.ipv4.conf.eth1.rp_filter to 1*write net.ipv4.conf.eth1.rp_filter = 2"},
		{"sysctl at boot, unmanaged", "[router]\nmanage_sysctls = false", func(f *Facts) {
			f.SysctlFiles = []File{{"/etc/sysctl.conf", "net/ipv4/ip_forward=0"}}
		}, "warning*/etc/sysctl.conf:1*comes back at boot"},

		{"full", "", func(f *Facts) { f.Connections.Count = 63000 }, "error*conntrack*63000 of 65536*nf_conntrack_max=131072"},
		{"nearly full", "", func(f *Facts) { f.Connections.Count = 53000 }, "warning*conntrack*53000 of 65536"},
		{"small", "", func(f *Facts) { f.Connections.Max = 8192 }, "warning*room for 8192*nf_conntrack_max=65536"},
		{"few buckets", "", func(f *Facts) { f.Connections.Buckets = 1024 }, "note*1024 buckets*hashsize"},
		{"forgets", "", func(f *Facts) { f.Connections.Established = 60 }, "warning*after 60 s*established=7440"},
		{"never forgets", "", func(f *Facts) { f.Connections.Established = 60 * 24 * 3600 }, "warning*60 days"},
		{"dropped", "", func(f *Facts) { f.Connections.Drop = 7 }, "warning*7 packets were dropped"},
		{"ended", "", func(f *Facts) { f.Connections.EarlyDrop = 7 }, "warning*7 connections were ended"},
		{"refused", "", func(f *Facts) { f.Connections.InsertFailed = 7 }, "note*7 connections were refused"},
		{"uncounted", "", func(f *Facts) { f.Connections.Bytes = false }, "note*bytes of connections are not counted: *sysctl -w net.netfilter.nf_conntrack_acct=1"},
		{"undated", "", func(f *Facts) { f.Connections.Start = false }, "note*not kept when connections began: *sysctl -w net.netfilter.nf_conntrack_timestamp=1"},
		{"uncounted and undated", "", func(f *Facts) { f.Connections.Bytes, f.Connections.Start = false, false },
			"note*not counted, nor is it kept when they began: *sysctl -w net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1"},
		{"helpers", "", func(f *Facts) { f.Connections.Helper = true }, "note*helpers*nf_conntrack_helper=0"},

		{"table of ours", "", rule(routes.ForeignRule{Priority: 500, Table: 20003}), "warning*ip -4 rule pref 500*table 20003"},
		{"among ours", "", rule(routes.ForeignRule{Priority: 10250, Table: 7}), "warning*pref 10250*among ours*ip -4 rule del pref 10250"},
		{"beside our last", "", rule(routes.ForeignRule{Priority: 32765, Table: 7}), "note*pref 32765*priority of ours"},
		{"wg-quick", "", rule(routes.ForeignRule{Priority: 9999, Table: 51820, Mark: 51820, Mask: 0xffffffff, Not: true, Default: true}), "error*fwmark 0xca6c*no uplink is used*Table = off"},
		{"takes all", "", rule(routes.ForeignRule{Priority: 100, Table: 9, Default: true}), "error*pref 100*no uplink is used*ip -4 rule del pref 100"},
		{"Tailscale", "", rule(routes.ForeignRule{Priority: 5230, Table: 253, Mark: 0x80000, Mask: 0xff0000}), "note*Tailscale*get along"},
		{"no rule for main", "", func(f *Facts) {
			f.Rules = []routes.ForeignRule{{Family: routes.IPv4, Table: 255}, {Family: routes.IPv4, Priority: 5, Table: 254, NoDefault: true}}
		}, "warning*ip -4 rule*table main is gone*ip -4 rule add pref 32766 lookup main"},
		{"no rule for local", "", func(f *Facts) { f.Rules = []routes.ForeignRule{{Family: routes.IPv4, Priority: 32766, Table: 254}} },
			"error*table local is gone*pref 0 lookup local"},

		{"policy drop", "", chains(base("mine", "forward", nat.Forward, 0, true)),
			"error*chain ip mine forward*its policy drops new connections from eth0 to eth1, answers from eth1 to eth0*nft insert rule ip mine forward iifname { \"eth0\" } oifname { \"eth1\", \"eth2\" } accept"},
		{"iptables", "", chains(base("filter", "FORWARD", nat.Forward, 0, true)), "error*iptables -I FORWARD -i eth0 -o eth1 -j ACCEPT"},
		{"Docker", "", chains(base("filter", "FORWARD", nat.Forward, 0, true), nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: "filter", Name: "DOCKER-USER"}),
			"error*iptables -I DOCKER-USER -i eth0 -o eth1 -j ACCEPT*-i eth1 -o eth0 -m conntrack --ctstate RELATED,ESTABLISHED"},
		{"ufw", "", chains(base("filter", "FORWARD", nat.Forward, 0, true), nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: "filter", Name: "ufw-user-forward"}),
			"error*ufw route allow in on eth0 out on eth1"},
		{"firewalld", "", chains(base("firewalld", "filter_FORWARD", nat.Forward, 10, true)), "error*firewall-cmd --permanent --new-policy multiroute"},
		{"OpenWrt", "", chains(base("fw4", "forward", nat.Forward, 0, true)), "error*uci add firewall forwarding"},
		{"port forwards", "[[port_forward]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nto = \"192.168.0.9\"", chains(base("mine", "forward", nat.Forward, 0, true)),
			"error*what comes in for port forwards*ct status dnat accept"},
		{"port forwards, libvirt", "[[port_forward]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nto = \"192.168.0.9\"", chains(base("libvirt_network", "forward", nat.Forward, 0, true)),
			"error*libvirt, in its chain forward, drops*port forwards: web*nft insert rule ip libvirt_network forward ct status dnat accept*virsh net-edit"},
		{"answers to probes", "", chains(base("mine", "input", nat.Input, 0, true)), "error*chain ip mine input*answers to the router itself by eth1*taken for dead*ct state established,related accept"},
		{"probes", "", chains(base("mine", "output", nat.Output, 0, true)), "error*what the router itself sends by eth1*nft insert rule ip mine output oifname { \"eth1\", \"eth2\" } meta mark and 0xff000000 != 0 accept"},
		{"answers to probes, iptables", "", chains(base("filter", "INPUT", nat.Input, 0, true)), "error*chain ip filter INPUT*iptables -I INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
		{"probes, iptables", "", chains(base("filter", "OUTPUT", nat.Output, 0, true)), "error*chain ip filter OUTPUT*iptables -I OUTPUT -o eth1 -m mark ! --mark 0/0xff000000 -j ACCEPT*-o eth2"},
		{"probes, IPv6", ipv6, chains(base6("mine", "output", nat.Output)), "error*chain ip6 mine output*meta mark and*nft insert rule ip6 mine output icmpv6 type { nd-router-solicit,*nd-neighbor-advert } accept"},
		{"probes, ip6tables", ipv6, chains(base6("filter", "OUTPUT", nat.Output)), "error*ip6tables -I OUTPUT -o eth1 -m mark*ip6tables -I OUTPUT -p icmpv6 --icmpv6-type neighbour-solicitation -j ACCEPT"},
		{"port forwards, ip6tables", ipv6 + "\n[[port_forward]]\nname = \"web\"\nprotocol = \"tcp\"\nport = 80\nto = \"fd00::9\"", chains(base6("filter", "FORWARD", nat.Forward)),
			"error*IPv6 what comes in for port forwards*ip6tables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"},
		{"legacy", "", func(f *Facts) { f.Legacy = []string{"filter"} }, "note*iptables-legacy*table filter*iptables-legacy -t filter -vnL"},

		{"networkd", "", func(f *Facts) { f.Programs = []string{"systemd-network"} }, "warning*systemd-networkd*no ManageForeignRoutingPolicyRules=no*/etc/systemd/networkd.conf.d"},
		{"networkd, overruled", "", func(f *Facts) {
			f.Programs = []string{"systemd-network"}
			f.Networkd = []File{{"/a", "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"}, {"/b", "[Network]\nManageForeignRoutes=yes\n"}}
		}, "warning*/b says ManageForeignRoutes=yes"},
		{"networkd, not started again", "", func(f *Facts) {
			f.Programs = []string{"systemd-network"}
			f.Networkd = []File{{"/a", "[Network]\nManageForeignRoutes=no\n"}, {"/b", "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"}}
			f.Unread = []string{"/b"}
		}, "warning*systemd-networkd /b was written after it was started*systemctl restart systemd-networkd"},
		{"NetworkManager", "", func(f *Facts) { f.Managed = []string{"eth0", "eth1"} }, "note*NetworkManager*eth1"},
		{"mwan3", "", chains(nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: "mangle", Name: "mwan3_hook"}), "warning*mwan3*/etc/init.d/mwan3 disable"},
		{"libvirt", "", chains(nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: "libvirt_network", Name: "guest_nat"}), "note*libvirt*get along"},
		{"libvirt before 10.4", "", chains(nat.ForeignChain{Family: unix.NFPROTO_IPV4, Table: "nat", Name: "LIBVIRT_PRT"}), "note*libvirt*get along"},
		{"Calico", "", func(f *Facts) { f.Programs = []string{"calico-node"} }, "warning*Calico*0xffff0000*IptablesMarkMask"},

		{"not ready", "", func(f *Facts) { f.Daemon.Ready = false }, "error*agent*does not hold"},
		{"another agent", "", func(f *Facts) { f.Daemon = Daemon{Other: "process 7"} }, "error*agent*process 7*stop it"},
		{"not running", "", func(f *Facts) { f.Daemon = Daemon{} }, "note*agent*does not run"},
		{"old configuration", "", func(f *Facts) { f.Daemon.ConfigError = "x.toml:1" }, "warning*older configuration: x.toml:1*agent reload"},
		{"what it says", "", func(f *Facts) { f.Daemon.Warnings = []string{"another program keeps"} }, "warning*agent*another program keeps*log*agent(8) says where"},
		{"not enabled", "", func(f *Facts) { f.Service = Service{Systemd: true, Unit: "/x"} }, "warning*multiroute.service*at boot*systemctl enable"},
		{"no folder", "", func(f *Facts) { f.Service = Service{Folder: "/run/x", NoFolder: "read-only"} }, "error*/run/x*read-only"},
		{"nobody asks", "dns = [\"192.0.2.53\"]", func(f *Facts) { f.Resolv = "nameserver 8.8.8.8\n" }, "note*/etc/resolv.conf*nobody asks*ln -sf"},
		{"a resolver", "dns = [\"192.0.2.53\"]", func(f *Facts) { f.Resolv = "nameserver 127.0.0.1\n" }, "note*/etc/resolv.conf*make sure*resolv-file="},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text := basic + test.config
			if more, ok := strings.CutPrefix(test.config, "[router]\n"); ok {
				text = strings.Replace(basic, "[router]\n", "[router]\n"+more+"\n", 1)
			}
			f := healthy(t, text)
			test.spoil(f)
			r := Examine(f.planned())
			var all []string
			for _, x := range r.Findings {
				line := fmt.Sprintf("%s %s %s %s", x.Severity, x.Subject, x.What, x.Remedy)
				if x.Remedy == "" {
					t.Errorf("without remedy: %s", line)
				}
				all = append(all, line)
				if holds(line, strings.Split(test.want, "*")) {
					return
				}
			}
			t.Errorf("not found: %q in\n%s", test.want, strings.Join(all, "\n"))
		})
	}
}

func rule(r routes.ForeignRule) func(*Facts) {
	r.Family = routes.IPv4
	return func(f *Facts) { f.Rules = append(f.Rules, r) }
}

func chains(all ...nat.ForeignChain) func(*Facts) {
	return func(f *Facts) { f.Tables = &nat.Foreign{Chains: all} }
}

// holds reports whether text has the parts, in order.
func holds(text string, parts []string) bool {
	for _, p := range parts {
		_, rest, ok := strings.Cut(text, p)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}

// TestQuiet: what looks like a fault and is none.
func TestQuiet(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Facts){
		"sysctls before a start": func(f *Facts) {
			f.Daemon.Ready = false
			f.Daemon = Daemon{}
			f.Deviations = []sysctl.Deviation{{Setting: sysctl.Setting{Key: "net/ipv4/ip_forward", Value: "1"}, Have: "0"}}
		},
		"Tailscale without an exit node": rule(routes.ForeignRule{Priority: 5270, Table: 52}),
		"a VPN's routes by prefix":       rule(routes.ForeignRule{Priority: 9998, Table: 254, NoDefault: true, Default: true}),
		"a default for one host":         rule(routes.ForeignRule{Priority: 100, Table: 9, Default: true, Narrow: true}),
		"another table's input":          chains(base("mine", "input", nat.Input, 0, false)),
		"a bridge's filter":              chains(nat.ForeignChain{Family: unix.NFPROTO_BRIDGE, Table: "b", Name: "forward", Type: nat.Filter, Drop: true}),
		"IPv6 that nobody uses":          chains(nat.ForeignChain{Family: unix.NFPROTO_IPV6, Table: "b", Name: "forward", Type: nat.Filter, Hook: nat.Forward, Drop: true}),
		"networkd with the drop-in": func(f *Facts) {
			f.Programs = []string{"systemd-network"}
			f.Networkd = []File{{"/a", "[Network]\nManageForeignRoutingPolicyRules=no\n ManageForeignRoutes = no\n"}}
		},
		"networkd with a younger file that says the same": func(f *Facts) {
			f.Programs = []string{"systemd-network"}
			f.Networkd = []File{{"/a", "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"}, {"/b", "[Network]\nManageForeignRoutes=no\n"}}
			f.Unread = []string{"/b"}
		},
		"a key excepted from a pattern": func(f *Facts) {
			f.SysctlFiles = []File{{"/a", "-net.ipv4.conf.eth1.rp_filter\n-net.ipv4.conf.eth2.rp_filter\nnet.ipv4.conf.*.rp_filter = 1\n"}}
		},
		"set right by a later file": func(f *Facts) {
			f.SysctlFiles = []File{{"/a", "net.ipv4.ip_forward=0\n"}, {"/b", "net.ipv4.ip_forward = 1\n"}}
		},
	} {
		f := healthy(t, basic)
		spoil(f)
		for _, x := range Examine(f.planned()).Findings {
			if x.Subject != "agent" {
				t.Errorf("%s: %+v", name, x)
			}
		}
	}
}

// TestUnseen: what could not be looked at is said, and is not among what was.
func TestUnseen(t *testing.T) {
	t.Parallel()
	f := healthy(t, basic)
	f.Tables = nil
	f.Unseen[Filters] = errors.New("it needs root")
	r := Examine(f.planned())
	if len(r.Unseen) != 1 || r.Unseen[0] != (Unseen{Filters, "it needs root"}) || strings.Contains(strings.Join(r.Checked, ","), Filters) {
		t.Errorf("%+v", r)
	}
}

// TestOrder: worst first.
func TestOrder(t *testing.T) {
	t.Parallel()
	f := healthy(t, basic)
	f.Connections.Bytes, f.Connections.Drop = false, 1
	f.Service.NoFolder = "x"
	r := Examine(f.planned())
	if len(r.Findings) != 3 || r.Findings[0].Severity != Error || r.Findings[1].Severity != Warning || r.Findings[2].Severity != Note || r.Worst() != Error {
		t.Errorf("%+v", r)
	}
}
