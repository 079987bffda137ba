package conntrack

import "fmt"

// A TCPState is how far a TCP connection has come, as the kernel saw it: enum
// tcp_conntrack of include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// The states of a TCP connection.
const (
	TCPNone        TCPState = iota
	TCPSynSent              // a SYN went out
	TCPSynReceived          // it was answered
	TCPEstablished
	TCPFinWait   // one side has said that it is done
	TCPCloseWait // that was acknowledged
	TCPLastAck   // the other side is done, too
	TCPTimeWait
	TCPClose    // reset
	TCPSynSent2 // both sides sent a SYN
)

// String returns the usual name with a dash, such as "fin-wait".
func (s TCPState) String() string {
	names := [...]string{
		"none", "syn-sent", "syn-received", "established", "fin-wait", "close-wait",
		"last-ack", "time-wait", "close", "syn-sent2",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}
