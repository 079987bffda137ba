package domains

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Header is how our files begin, and no others: only such a file is ever
// overwritten or removed.
const Header = "# Written by multiroute; changes are lost.\n"

// Dnsmasq writes the include for dnsmasq. table is the nftables table, with its
// family, and in4 and in6 name the sets of a list's addresses.
//
// dnsmasq knows names with all below them only, and takes the sets of one line
// only: that of the longest name. So a line has the sets of all lists that its
// names belong to; an exact name belongs to those below it only where dnsmasq
// knows no better.
//
// A line that is too long would keep dnsmasq from starting. It has no more sets
// than fit, those of the first lists; the error names such names.
func Dnsmasq(lists []List, table string, in4, in6 func(set string) string) (string, error) {
	var b strings.Builder
	b.WriteString(Header)
	by := map[string][]int{} // the lists that name a domain
	var names []string
	for i, l := range lists {
		for _, d := range l.Domains {
			by[d] = append(by[d], i)
			names = append(names, strings.TrimPrefix(d, "*."))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	table = strings.ReplaceAll(table, " ", "#")
	var long []string
	for _, name := range names {
		line := "nftset=/" + name
		separator := "/"
		for _, i := range belongs(by, name) {
			more := ""
			for _, set := range lists[i].Told() {
				more += separator + "4#" + table + "#" + in4(set) + ",6#" + table + "#" + in6(set)
				separator = ","
			}
			if len(line)+len(more) > maxLine {
				long = append(long, name)
				break
			}
			line += more
		}
		b.WriteString(line + "\n")
	}
	if long != nil {
		return b.String(), fmt.Errorf("too many different lists of domains have %s: dnsmasq fills those of the first rules only; write the same list in several rules, or fewer rules",
			strings.Join(long, ", "))
	}
	return b.String(), nil
}

// maxLine bounds a line in bytes: dnsmasq reads MAXDNAME, 1025 with the end
// (one_file, src/option.c), and takes the rest for another line.
const maxLine = 1000

// belongs returns the lists to which belongs what dnsmasq finds by a line for
// name: those that have the name itself, or one that it is below.
func belongs(by map[string][]int, name string) []int {
	lists := slices.Clone(by[name])
	for above := name; above != ""; _, above, _ = strings.Cut(above, ".") {
		lists = append(lists, by["*."+above]...)
	}
	slices.Sort(lists)
	return slices.Compact(lists)
}

// ResolvConf writes a resolver configuration with these servers.
func ResolvConf(servers []netip.Addr) string {
	var b strings.Builder
	b.WriteString(Header)
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return b.String()
}

// Nameservers reads the servers of a resolver configuration (resolv.conf(5)).
func Nameservers(text string) []netip.Addr {
	var all []netip.Addr
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, a)
		}
	}
	return all
}
