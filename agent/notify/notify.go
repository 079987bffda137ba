// Package notify tells the service manager how the daemon is: the protocol of
// sd_notify(3), which systemd and others understand.
package notify

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Messages. Each is a line; several may be sent together.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Watchdog = "WATCHDOG=1"
)

// patience is how long a message may wait: a manager that does not read must
// not hold up the owner of the daemon.
const patience = 100 * time.Millisecond

// maxStatus is the longest status, in bytes.
const maxStatus = 1000

// Socket leads to the service manager. The nil Socket leads nowhere, and
// everything may be sent there. It holds no connection, so that it outlives a
// restart of the manager.
type Socket struct {
	addr  *net.UnixAddr
	every time.Duration
}

// FromEnvironment returns the manager that the environment names: NOTIFY_SOCKET,
// a path or (with @) an abstract name, and how often it wants to hear from the
// process pid (WATCHDOG_USEC, WATCHDOG_PID). It returns nil if there is none.
func FromEnvironment(getenv func(string) string, pid int) (*Socket, error) {
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil, nil
	}
	if name[0] != '/' && name[0] != '@' || len(name) == 1 {
		return nil, fmt.Errorf("NOTIFY_SOCKET is %q: wants a path that begins with / or a name that begins with @", name)
	}
	s := &Socket{addr: &net.UnixAddr{Name: name, Net: "unixgram"}}
	usec, who := getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID")
	if usec == "" || who != "" && who != strconv.Itoa(pid) {
		return s, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(time.Duration(1<<63-1)/time.Microsecond) {
		return s, fmt.Errorf("WATCHDOG_USEC is %q: wants microseconds", usec)
	}
	s.every = time.Duration(n) * time.Microsecond
	return s, nil
}

// Every is the time after which the manager, if it does not get Watchdog, takes
// the process for stuck; 0: it does not look.
func (s *Socket) Every() time.Duration {
	if s == nil {
		return 0
	}
	return s.every
}

// Send sends messages in one datagram. It waits 100 ms at most.
func (s *Socket) Send(messages ...string) error {
	if s == nil {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, s.addr)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	err = c.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = c.Write([]byte(strings.Join(messages, "\n")))
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// Reloading is the message at the begin of a reload; now is what the monotonic
// clock of clock_gettime(2) says. Ready follows when it is over, however it
// went.
func Reloading(now time.Duration) string {
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Microseconds(), 10)
}

// Status is a message for people, one line. A long one is cut: systemd drops
// datagrams above 4096 bytes.
func Status(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "..."
	}
	return "STATUS=" + text
}
