package nat

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// State is what the kernel holds of our table: enough to tell whether it is
// what a Ruleset wants.
type State struct {
	Exists  bool
	Dormant bool // somebody set the flag that switches the whole table off
	chains  map[string]chainState
	sets    map[string]bool // names of our constant sets; true: one of our rules looks things up in it
	dynamic map[string]dynamicState
	// The names of our counters. A rule that counts keeps its counter from being
	// deleted, so they take no part in comparisons.
	counters []string
}

type chainState struct {
	base    string   // type, hook, priority; "" for a regular chain
	rules   []string // comments, in order
	handles []uint64 // of the same rules; none where the state is not the kernel's
}

// Chains returns the names of the chains, sorted.
func (s State) Chains() []string {
	var names []string
	for n := range s.chains {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// base describes a base chain's place in the packet's way.
func base(typ string, hook uint32, priority int32) string {
	return fmt.Sprintf("%s %d %d", typ, hook, priority)
}

func (c Chain) base() string {
	if c.Hook == "" {
		return ""
	}
	return base(string(c.Type), hookNumbers[c.Hook], c.Priority)
}

func (c Chain) state() chainState {
	return chainState{base: c.base(), rules: c.fingerprints()}
}

// State returns what the kernel holds once r is written: for those who look
// ahead, and for tests without a kernel.
func (r Ruleset) State() State {
	s := State{Exists: true, chains: map[string]chainState{}, sets: map[string]bool{}, dynamic: map[string]dynamicState{}, counters: r.counters()}
	for _, c := range r.Chains {
		s.chains[c.Name] = c.state()
	}
	for _, set := range r.Sets {
		s.sets[set.Name] = true
	}
	for _, d := range r.Dynamic {
		s.dynamic[d.Name] = d.state()
	}
	return s
}

// hookNumbers are the kernel's (linux/netfilter.h, enum nf_inet_hooks).
var hookNumbers = map[Hook]uint32{
	Prerouting: 0, Input: 1, Forward: 2, Output: 3, Postrouting: 4,
}

// Missing lists what want has and the kernel lacks or holds otherwise; nothing
// missing and nothing Extra means there is nothing to write.
func (s State) Missing(want Ruleset) []string {
	if !s.Exists {
		return []string{"table inet " + TableName}
	}
	var lost []string
	if s.Dormant {
		lost = append(lost, "table inet "+TableName+": made dormant")
	}
	for _, set := range want.Sets {
		if !s.sets[set.Name] {
			lost = append(lost, set.kind()+" "+set.Name)
		}
	}
	lost = append(lost, s.missingDynamic(want)...)
	for _, c := range want.Chains {
		have, ok := s.chains[c.Name]
		switch {
		case !ok:
			lost = append(lost, "chain "+c.Name)
		case have.base != c.base():
			lost = append(lost, "chain "+c.Name+": hook or priority")
		default:
			prints := c.fingerprints()
			for i, r := range c.Rules {
				if !slices.Contains(have.rules, prints[i]) {
					lost = append(lost, "chain "+c.Name+": "+r.String())
				}
			}
			if len(have.rules) > len(c.Rules) {
				lost = append(lost, "chain "+c.Name+": a rule of somebody else is in it")
			} else if len(lost) == 0 && !slices.Equal(have.rules, prints) {
				lost = append(lost, "chain "+c.Name+": order of rules")
			}
		}
	}
	return lost
}

// Satisfies reports whether the kernel holds exactly want.
func (s State) Satisfies(want Ruleset) bool {
	if !s.Exists || s.Dormant || len(s.chains) != len(want.Chains) || len(s.sets) != len(want.Sets) {
		return false
	}
	for _, c := range want.Chains {
		have, ok := s.chains[c.Name]
		if !ok || have.base != c.base() || !slices.Equal(have.rules, c.fingerprints()) {
			return false
		}
	}
	return s.holdsDynamic(want) && !slices.ContainsFunc(want.Sets, func(set Set) bool { return !s.sets[set.Name] })
}

// Uplinks returns the uplinks that the rules in the kernel serve, with ID, Name,
// Interface, and where needed Gateways and Source: what a restarted agent knows
// of its predecessor.
func (s State) Uplinks() []Uplink {
	var all []Uplink
	for _, chain := range s.Chains() {
		if id, name, ok := parseChain(chain, markChain); ok {
			var u Uplink
			for _, comment := range s.chains[chain].rules {
				if strings.HasPrefix(comment, fingerprintPrefix) { // else it is somebody else's rule
					if _, note, _ := strings.Cut(comment, " "); !strings.HasPrefix(note, counterSign) {
						u = parseNote(note)
					}
				}
			}
			u.ID, u.Name = id, name
			all = append(all, u)
		}
	}
	return all
}

// Notes returns the Notes that the table has.
func (s State) Notes() []string {
	var all []string
	for _, comment := range s.chains[notesChain].rules {
		if rest, ours := strings.CutPrefix(comment, fingerprintPrefix); ours {
			if _, text, ok := strings.Cut(rest, " "); ok {
				all = append(all, text)
			}
		}
	}
	return all
}

// Policies returns the policies that the rules in the kernel serve, with ID and
// Name.
func (s State) Policies() []Policy {
	var all []Policy
	for _, chain := range s.Chains() {
		if id, name, ok := parseChain(chain, policyChain); ok {
			all = append(all, Policy{ID: id, Name: name})
		}
	}
	return all
}

// Commands prints what Write would do, as nft(8) commands: together they are one
// transaction, for "nft -f". Write takes more care of packets that are among the
// old rules meanwhile (difference).
func (s State) Commands(want Ruleset) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if !s.Exists || s.Dormant {
		add("add table inet %s", TableName)
	}
	refill, stale := s.changes(want)
	sets, staleSets := s.setChanges(want)
	dynamic, anew, unwanted := s.dynamicChanges(want)
	for _, c := range refill {
		if _, ok := s.chains[c.Name]; ok {
			add("flush chain inet %s %s", TableName, c.Name)
		}
	}
	for _, name := range stale {
		add("flush chain inet %s %s", TableName, name)
	}
	for _, c := range refill {
		if old, ok := s.chains[c.Name]; ok && old.base != c.base() {
			add("delete chain inet %s %s", TableName, c.Name)
		}
	}
	for _, name := range slices.Concat(staleSets, anew, unwanted) {
		add("delete set inet %s %s", TableName, name)
	}
	counters, staleCounters := s.counterChanges(want)
	for _, name := range staleCounters {
		add("delete counter inet %s %s", TableName, name)
	}
	for _, c := range refill {
		old, ok := s.chains[c.Name]
		switch {
		case ok && old.base == c.base():
		case c.Hook != "":
			add("add chain inet %s %s { type %s hook %s priority %d; policy accept; }", TableName, c.Name, c.Type, c.Hook, c.Priority)
		default:
			add("add chain inet %s %s", TableName, c.Name)
		}
	}
	for _, name := range counters {
		add("add counter inet %s %s", TableName, name)
	}
	for _, set := range sets {
		add("add %s inet %s %s { %s; }", set.kind(), TableName, set.Name, strings.Join(set.definition(), "; "))
	}
	for _, d := range dynamic {
		add("add set inet %s %s { %s; }", TableName, d.Name, strings.Join(d.definition(), "; "))
	}
	for _, c := range refill {
		for _, r := range c.Rules {
			add("add rule inet %s %s %s", TableName, c.Name, r)
		}
	}
	for _, name := range stale {
		add("delete chain inet %s %s", TableName, name)
	}
	return lines
}

// changes returns the chains that are to be filled anew, also because a dynamic
// set of theirs is made anew, and the names of those, sorted, that nobody wants.
func (s State) changes(want Ruleset) (refill []Chain, stale []string) {
	_, anew, _ := s.dynamicChanges(want)
	wanted := map[string]bool{}
	for _, c := range want.Chains {
		wanted[c.Name] = true
		old, ok := s.chains[c.Name]
		if !ok || old.base != c.base() || !slices.Equal(old.rules, c.fingerprints()) || c.uses(anew) {
			refill = append(refill, c)
		}
	}
	return refill, slices.DeleteFunc(s.Chains(), func(name string) bool { return wanted[name] })
}

// written returns the state behind difference's transactions, and the chains of
// which only the kernel knows: their new rules stand before the old ones.
func (s State) written(want Ruleset) (after State, mixed []Chain) {
	after = s
	after.chains, after.sets, after.dynamic = maps.Clone(s.chains), maps.Clone(s.sets), maps.Clone(s.dynamic)
	refill, _ := s.changes(want)
	for _, c := range refill {
		if len(s.chains[c.Name].rules) > 0 {
			mixed = append(mixed, c)
		}
		after.chains[c.Name] = c.state()
	}
	for _, set := range want.Sets {
		after.sets[set.Name] = true
	}
	for _, d := range want.Dynamic {
		after.dynamic[d.Name] = d.state()
	}
	return after, mixed
}

// begins reports whether the chain begins with c's rules.
func (s chainState) begins(c Chain) bool {
	return s.base == c.base() && len(s.rules) >= len(c.Rules) && slices.Equal(s.rules[:len(c.Rules)], c.fingerprints())
}

// setChanges returns the sets that are to be written, and the names of those,
// sorted, that go before. A set stays if one of our rules looks things up in it:
// then it was whole when that rule was written, and nobody could change it
// since.
func (s State) setChanges(want Ruleset) (write []Set, stale []string) {
	wanted := map[string]bool{}
	for _, set := range want.Sets {
		wanted[set.Name] = true
		if !s.sets[set.Name] {
			write = append(write, set)
		}
	}
	for name, used := range s.sets {
		if !used || !wanted[name] {
			stale = append(stale, name)
		}
	}
	slices.Sort(stale)
	return write, stale
}
