// Package alarm wakes a goroutine when it is time. A timer of Go's would wake
// two threads of the runtime beside it each time: one that sleeps until the next
// timer is due, and then 10 ms more (sysmon, runtime/proc.go), and one that looks
// whether there is more to do (wakep, from goready). For who looks around ten
// times a second that is a good part of all that it takes of a CPU. Nor is the
// scheduler told of the system calls here, which do not block: see package
// datagram.
package alarm
