package doctor

import (
	"slices"
	"strings"

	"multiroute/nat"
)

// programs looks at daemons that manage the same things.
func programs(f *Facts) []Finding {
	var all []Finding
	runs := func(name string) bool { return slices.Contains(f.Programs, name) }
	if runs("systemd-network") { // 15 bytes of the name are all that the kernel keeps
		all = append(all, networkd(f)...)
	}
	for _, name := range f.interfaces() {
		if slices.Contains(f.Managed, name) {
			all = append(all, finding(Note, "NetworkManager", "nothing; nmcli -f ipv4.routing-rules,ipv6.routing-rules connection show NAME   # should be empty", "it manages %s: that is fine as long as its connection has no routing rules of its own; we learn the gateway from its default route", name))
		}
	}
	if f.has("mwan3_") || runs("mwan3track") || runs("mwan3rtmon") {
		all = append(all, finding(Warning, "mwan3", "/etc/init.d/mwan3 stop; /etc/init.d/mwan3 disable", "it chooses uplinks too: its rules come before ours"))
	}
	if f.has(libvirtChains) || f.hasTable(libvirtTable) {
		all = append(all, finding(Note, "libvirt", "nothing", "its guests use the uplinks as clients do, and its NAT, which comes after ours, finds nothing left to do: the two get along"))
	}
	if f.has("cali-") || runs("calico-node") {
		if mask := uint32(0xffff0000); f.Config.Router.MarkMask&mask != 0 {
			all = append(all, finding(Warning, "Calico", "set Calico's IptablesMarkMask (or NftablesMarkMask) to 0x00ff0000", "it uses the marks 0xffff0000 unless told otherwise, which overlap our mark_mask %#08x", f.Config.Router.MarkMask))
		}
	}
	return all
}

// networkd looks at whether systemd-networkd leaves our rules and routes alone. It
// reads its files when it is started, and never again.
func networkd(f *Facts) []Finding {
	const subject, harm = "systemd-networkd", "it removes our rules or routes whenever it starts or sets an interface up (the agent puts them back within a second)"
	read := slices.DeleteFunc(slices.Clone(f.Networkd), func(file File) bool { return slices.Contains(f.Unread, file.Path) })
	for _, key := range []string{"ManageForeignRoutingPolicyRules", "ManageForeignRoutes"} {
		value, file := lastAssignment(f.Networkd, key)
		if !isNo(value) {
			where := "it has no " + key + "=no"
			if file != "" {
				where = file + " says " + key + "=" + value
			}
			return []Finding{finding(Warning, subject,
				"mkdir -p /etc/systemd/networkd.conf.d; printf '[Network]\\nManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no\\n' > /etc/systemd/networkd.conf.d/multiroute.conf; systemctl restart systemd-networkd",
				"%s: %s", where, harm)}
		}
		if old, _ := lastAssignment(read, key); !isNo(old) {
			return []Finding{finding(Warning, subject, "systemctl restart systemd-networkd", "%s was written after it was started, and until it is started again %s", file, harm)}
		}
	}
	return nil
}

// isNo reports whether systemd takes the value for false.
func isNo(value string) bool {
	return slices.Contains([]string{"no", "false", "0", "off", "n", "f"}, strings.ToLower(value))
}

// has reports whether somebody's chain has a name that begins so.
func (f *Facts) has(prefix string) bool {
	return f.hasChain(func(c nat.ForeignChain) bool { return strings.HasPrefix(c.Name, prefix) })
}

// hasTable reports whether somebody's table has that name, and chains.
func (f *Facts) hasTable(name string) bool {
	return f.hasChain(func(c nat.ForeignChain) bool { return c.Table == name })
}

func (f *Facts) hasChain(is func(nat.ForeignChain) bool) bool {
	return f.Tables != nil && slices.ContainsFunc(f.Tables.Chains, is)
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
