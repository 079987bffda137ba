package config

import (
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// spec is the contract as a tree: what may stand at one place of a configuration.
type spec struct {
	keys     []string         // known keys of a table, in the order of the contract
	children map[string]*spec // of a table
	named    *spec            // of a table keyed by name: what each name holds
	list     *spec            // of an array of tables: what each entry holds
	kind     *kind            // of a plain value
	def      any              // of a plain value: its default, nil if there is none
	required bool
}

// child returns what a key of a table holds, nil if the key is unknown.
func (s *spec) child(key string) *spec {
	if c, ok := s.children[key]; ok {
		return c
	}
	return s.named
}

// contractSpec is the contract table as a tree. It never changes.
var contractSpec = sync.OnceValue(func() *spec {
	root := &spec{}
	for _, k := range contract {
		s := root
		for part := range strings.SplitSeq(k.path, ".") {
			s = s.grow(part)
		}
		s.kind = &k.kind
		s.required = k.def == required
		if k.def == required || k.def == noDefault {
			continue
		}
		var doc map[string]any
		if _, err := toml.Decode("x = "+k.def, &doc); err != nil {
			panic("config: default of " + k.path + ": " + err.Error())
		}
		n := newTree(0, doc["x"], &place{})
		s.def = k.kind.check(n, func(_ *node, problem string) {
			panic("config: default of " + k.path + ": " + problem)
		})
	}
	return root
})

// grow returns the part of s that a path part of the contract names.
func (s *spec) grow(part string) *spec {
	switch part {
	case "*":
		if s.named == nil {
			s.named = &spec{}
		}
		return s.named
	case "[]":
		if s.list == nil {
			s.list = &spec{}
		}
		return s.list
	}
	c, ok := s.children[part]
	if !ok {
		c = &spec{}
		if s.children == nil {
			s.children = map[string]*spec{}
		}
		s.children[part] = c
		s.keys = append(s.keys, part)
	}
	return c
}

// value returns what key of the table t holds, or its default if it is absent
// or wrong. T is the type the key's kind makes.
func value[T any](s *spec, t *node, key string) T {
	c := s.children[key]
	if n := t.get(key); n != nil && n.val != nil {
		return n.val.(T)
	}
	v, _ := c.def.(T)
	return v
}

// sections returns the tables that know key, such as "[router]", for messages.
func (s *spec) sections(key string) []string {
	var found []string
	var walk func(s *spec, name string)
	walk = func(s *spec, name string) {
		if c, ok := s.children[key]; ok && name != "" && c.kind != nil {
			found = append(found, "["+name+"]")
		}
		for _, k := range s.keys {
			c := s.children[k]
			switch {
			case c.kind != nil:
			case c.list != nil:
				if slices.Contains(c.list.keys, key) {
					found = append(found, "[["+k+"]]")
				}
			default:
				walk(c, strings.TrimPrefix(name+"."+k, "."))
			}
		}
		if s.named != nil && s.named.kind == nil {
			walk(s.named, name+".NAME")
		}
	}
	walk(s, "")
	return found
}
