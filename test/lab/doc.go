// Package lab builds small internets out of network namespaces, in milliseconds and from Go alone: a LAN, a router with several uplinks, their
// providers, and a server that every provider reaches. The tests, the demo and the benchmark of multiroute stand on it.
//
//	client --- eth0 [router] eth1 --- provider dsl   --- internet
//	                         eth2 --- provider cable ---/
//
// Nothing here touches the host's network. [Main] first moves the program into a new network and mount namespace (and, for an ordinary user, a
// user namespace), and every [NS] is anonymous: it is held only by descriptors, threads and children of this process, so that the kernel
// removes all of it with the process, however the process ends.
//
// What the providers and the server see is what decides: [Provider.Leaks] counts, in the kernel, the packets that left the router by an uplink with
// an address that is not the uplink's, and [Server] tells each client the address it came from.
package lab
