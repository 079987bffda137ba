package doctor

import (
	"path/filepath"
	"slices"
	"strings"

	"multiroute/agent/config"
)

// names looks at who asks the uplinks' DNS servers.
func names(f *Facts) []Finding {
	if !slices.ContainsFunc(f.Config.Uplinks, func(u config.Uplink) bool { return len(u.DNS) > 0 }) {
		return nil
	}
	ours := filepath.Join(filepath.Dir(f.Config.API.Socket), "resolv.conf")
	if f.ResolvPath == ours {
		return nil
	}
	for line := range strings.Lines(f.Resolv) { // a resolver of its own, which may read ours
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" && (strings.HasPrefix(fields[1], "127.") || fields[1] == "::1") {
			return []Finding{finding(Note, "/etc/resolv.conf", "dnsmasq: resolv-file="+ours, "uplinks have DNS servers; make sure that the resolver of this router asks those in %s", ours)}
		}
	}
	return []Finding{finding(Note, "/etc/resolv.conf", "ln -sf "+ours+" /etc/resolv.conf", "uplinks have DNS servers, which nobody asks: %s lists those of usable uplinks", ours)}
}
