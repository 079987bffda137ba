// Package nat owns multiroute's nftables table: marks, the choice of uplink
// for a connection, masquerade, port forwards and the guard. It knows nothing
// of configuration, routing or health.
//
// A Spec is the desired state as plain data. Compile turns it into a Ruleset:
// chains of rules that print themselves as nft(8) would write them. Table
// compares the fingerprints of those rules with the ones in the kernel and
// writes what differs in one transaction, so there is never a moment without
// rules.
//
// # The way of a packet
//
//	prerouting   restore        known connection: its uplink's mark goes on the packet
//	             first          first packet from an uplink: bound to that uplink
//	             rules          first packet from a client: its policy's mark goes on it
//	             forward_ports  first packet from an uplink, or from a client to an uplink's address: port forwards
//	output       own            the router's own packets: the same as restore
//	             rules-local    first one of a connection: its policy's mark
//	forward      guard          nothing enters unasked, nothing leaves un-NATed
//	postrouting  bind           first packet, route chosen: bound to the uplink it leaves by
//	             masquerading   and NATed to its address
//	             clamp          where an uplink has a small MTU: TCP is told
//
// forward_ports and bind are nat-type chains, which the kernel runs for the
// first packet of a connection only (nf_nat_inet_fn, net/netfilter/nf_nat_core.c);
// restore leads to first what conntrack has not confirmed. Both are also right
// for one-way UDP, which stays "new" to conntrack for ever.
//
// Invariant: a connection has an uplink's mark exactly if first or bind saw its
// first packet, or that of the connection which had it expected (FTP). What has
// no mark and is no first packet began before the rules did.
//
// # Rules
//
// PolicyRules are taken apart by family (part), neighbours with the same fields
// become one look-up in a map (group), and maps are named sets whose names say
// what is in them (Set). So a thousand rules of one shape cost a packet what one
// costs, and what stays the same is neither read nor written again.
// A long list is in pieces, each a set and a chain, so that one more prefix in it
// writes one of them; what is in no piece goes on in a chain with the rules
// behind it (rules-2, and so on).
//
// # Memory
//
// A policy whose clients stay where they are has a dynamic set for each of its
// uplinks (Sticky): packets put themselves into it where they leave, and are
// looked up where their policy is chosen. What is in dynamic sets is nobody's to
// write: rules come and go around them.
//
// # Explanations
//
// Walk takes a packet through the compiled rules as the kernel would. Table.Check
// asks the kernel for what such a walk has met: whether the chains' rules are the
// same, and what their sets say of the same keys. It reads no set.
//
// Only kernel_linux.go touches the kernel.
package nat
