// Package api is the agent's control socket: HTTP/1.1 over a unix socket, so that any
// HTTP client can be used, such as
//
//	curl --unix-socket /run/multiroute/agent.sock http://agent/v1/status
//
// The daemon implements Handler, opens the socket with Listen and runs a Server; the
// command line uses a Client.
//
//	GET  /v1/status        Status as JSON
//	GET  /v1/plan          what a reload would change, as text
//	GET  /v1/show/nft      the wanted state, as nft writes it
//	GET  /v1/show/routes   the wanted state, as ip writes it
//	GET  /v1/flows[?uplink=NAME]   connections: a Flow as JSON per line
//	POST /v1/reload        ReloadResult as JSON
//	POST /v1/stop          ends the daemon, leaves the data plane
//	POST /v1/uplink/disable?name=NAME[&for=10m]   takes an uplink out
//	POST /v1/uplink/enable?name=NAME              puts it in again
//
// An error is answered with a status code and {"error": "what is wrong"}. In a list of
// lines that has begun it is the last line.
//
// # Who may do what
//
// The kernel says who is at the other end (SO_PEERCRED, SO_PEERGROUPS): root and the
// agent's own user may do everything, members of the group may GET, all others are
// answered 403. Groups are those the peer had when it connected.
//
// # Bounds
//
// 16 connections at once, 4 of them kept for root and the agent's own user; further ones
// are closed at once. An answer must be read within 60 seconds. Lists of connections are
// sent as the kernel tells them, 4 at once, one of them kept for root and the agent's own
// user. A request's header may have 8 KiB and its body 64 KiB, and both must
// be there within 5 seconds. A panic in the Handler is answered with 500.
package api
