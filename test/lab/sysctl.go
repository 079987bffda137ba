//go:build linux

package lab

import (
	"fmt"
	"os"
	"strings"
)

// nsDefaults are written into every new namespace before it has any interface but lo.
var nsDefaults = [][2]string{
	{"net/ipv4/conf/all/rp_filter", "0"}, // replies come by another way than requests went
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/ip_local_port_range", "10000 65000"}, // clear of the ports of servers
	{"net/ipv6/conf/all/disable_ipv6", "0"},
	{"net/ipv6/conf/default/disable_ipv6", "0"},
	{"net/ipv6/conf/all/accept_dad", "0"}, // addresses are usable at once
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/dad_transmits", "0"},
	{"net/ipv6/conf/default/router_solicitations", "0"},
	// An address that was added before the carrier came waits up to this long before it answers neighbours.
	{"net/ipv6/conf/default/router_solicitation_delay", "0"},
}

// forwarding makes a namespace a router.
var forwarding = [][2]string{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv6/conf/all/forwarding", "1"},
	{"net/ipv4/icmp_ratelimit", "0"}, // "unreachable" is said each time
	{"net/ipv6/icmp/ratelimit", "0"},
}

// Sysctl writes a kernel setting of the namespace. The key has slashes: "net/ipv4/ip_forward".
func (ns *NS) Sysctl(key, value string) error {
	return ns.Do(func() error { return writeSysctl(key, value) })
}

// ReadSysctl reads a kernel setting of the namespace.
func (ns *NS) ReadSysctl(key string) (string, error) {
	var value string
	err := ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

// sysctls writes several settings at once.
func (ns *NS) sysctls(settings [][2]string) error {
	return ns.Do(func() error {
		for _, s := range settings {
			if err := writeSysctl(s[0], s[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeSysctl writes a setting of the namespace of the calling thread, which /proc/sys/net follows.
func writeSysctl(key, value string) error {
	f, err := os.OpenFile("/proc/sys/"+key, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing sysctl: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("writing %q to sysctl: %w", value, err)
	}
	return nil
}
