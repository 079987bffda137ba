package plan

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
)

// parseFacts reads facts from a text of these lines, in the kernel's order:
//
//	link NAME INDEX [down] [nocarrier] [ptp] [mtu BYTES]
//	addr NAME PREFIX [peer PREFIX] [secondary] [tentative] [scope-link]
//	default NAME [via ADDRESS] [onlink] [metric N] [-6]
//	neighbour NAME ADDRESS MAC|failed
//	mark -4|-6 PRIORITY MARK/MASK
//	nomain -4|-6
//	delegated PREFIX
//	noipv6
func parseFacts(text string) (f routes.Facts, err error) {
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			if err := parseFact(&f, words[0], words[1:]); err != nil {
				return f, fmt.Errorf("facts line %d: %q: %w", n+1, line, err)
			}
		}
	}
	return f, nil
}

func parseFact(f *routes.Facts, kind string, w []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	// take removes a flag, or an option and its value, from w.
	flag := func(name string) bool {
		i := slices.Index(w, name)
		if i >= 0 {
			w = slices.Delete(slices.Clone(w), i, i+1)
		}
		return i >= 0
	}
	option := func(name string) (value string) {
		if i := slices.Index(w, name); i >= 0 {
			value = w[i+1]
			w = slices.Delete(slices.Clone(w), i, i+2)
		}
		return value
	}
	index := func() int {
		l := f.Link(w[0])
		if l == nil {
			panic("no such link")
		}
		return l.Index
	}
	number := func(s string) int {
		n, err := strconv.ParseInt(s, 0, 64)
		if err != nil {
			panic(err)
		}
		return int(n)
	}
	switch kind {
	case "link":
		l := routes.Link{Up: !flag("down"), PointToPoint: flag("ptp"), MTU: 1500}
		l.Carrier = !flag("nocarrier") && l.Up
		if n := option("mtu"); n != "" {
			l.MTU = number(n)
		}
		l.Name, l.Index = w[0], number(w[1])
		f.Links = append(f.Links, l)
		w = w[2:]
	case "addr":
		a := routes.Addr{Index: index(), Global: !flag("scope-link"), Secondary: flag("secondary"), Usable: !flag("tentative")}
		if p := option("peer"); p != "" {
			a.Peer = netip.MustParsePrefix(p)
		}
		a.Prefix = netip.MustParsePrefix(w[1])
		f.Addrs = append(f.Addrs, a)
		w = w[2:]
	case "default":
		d := routes.DefaultRoute{Family: routes.IPv4, Index: index(), OnLink: flag("onlink")}
		if flag("-6") {
			d.Family = routes.IPv6
		}
		if g := option("via"); g != "" {
			d.Gateway = netip.MustParseAddr(g)
			d.Family = routes.FamilyOf(d.Gateway)
		}
		if m := option("metric"); m != "" {
			d.Metric = uint32(number(m))
		}
		f.Defaults = append(f.Defaults, d)
		w = w[1:]
	case "neighbour":
		if w[2] == "failed" {
			f.FailedNeighbours = append(f.FailedNeighbours, routes.Neighbour{Index: index(), Addr: netip.MustParseAddr(w[1])})
			w = w[3:]
			break
		}
		mac, err := net.ParseMAC(w[2])
		if err != nil {
			panic(err)
		}
		f.Neighbours = append(f.Neighbours, routes.Neighbour{Index: index(), Addr: netip.MustParseAddr(w[1]), MAC: [6]byte(mac)})
		w = w[3:]
	case "mark":
		m := routes.ForeignMark{Family: routes.IPv4, Priority: number(w[1])}
		if w[0] == "-6" {
			m.Family = routes.IPv6
		}
		mark, mask, _ := strings.Cut(w[2], "/")
		m.Mark, m.Mask = uint32(number(mark)), uint32(number(mask))
		f.Marks = append(f.Marks, m)
		w = w[3:]
	case "nomain":
		f.NoMain = append(f.NoMain, map[string]routes.Family{"-4": routes.IPv4, "-6": routes.IPv6}[w[0]])
		w = w[1:]
	case "delegated":
		f.Delegated = append(f.Delegated, netip.MustParsePrefix(w[0]))
		w = w[1:]
	case "noipv6":
		f.NoIPv6 = true
	default:
		return fmt.Errorf("what is a %q?", kind)
	}
	if len(w) > 0 {
		return fmt.Errorf("what is %q?", w)
	}
	return nil
}

func mustFacts(t testing.TB, text string) routes.Facts {
	t.Helper()
	f, err := parseFacts(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustConfig(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "config.toml", Text: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// makePlan plans from texts, with ids as a first start would give them. Beside
// facts there may be what probes and people say:
//
//	health UPLINK 4|6 degraded|down REASON
//	disabled UPLINK REASON
func makePlan(t testing.TB, cfg, facts string) Plan {
	t.Helper()
	c := mustConfig(t, cfg)
	in := Input{Config: c, IDs: Assign(IDs{}, c), Health: map[health.Leg]health.Verdict{}, Disabled: map[string]string{}}
	var rest []string
	for _, line := range strings.Split(facts, "\n") {
		w := strings.Fields(line)
		switch {
		case len(w) > 3 && w[0] == "health":
			leg := health.Leg{Uplink: w[1], Family: map[string]routes.Family{"4": routes.IPv4, "6": routes.IPv6}[w[2]]}
			state := map[string]health.State{"degraded": health.Degraded, "down": health.Down}[w[3]]
			in.Health[leg] = health.Verdict{State: state, Reason: strings.Join(w[4:], " ")}
		case len(w) > 1 && w[0] == "disabled":
			in.Disabled[w[1]] = strings.Join(w[2:], " ")
		default:
			rest = append(rest, line)
		}
	}
	in.Facts = mustFacts(t, strings.Join(rest, "\n"))
	return Make(in)
}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}
