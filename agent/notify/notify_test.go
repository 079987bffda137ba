package notify

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func environment(vars ...string) func(string) string {
	return func(key string) string {
		for _, v := range vars {
			if name, value, _ := strings.Cut(v, "="); name == key {
				return value
			}
		}
		return ""
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		vars  []string
		none  bool
		every time.Duration
		fault string
	}{
		{"nobody", nil, true, 0, ""},
		{"nobody, but a watchdog", []string{"WATCHDOG_USEC=1"}, true, 0, ""},
		{"path", []string{"NOTIFY_SOCKET=/run/n"}, false, 0, ""},
		{"abstract", []string{"NOTIFY_SOCKET=@n"}, false, 0, ""},
		{"vsock", []string{"NOTIFY_SOCKET=vsock:2:1"}, true, 0, `NOTIFY_SOCKET is "vsock:2:1": wants a path that begins with / or a name that begins with @`},
		{"no name", []string{"NOTIFY_SOCKET=@"}, true, 0, `NOTIFY_SOCKET is "@": wants a path that begins with / or a name that begins with @`},
		{"watchdog", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=3000000"}, false, 3 * time.Second, ""},
		{"watchdog of this process", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=3000000", "WATCHDOG_PID=7"}, false, 3 * time.Second, ""},
		{"watchdog of another", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=3000000", "WATCHDOG_PID=8"}, false, 0, ""},
		{"no number", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=3s"}, false, 0, `WATCHDOG_USEC is "3s": wants microseconds`},
		{"never", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=0"}, false, 0, `WATCHDOG_USEC is "0": wants microseconds`},
		{"too long", []string{"NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=9223372036854775807"}, false, 0, `WATCHDOG_USEC is "9223372036854775807": wants microseconds`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, err := FromEnvironment(environment(test.vars...), 7)
			fault := ""
			if err != nil {
				fault = err.Error()
			}
			if (s == nil) != test.none || s.Every() != test.every || fault != test.fault {
				t.Errorf("got %v, every %v, error %q", s, s.Every(), fault)
			}
		})
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "n") // short: the path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{filepath.Join(dir, "s"), "@multiroute/test/" + dir} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		s, err := FromEnvironment(environment("NOTIFY_SOCKET="+name), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(Ready, Status("all\nis  well")); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(Reloading(1500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"READY=1\nSTATUS=all is well", "RELOADING=1\nMONOTONIC_USEC=1500000"} {
			b := make([]byte, 1000)
			n, err := manager.Read(b)
			if err != nil || string(b[:n]) != want {
				t.Errorf("%s: got %q, %v; want %q", name, b[:n], err, want)
			}
		}
	}
}

// A manager that reads nothing holds nobody up.
func TestSendFull(t *testing.T) {
	t.Parallel()
	name := "@multiroute/test/" + t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	s, err := FromEnvironment(environment("NOTIFY_SOCKET="+name), 1)
	for range 10000 { // more than net.unix.max_dgram_qlen
		if err == nil {
			err = s.Send(Watchdog)
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestSendNobody(t *testing.T) {
	t.Parallel()
	var nobody *Socket
	if err := nobody.Send(Ready); err != nil {
		t.Error(err)
	}
	s, err := FromEnvironment(environment("NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "s")), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(Ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
