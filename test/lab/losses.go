//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The kernel's counters of packets that it lost: groups of /proc/net/snmp and netstat, and of conntrack.
var (
	lossCounters = []string{
		"Ip.InHdrErrors", "Ip.InAddrErrors", "Ip.InDiscards", "Ip.OutDiscards", "Ip.OutNoRoutes",
		"Udp.NoPorts", "Udp.InErrors", "Udp.RcvbufErrors", "Udp.SndbufErrors", "Udp.InCsumErrors",
		"IpExt.InNoRoutes", "IpExt.InTruncatedPkts", "IpExt.InCsumErrors", "TcpExt.IPReversePathFilter",
	}
	conntrackLosses = []string{"clashres", "invalid", "insert_failed", "drop", "early_drop"}
)

// Losses says in a line what the kernel counted in each namespace that can explain a lost packet, for a test that has lost one.
func (t *Topology) Losses() string {
	all := map[string]*NS{"router": t.Router, "internet": t.Internet, "switch": t.Switch, "LAN": t.lanHub}
	for i, c := range t.Clients {
		all[fmt.Sprint("client ", i+1)] = c
	}
	for _, u := range t.Uplinks {
		all[u.Name] = u.Provider.NS
	}
	var lines []string
	for name, ns := range all {
		if ns == nil {
			continue
		}
		err := ns.Do(func() error {
			found, err := losses()
			lines = append(lines, fmt.Sprintf("%s: %s", name, strings.Join(found, " ")))
			return err
		})
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", name, err))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// losses lists the counters of the calling thread's namespace that are not 0.
func losses() (found []string, err error) {
	note := func(name, value string, base int) {
		if n, err := strconv.ParseUint(value, base, 64); err == nil && n > 0 {
			found = append(found, fmt.Sprintf("%s=%d", name, n))
		}
	}
	lines := func(file string) [][]string {
		b, readErr := os.ReadFile("/proc/thread-self/net/" + file)
		if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		var all [][]string
		for line := range strings.Lines(string(b)) {
			all = append(all, strings.Fields(line))
		}
		return all
	}
	for _, file := range []string{"snmp", "netstat"} {
		all := lines(file)
		for i := 0; i+1 < len(all); i += 2 { // names, then values
			for k, name := range all[i] {
				if full := strings.TrimSuffix(all[i][0], ":") + "." + name; k > 0 && k < len(all[i+1]) && slices.Contains(lossCounters, full) {
					note(full, all[i+1][k], 10)
				}
			}
		}
	}
	for _, f := range lines("snmp6") { // a name and a value
		if len(f) == 2 && (strings.Contains(f[0], "Discards") || strings.Contains(f[0], "NoRoutes") || strings.HasPrefix(f[0], "Udp6") && strings.Contains(f[0], "Errors")) {
			note(f[0], f[1], 10)
		}
	}
	for _, f := range lines("dev") { // name: 8 of what was received, 8 of what was sent; the third and fourth are errors and drops
		if len(f) == 17 && strings.HasSuffix(f[0], ":") {
			for k, name := range map[int]string{3: "rx errors", 4: "rx dropped", 11: "tx errors", 12: "tx dropped"} {
				note(f[0]+name, f[k], 10)
			}
		}
	}
	if cpus := lines("stat/nf_conntrack"); len(cpus) > 0 { // names, then a line of hexadecimal values for each CPU
		for cpu, values := range cpus[1:] {
			for k, value := range values {
				if k < len(cpus[0]) && slices.Contains(conntrackLosses, cpus[0][k]) {
					note(fmt.Sprintf("conntrack.%s on CPU %d", cpus[0][k], cpu), value, 16)
				}
			}
		}
	}
	slices.Sort(found)
	return found, err
}
