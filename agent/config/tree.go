package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// node is one value of a configuration, with where it was written.
type node struct {
	file, line int // file is the index in reading order
	index      int // of an entry in an array of tables: which one in its file, from 1

	// raw is a string, int64, float64, bool, time.Time, []*node or *table.
	raw any

	val any  // what the key's kind made of raw; nil before that, and if bad
	bad bool // an error about this very value was reported
}

// table is a TOML table that remembers the order of its keys.
type table struct {
	keys []string
	m    map[string]*node
}

// set adds or replaces a key.
func (t *table) set(key string, n *node) {
	if _, ok := t.m[key]; !ok {
		t.keys = append(t.keys, key)
	}
	t.m[key] = n
}

// newTree joins decoded values with the places they were written at.
func newTree(file int, v any, p *place) *node {
	n := &node{file: file, line: p.line, raw: v}
	switch v := v.(type) {
	case map[string]any:
		t := &table{m: make(map[string]*node, len(v))}
		for _, key := range p.keys {
			if child, ok := v[key]; ok {
				t.set(key, newTree(file, child, p.children[key]))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(v)) { // those the scanner missed, if it ever does
			if _, ok := t.m[key]; !ok {
				t.set(key, newTree(file, v[key], &place{line: p.line}))
			}
		}
		n.raw = t
	case []map[string]any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return newTree(file, list, p)
	case []any:
		list := make([]*node, len(v))
		for i := range v {
			if i < len(p.elems) {
				list[i] = newTree(file, v[i], p.elems[i])
			} else {
				list[i] = newTree(file, v[i], &place{line: p.line})
			}
			list[i].index = i + 1
		}
		n.raw = list
	}
	return n
}

// get returns the value of a key, or nil if n has none or is no table.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	if t, ok := n.raw.(*table); ok {
		return t.m[key]
	}
	return nil
}

// names returns the keys of a table in reading order.
func (n *node) names() []string {
	if n == nil {
		return nil
	}
	if t, ok := n.raw.(*table); ok {
		return t.keys
	}
	return nil
}

// entries returns the elements of a list.
func (n *node) entries() []*node {
	if n == nil {
		return nil
	}
	list, _ := n.raw.([]*node)
	return list
}

// keyPath is the way to a key, printed as the user would write it.
type keyPath []string

// add returns a new path with one more part.
func (p keyPath) add(part string) keyPath { return append(p[:len(p):len(p)], part) }

// item returns the path of entry i, counted from 1.
func (p keyPath) item(i int) keyPath { return p.add("[" + strconv.Itoa(i) + "]") }

func (p keyPath) String() string {
	var b strings.Builder
	for i, part := range p {
		if i > 0 && !strings.HasPrefix(part, "[") {
			b.WriteByte('.')
		}
		if isBare(part) || strings.HasPrefix(part, "[") && strings.HasSuffix(part, "]") {
			b.WriteString(part)
		} else {
			b.WriteString(quote(part))
		}
	}
	return b.String()
}

// isBare reports whether key needs no quotes in TOML.
func isBare(key string) bool {
	return key != "" && strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// quote prints a string of the user's in a message: in quotes, and not endlessly.
func quote(s string) string {
	const most = 80
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strconv.Quote(s)
}

// describe names a raw value in messages.
func describe(raw any) string {
	switch v := raw.(type) {
	case string:
		return "the string " + quote(v)
	case int64:
		return "the number " + strconv.FormatInt(v, 10)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return "a date or time"
	case []*node:
		return "a list"
	case *table:
		return "a table"
	}
	return fmt.Sprintf("a %T", raw)
}
