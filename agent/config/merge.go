package config

// merge lays the tree of a later file over that of the earlier ones. Tables are
// merged key by key, and [[entries]] are appended; everything else is replaced.
// Each value keeps its own file and line. Neither tree is changed.
func merge(old, later *node, s *spec) *node {
	if old == nil {
		return later
	}
	switch raw := later.raw.(type) {
	case *table:
		t, ok := old.raw.(*table)
		if !ok || s.list != nil {
			return later
		}
		out := &table{m: make(map[string]*node, len(t.m)+len(raw.m))}
		for _, key := range t.keys {
			out.set(key, t.m[key])
		}
		for _, key := range raw.keys {
			if child := s.child(key); child != nil {
				out.set(key, merge(t.m[key], raw.m[key], child))
			} else {
				out.set(key, raw.m[key])
			}
		}
		return &node{file: old.file, line: old.line, raw: out, bad: old.bad || later.bad}
	case []*node:
		list, ok := old.raw.([]*node)
		if !ok || s.list == nil {
			return later
		}
		return &node{file: old.file, line: old.line, raw: append(list[:len(list):len(list)], raw...)}
	}
	return later
}
