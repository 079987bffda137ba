// Package domains finds the addresses of names that rules are about: it asks for
// exact names itself, again before their TTL ends, and writes the files with
// which dnsmasq finds the others, and the servers to ask.
package domains

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// List is the domains of one rule, or of several that name the same ones.
type List struct {
	ID      string   // of what is in it, so that a list keeps its addresses whatever becomes of others
	Rules   []string // who names them, in order
	Domains []string // in lower case and in order; "example.org", or "*.example.org" for all below it
}

// NewList makes a list of domains as somebody wrote them.
func NewList(domains []string) List {
	l := List{Domains: make([]string, len(domains))}
	for i, d := range domains {
		l.Domains[i] = strings.ToLower(d)
	}
	slices.Sort(l.Domains)
	l.Domains = slices.Compact(l.Domains)
	sum := sha256.Sum256([]byte(strings.Join(l.Domains, "\n")))
	l.ID = hex.EncodeToString(sum[:5])
	return l
}

// Names are the list's exact names: those that can be asked for.
func (l List) Names() []string {
	return slices.DeleteFunc(slices.Clone(l.Domains), func(d string) bool { return strings.HasPrefix(d, "*.") })
}

// contains reports whether name is one of the list's, as it is written.
func (l List) contains(name string) bool {
	_, ok := slices.BinarySearch(l.Domains, name)
	return ok
}

// covers reports whether all of o's domains are the list's, as they are written.
func (l List) covers(o List) bool {
	return !slices.ContainsFunc(o.Domains, func(d string) bool { return !l.contains(d) })
}

// The sets of addresses of a list, in the names of package nat, which has one
// for each family.
const prefix = "domain-"

// Asked is the set of what we asked for ourselves: its elements have timeouts.
func (l List) Asked() string { return prefix + l.ID + "-own" }

// Told are the sets that dnsmasq fills, each with all that it hears. dnsmasq gives
// elements no timeout, and the kernel does not begin the time of an element anew
// when it is added again: not one with the same timeout, before Linux 6.12 none
// (nft_add_set_elem, net/netfilter/nf_tables_api.c). So no element has a timeout:
// the two sets are emptied in turn, every period, and what dnsmasq was answered
// stays in one of them for at least a period after the answer, two at most.
func (l List) Told() [2]string {
	return [2]string{prefix + l.ID + "-a", prefix + l.ID + "-b"}
}

// Sets are all of these.
func (l List) Sets() []string {
	told := l.Told()
	return []string{l.Asked(), told[0], told[1]}
}
