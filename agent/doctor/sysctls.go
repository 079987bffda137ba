package doctor

import (
	"path"
	"strings"
)

// sysctls looks at parameters that are not as needed, and at files that set them
// otherwise at boot.
func sysctls(f *Facts) []Finding {
	var all []Finding
	managed := f.Config.Router.ManageSysctls
	for _, d := range f.Deviations {
		name := dotted(d.Key)
		remedy := "sysctl -w " + name + "=" + d.Value
		switch {
		case !managed && strings.HasSuffix(d.Key, "forward") || !managed && strings.HasSuffix(d.Key, "/forwarding"):
			all = append(all, finding(Error, "sysctl "+name, remedy, "it is %s: nothing is forwarded, and manage_sysctls is false", d.Have))
		case !managed:
			all = append(all, finding(Warning, "sysctl "+name, remedy, "it is %s, needed is %s, and manage_sysctls is false", d.Have, d.Value))
		case f.Daemon.Ready: // it looks every second
			all = append(all, finding(Warning, "sysctl "+name, "grep -rs "+name[strings.LastIndexByte(name, '.')+1:]+" /etc/sysctl.conf /etc/sysctl.d /etc/NetworkManager /etc/systemd/network   # who sets it?", "it is %s, needed is %s: somebody changes it, or the agent may not (agent status says so)", d.Have, d.Value))
		}
	}
	for _, s := range f.Plan.Sysctls {
		file, line, value := lastSetting(f.SysctlFiles, s.Key)
		if value == "" || value == s.Value || value == s.Else || s.From != "" && value != s.From {
			continue
		}
		severity, note := Note, "the agent puts it right when it starts"
		if !managed {
			severity, note = Warning, "it comes back at boot, and manage_sysctls is false"
		}
		all = append(all, finding(severity, file+":"+itoa(line), "remove the line, or write "+dotted(s.Key)+" = "+s.Value,
			"sets %s to %s, needed is %s; %s", dotted(s.Key), value, s.Value, note))
	}
	return all
}

// dotted is a parameter's name as sysctl(8) takes it: where an interface's name
// has a dot, that becomes a slash.
func dotted(key string) string { return swap.Replace(key) }

var swap = strings.NewReplacer("/", ".", ".", "/")

// lastSetting returns which line of the files sets a parameter in the end, as
// sysctl.d(5) reads them.
func lastSetting(files []File, key string) (file string, line int, value string) {
	exact := false
	for _, f := range files {
		n := 0
		for text := range strings.Lines(f.Text) {
			n++
			text = strings.TrimSpace(text)
			if text == "" || text[0] == '#' || text[0] == ';' {
				continue
			}
			k, v, sets := strings.Cut(strings.TrimPrefix(text, "-"), "=")
			k, v = slashed(strings.TrimSpace(k)), strings.TrimSpace(v)
			switch {
			case !sets && k == key: // "-key": patterns do not hold for it
				exact, value = true, ""
			case sets && k == key:
				file, line, value, exact = f.Path, n, v, true
			case sets && !exact && strings.ContainsAny(k, "*?["):
				if ok, err := path.Match(k, key); ok && err == nil {
					file, line, value = f.Path, n, v
				}
			}
		}
	}
	return file, line, value
}

// slashed is a name as the path below /proc/sys: whichever of . and / comes
// first separates its parts.
func slashed(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		return swap.Replace(name)
	}
	return name
}
