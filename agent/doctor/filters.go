package doctor

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/nat"
	"multiroute/routes"
)

// filters follows clients' packets, and the answers to them and to probes, through the
// filters of other programs: accepting is up to us only in our own table.
func filters(f *Facts) []Finding {
	var all []Finding
	for _, table := range f.Legacy {
		all = append(all, finding(Note, "iptables-legacy", "iptables-legacy -t "+table+" -vnL; better move those rules to nftables", "the table %s is in use, whose rules are not looked at here", table))
	}
	if f.Tables == nil {
		return all
	}
	for i := range f.Tables.Chains {
		c := &f.Tables.Chains[i]
		if c.Type == "" {
			continue
		}
		switch c.Hook {
		case nat.Forward:
			all = append(all, forwarded(f, c)...)
		case nat.Input, nat.Output:
			all = append(all, own(f, c)...)
		}
	}
	return all
}

// families are the IP versions that a chain sees and that are in use.
func families(f *Facts, c *nat.ForeignChain) []bool {
	switch {
	case c.Family == unix.NFPROTO_IPV4 || c.Family == unix.NFPROTO_INET && !f.ipv6():
		return []bool{false}
	case c.Family == unix.NFPROTO_INET:
		return []bool{false, true}
	case c.Family == unix.NFPROTO_IPV6 && f.ipv6():
		return []bool{true}
	}
	return nil
}

// way is one way through the router.
type way struct {
	in, out string
	sight   nat.Sight
	what    string
}

// ways are those that clients' connections take.
func (f *Facts) ways(v6 bool) []way {
	var all []way
	for _, lan := range f.Config.Router.LAN {
		for _, up := range f.interfaces() {
			out, back := f.sight(lan, up, v6), f.sight(up, lan, v6)
			back.Reply = true
			all = append(all, way{lan, up, out, "new connections from " + lan + " to " + up}, way{up, lan, back, "answers from " + up + " to " + lan})
		}
	}
	return all
}

func (f *Facts) sight(in, out string, v6 bool) nat.Sight {
	s := nat.Sight{In: in, Out: out, IPv6: v6, Ours: f.Config.Router.MarkMask}
	if l := f.Kernel.Link(in); l != nil {
		s.InIndex = l.Index
	}
	if l := f.Kernel.Link(out); l != nil {
		s.OutIndex = l.Index
	}
	return s
}

func forwarded(f *Facts, c *nat.ForeignChain) []Finding {
	var lost, unsure []string
	var last nat.Fate
	for _, v6 := range families(f, c) {
		for _, w := range f.ways(v6) {
			what := version(v6) + w.what
			switch fate := f.Tables.Walk(c, w.sight); {
			case fate.Lost():
				lost, last = append(lost, what), fate
			case fate.Dropped && fate.Policy:
				unsure = append(unsure, what)
			}
		}
	}
	var all []Finding
	if len(lost) > 0 {
		all = append(all, finding(Error, "chain "+c.String(), remedy(f, c)+forGood(c, last), "%s drops %s", dropper(c, last), list(lost)))
	}
	if len(unsure) > 0 {
		all = append(all, finding(Note, "chain "+c.String(), remedy(f, c)+"\n# only if they do not get through", "its policy drops what its rules do not accept, and whether they accept %s hangs on more than the interfaces", list(unsure)))
	}
	return append(all, portForwards(f, c)...)
}

// portForwards follows what comes in for servers behind the router.
func portForwards(f *Facts, c *nat.ForeignChain) []Finding {
	for _, v6 := range families(f, c) {
		var lost []string
		var last nat.Fate
		for _, p := range f.Config.PortForwards {
			if p.To.Is6() != v6 {
				continue
			}
			if fate := f.entering(c, p); fate.Lost() {
				lost, last = append(lost, p.Name), fate
			}
		}
		if len(lost) > 0 {
			return []Finding{finding(Error, "chain "+c.String(), forwardRemedy(f, c, last), "%s drops %swhat comes in for port forwards: %s", dropper(c, last), version(v6), list(lost))}
		}
	}
	return nil
}

// entering is what becomes of a port forward's packets: the best of all ways from
// an uplink to where the server is, or may be.
func (f *Facts) entering(c *nat.ForeignChain, p config.PortForward) (best nat.Fate) {
	behind := f.Config.Router.LAN
	for _, a := range f.Kernel.Addrs {
		if i := slices.IndexFunc(f.Kernel.Links, func(l routes.Link) bool { return l.Index == a.Index }); i >= 0 && a.Prefix.Contains(p.To) {
			behind = []string{f.Kernel.Links[i].Name}
		}
	}
	for _, to := range behind {
		for _, up := range f.interfaces() {
			s := f.sight(up, to, p.To.Is6())
			s.Forwarded = true
			if best = f.Tables.Walk(c, s); !best.Lost() {
				return best
			}
		}
	}
	return best
}

// own follows probes and the answers to them.
func own(f *Facts, c *nat.ForeignChain) []Finding {
	var lost []string
	by := ""
	for _, v6 := range families(f, c) {
		for _, up := range f.interfaces() {
			s, what := f.sight("", up, v6), "what the router itself sends by "+up
			if c.Hook == nat.Input {
				s, what = f.sight(up, "", v6), "answers to the router itself by "+up
				s.Reply = true
			}
			if fate := f.Tables.Walk(c, s); fate.Lost() {
				lost, by = append(lost, version(v6)+what), dropper(c, fate)
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return []Finding{finding(Error, "chain "+c.String(), ownRemedy(f, c),
		"%s drops %s: probes fail, and good uplinks are taken for dead", by, list(lost))}
}

// version names the family where it is not the usual one.
func version(v6 bool) string {
	if v6 {
		return "IPv6 "
	}
	return ""
}

// dropper names who drops.
func dropper(c *nat.ForeignChain, fate nat.Fate) string {
	switch {
	case libvirts(c, fate):
		return "libvirt, in its chain " + fate.By + ","
	case fate.Policy && fate.By == c.Name:
		return "its policy"
	case fate.By != c.Name:
		return "a rule in its chain " + fate.By
	}
	return "a rule of it"
}

// list joins texts, the first few of them.
func list(all []string) string {
	const few = 4
	if len(all) > few {
		return strings.Join(all[:few], ", ") + fmt.Sprintf(" and %d more", len(all)-few)
	}
	return strings.Join(all, ", ")
}
