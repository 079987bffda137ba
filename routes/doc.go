// Package routes owns multiroute's part of the kernel's routing: its policy
// rules and its routing tables. It knows nothing of configuration, uplinks or
// health.
//
// A Spec is the desired state as plain data. Diff compares it with what Read
// found and yields the operations that turn one into the other, additions
// first, so that there is never a moment without a route. String methods print
// everything as ip(8) would write it.
//
// Ownership: every rule and route carries the routing protocol number
// Protocol (FRA_PROTOCOL, rtm_protocol). Objects with another number are read
// where they matter (Facts) and never changed.
//
// Only kernel_linux.go touches the kernel.
package routes
