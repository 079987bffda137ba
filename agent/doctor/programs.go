package doctor

import (
	"slices"
	"strings"
)

// programs looks at daemons that manage the same things.
func programs(f *Facts) []Finding {
	var all []Finding
	runs := func(name string) bool { return slices.Contains(f.Programs, name) }
	if runs("systemd-network") { // 15 bytes of the name are all that the kernel keeps
		for _, key := range []string{"ManageForeignRoutingPolicyRules", "ManageForeignRoutes"} {
			if value, file := lastAssignment(f.Networkd, key); !slices.Contains([]string{"no", "false", "0", "off", "n", "f"}, strings.ToLower(value)) {
				where := "it has no " + key + "=no"
				if file != "" {
					where = file + " says " + key + "=" + value
				}
				all = append(all, finding(Warning, "systemd-networkd",
					"mkdir -p /etc/systemd/networkd.conf.d; printf '[Network]\\nManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no\\n' > /etc/systemd/networkd.conf.d/multiroute.conf; systemctl restart systemd-networkd",
					"%s: it removes our rules or routes whenever it starts or sets an interface up (the agent puts them back within a second)", where))
				break
			}
		}
	}
	for _, name := range f.interfaces() {
		if slices.Contains(f.Managed, name) {
			all = append(all, finding(Note, "NetworkManager", "nothing; nmcli -f ipv4.routing-rules,ipv6.routing-rules connection show NAME   # should be empty", "it manages %s: that is fine as long as its connection has no routing rules of its own; we learn the gateway from its default route", name))
		}
	}
	if f.has("mwan3_") || runs("mwan3track") || runs("mwan3rtmon") {
		all = append(all, finding(Warning, "mwan3", "/etc/init.d/mwan3 stop; /etc/init.d/mwan3 disable", "it chooses uplinks too: its rules come before ours"))
	}
	if f.has("cali-") || runs("calico-node") {
		if mask := uint32(0xffff0000); f.Config.Router.MarkMask&mask != 0 {
			all = append(all, finding(Warning, "Calico", "set Calico's IptablesMarkMask (or NftablesMarkMask) to 0x00ff0000", "it uses the marks 0xffff0000 unless told otherwise, which overlap our mark_mask %#08x", f.Config.Router.MarkMask))
		}
	}
	return all
}

// has reports whether somebody's chain has a name that begins so.
func (f *Facts) has(prefix string) bool {
	if f.Tables == nil {
		return false
	}
	for _, c := range f.Tables.Chains {
		if strings.HasPrefix(c.Name, prefix) {
			return true
		}
	}
	return false
}

// lastAssignment returns what systemd's files set a key of [Network] to.
func lastAssignment(files []File, key string) (value, file string) {
	for _, f := range files {
		section := ""
		for line := range strings.Lines(f.Text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = line
			}
			if k, v, ok := strings.Cut(line, "="); ok && section == "[Network]" && strings.TrimSpace(k) == key {
				value, file = strings.TrimSpace(v), f.Path
			}
		}
	}
	return value, file
}
