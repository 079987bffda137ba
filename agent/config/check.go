package config

import (
	"fmt"
	"slices"
	"strings"
)

// check compares one file's tree with the contract and fills in each val.
func (r *reader) check(n *node, s *spec, p keyPath) {
	switch {
	case s.kind != nil:
		n.val = s.kind.check(n, func(e *node, problem string) { r.fail(e, p, problem) })
		n.bad = n.val == nil
	case s.list != nil:
		r.checkEntries(n, s, p)
	default:
		r.checkTable(n, s, p)
	}
}

// checkEntries checks an array of tables.
func (r *reader) checkEntries(n *node, s *spec, p keyPath) {
	list, ok := n.raw.([]*node)
	if !ok {
		r.fail(n, p, fmt.Sprintf("is %s, wants a list of tables: write [[%s]] with double brackets", describe(n.raw), p))
		return
	}
	for _, e := range list {
		r.check(e, s.list, p.item(e.index))
	}
}

// checkTable checks a table and everything below it.
func (r *reader) checkTable(n *node, s *spec, p keyPath) {
	t, ok := n.raw.(*table)
	if !ok {
		r.fail(n, p, notATable(n, p))
		return
	}
	for _, k := range t.keys {
		child, cs, kp := t.m[k], s.child(k), p.add(k)
		if cs == nil {
			r.fail(child, kp, unknownKey(k, s))
			continue
		}
		if cs == s.named {
			if err := checkName(k); err != nil {
				r.fail(child, kp, err.Error())
			}
			if _, isTable := child.raw.(*table); !isTable && cs.children[k] != nil {
				r.fail(child, kp, fmt.Sprintf("stands outside of any [%s.NAME]: write it below such a header", p))
				continue
			}
		}
		bad := child.bad
		r.check(child, cs, kp)
		child.bad = child.bad || bad
	}
}

// notATable says how to write the table at p.
func notATable(n *node, p keyPath) string {
	if _, list := n.raw.([]*node); list {
		return fmt.Sprintf("is a list, wants a table: write [%s] with single brackets", p)
	}
	if strings.HasPrefix(p[len(p)-1], "[") {
		return fmt.Sprintf("is %s, wants a table: write [[%s]] and the keys below it", describe(n.raw), p[:len(p)-1])
	}
	return fmt.Sprintf("is %s, wants a table: write [%s] and the keys below it", describe(n.raw), p)
}

// unknownKey says that the table s knows no key k, and which one may be meant.
func unknownKey(k string, s *spec) string {
	near := nearest(k, s.keys)
	switch {
	case strings.EqualFold(near, k) && near != "":
		return fmt.Sprintf("unknown key: capital letters matter, write %s", near)
	case near != "":
		return fmt.Sprintf("unknown key: did you mean %s?", near)
	}
	if in := contractSpec().sections(k); len(in) > 0 {
		return fmt.Sprintf("unknown key here: it belongs in %s", strings.Join(in, " or "))
	}
	return fmt.Sprintf("unknown key: known here are %s", strings.Join(slices.Sorted(slices.Values(s.keys)), ", "))
}

// checkRequired reports keys that must be written and are not.
func (r *reader) checkRequired(n *node, s *spec, p keyPath) {
	for _, e := range n.entries() {
		if s.list != nil {
			r.checkRequired(e, s.list, p.item(e.index))
		}
	}
	if _, ok := n.raw.(*table); !ok || s.kind != nil {
		return
	}
	for _, k := range s.keys {
		if c := s.children[k]; c.required && n.get(k) == nil {
			r.failAt(n.file, n.line, p.add(k).String(), "is missing, wants "+c.kind.wants)
		}
	}
	for _, k := range n.names() {
		if c := s.child(k); c != nil {
			r.checkRequired(n.get(k), c, p.add(k))
		}
	}
}

// nearest returns the word that s is probably a misspelling of, or "".
func nearest(s string, words []string) string {
	best, least := "", len(s)/3+1
	if len(s) > 64 {
		return ""
	}
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d < least || d == least && best == "" && d < len(w) {
			best, least = w, d
		}
	}
	return best
}

// distance counts the bytes to insert, remove or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
