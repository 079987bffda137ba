package config

// Fallback is what can be said about where a daemon is and what it owns when
// the configuration cannot be used: every value that can be read and is right
// by itself, else the default. Only API, Router.MarkMask and
// Router.ManageSysctls are set. It is for
// commands that must work all the same (purge, status).
func Fallback(path string) *Config {
	s := contractSpec()
	router, api := s.children["router"], s.children["api"]
	c := &Config{
		Router: Router{MarkMask: value[uint32](router, nil, "mark_mask"), ManageSysctls: value[bool](router, nil, "manage_sysctls")},
		API:    buildAPI(api, nil),
	}
	r := &reader{}
	sources := read(path)
	for _, src := range sources {
		r.files = append(r.files, src.name)
	}
	for i, src := range sources {
		root := r.decode(i, src)
		if root == nil {
			continue // whoever loads the configuration reports it
		}
		r.check(root, s, nil)
		take(&c.Router.MarkMask, root.get("router").get("mark_mask"))
		take(&c.Router.ManageSysctls, root.get("router").get("manage_sysctls"))
		take(&c.API.Socket, root.get("api").get("socket"))
		take(&c.API.Group, root.get("api").get("group"))
	}
	return c
}

// take sets what n holds, if it holds anything right.
func take[T any](to *T, n *node) {
	if n != nil && n.val != nil {
		*to = n.val.(T)
	}
}
