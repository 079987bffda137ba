// Package balance turns measurements into the weights with which uplinks share
// new connections: by the bandwidth that is free on each, or by how quick each
// is. It is pure: counters, round trips and the time come in, weights go out.
//
//	measured    smoothed over some seconds (meter, quickness)
//	-> target   the share that each member of a group should have (targets)
//	-> share    follows the target in bounded steps, and rests while the two are
//	            close (mover), so that nothing is written when nothing changes
//	            much, and noise does not make it swing
//	-> weight   1 to 256
//
// What a policy's members are is for others to say: only those that are usable
// and in one tier share anything.
package balance
