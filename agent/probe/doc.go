// Package probe sends the probes of one leg, one family of one uplink, and says
// what came of them. It does not judge: package health does.
//
// Every socket carries the uplink's mark, is bound to its interface and to its
// address, so that a probe leaves by its own uplink whatever the routing tables
// prefer, also where several uplinks share one interface. Names are resolved
// through the same uplink.
//
// An answer is believed once, in time, and only if it could not have been made
// up by somebody who did not see the probe: an echo reply must carry the probe's
// 128 random bits, a DNS answer its id, port and spelling of the name. TCP,
// TLS and HTTP have their own ways. The answers of a gateway (ARP, neighbour
// advertisements) carry nothing of that kind: anybody on its segment can forge
// them, so they can say that a gateway is there, and nothing about what is behind
// it. What is not believed is counted (Ignored) and changes nothing.
//
// What answers echo requests and gateways' probes wakes nobody: it is read when
// the owner collects it, and the kernel has noted when it came. Probes of other
// kinds have a goroutine each, which waits.
//
// At most 128 probes of a leg are outstanding; the oldest is forgotten.
package probe
