// Package agent is the daemon: one goroutine owns the state, everybody else
// sends it events.
//
//	agent.go     starts the parts and runs the owner's loop
//	mask.go      the mark_mask that connections have already
//	sync.go      one pass: read the kernel, plan, write what differs, verify
//	adopt.go     connections that began before the rules did
//	handler.go   what the control socket asks
//	preview.go   what a pass would do, without a daemon
//	place.go     where what outlives the agent is kept
//	purge.go     takes everything out again
//	lock_linux.go  one agent a network namespace
//
// Data flows one way: files and kernel become values (config.Config,
// routes.Facts), plan.Make turns them into a Plan, a pass applies the
// difference. Events carry no data: "something changed" makes the owner look.
package agent
