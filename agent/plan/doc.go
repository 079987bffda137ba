// Package plan is the heart of multiroute: it turns a configuration and what
// the kernel says about the world into everything that the kernel should do.
//
// Make is pure. Each hard question ("what happens when the second DHCP lease
// changes during a reload?") is therefore a table test here, without root.
//
//	config.Config ─┐
//	routes.Facts ──┼─> Make ─> Plan{ nat.Spec, routes.Spec, sysctls, states, warnings }
//	IDs ───────────┘
//
// The files follow the packet: resolve.go says which uplinks can carry
// traffic and by which gateway and addresses; routing.go makes tables and
// rules of that; nat.go makes marks, bindings and masquerade; moves.go derives
// from two plans which connections cannot go on.
package plan
