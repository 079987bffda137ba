package agent

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/notify"
	"multiroute/agent/plan"
)

// manager is the service manager. Only the owner talks to it: it hears nothing
// any more when the owner is stuck, whatever the other goroutines do.
type manager interface {
	Send(messages ...string) error
	Every() time.Duration
}

// told is what the service manager knows.
type told struct {
	ready  bool
	status string
	fault  string // of the last message that could not be sent, so that it is logged once
}

// tell tells the service manager what is new: that the kernel was seen to hold
// the wanted state, and how the uplinks are.
func (d *daemon) tell() {
	status := d.statusLine()
	if !d.ready || d.told.ready && d.told.status == status {
		return
	}
	messages := []string{notify.Status(status)}
	if !d.told.ready {
		messages = append(messages, notify.Ready)
	}
	if d.say(messages...) {
		d.told.ready, d.told.status = true, status
	}
}

// tellReload says that a reload begins. The caller calls what it returns when
// that is over, however it went.
func (d *daemon) tellReload() (over func()) {
	if d.told.ready {
		d.say(notify.Reloading(monotonic()))
		d.told.ready = false
	}
	return d.tell
}

// say sends messages, and reports whether that worked.
func (d *daemon) say(messages ...string) bool {
	err := d.service.Send(messages...)
	if err == nil {
		d.told.fault = ""
		return true
	}
	if err.Error() != d.told.fault {
		d.told.fault = err.Error()
		d.Log.Warn("the service manager does not hear this", "messages", messages, "err", err)
	}
	return false
}

// monotonic is what CLOCK_MONOTONIC says, on which systemd orders reloads; 0
// where there is none.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it cannot fail
	return time.Duration(now.Nano())
}

// statusLine is how things are, in one line for people.
func (d *daemon) statusLine() string {
	up, others := 0, []string{}
	for _, u := range d.plan.Uplinks {
		if u.State == plan.Up {
			up++
		} else {
			others = append(others, fmt.Sprintf("%s %s", u.Name, u.State))
		}
	}
	text := fmt.Sprintf("%d of %d uplinks up", up, len(d.plan.Uplinks))
	if len(others) > 0 {
		text += " (" + strings.Join(others, ", ") + ")"
	}
	text += fmt.Sprintf("; generation %d", d.generation)
	if d.loadErr != nil {
		first, _, _ := strings.Cut(d.loadErr.Error(), "\n")
		text += "; configuration: " + first
	}
	if d.failing != "" {
		text += "; " + d.failing
	}
	return text
}
