package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/keep"
	"multiroute/agent/sysctl"
	"multiroute/nat"
)

// place is where an agent leaves what must outlive it. The agent writes it into
// its table: a purge and the next agent must find what it left, whatever the
// configuration says by then, and one machine may have an agent in each of
// several network namespaces.
type place struct {
	socket string // what is for one boot of the machine lies beside it
	state  string // folder for what outlives a reboot; "": the usual one
}

// configured is where an agent with this configuration is, and with the folder
// that its service manager gives to it for what outlives a reboot.
func configured(cfg *config.Config, state string) place { return place{cfg.API.Socket, state} }

func (p place) folder() string { return filepath.Dir(p.socket) }

// sysctls keeps first values.
func (p place) sysctls() sysctl.Store {
	return sysctl.Store{Root: "/proc/sys", Saved: filepath.Join(p.folder(), "sysctl.json")}
}

// kept reports whether there are first values.
func (p place) kept() bool {
	_, err := os.Stat(p.sysctls().Saved)
	return err == nil
}

// memory is the file with what the next agent should know.
func (p place) memory() string { return filepath.Join(p.folder(), "health.json") }

// confirmed is the file with the confirmed configuration: in the folder that the
// service manager gives, else in /var/lib/multiroute, or beside a control socket
// that is in a place of its own.
func (p place) confirmed() string {
	folder := p.folder()
	switch {
	case p.state != "":
		folder = p.state
	case folder == "/run/multiroute":
		folder = "/var/lib/multiroute"
	}
	return filepath.Join(folder, "confirmed.json")
}

// files are those that an agent leaves; saved sysctls go when they are put back.
func (p place) files() []string {
	return append(p.published(), p.socket, p.socket+api.LockSuffix, p.memory(), p.confirmed())
}

// published are files for others to read.
func (p place) published() []string {
	return []string{filepath.Join(p.folder(), dnsmasqFile), filepath.Join(p.folder(), resolvFile)}
}

// predecessor is the place of the agent whose table is in the kernel; moved tells
// whether that is another one than this.
func predecessor(t table, at place) (before place, moved bool, err error) {
	state, err := t.Read()
	if err != nil {
		return place{}, false, err
	}
	before, ok := noted(state)
	return before, ok && before != at, nil
}

// inherit brings what a predecessor left elsewhere.
func (p place) inherit(before place) error {
	err := p.sysctls().Adopt(before.sysctls())
	if p.memory() == before.memory() {
		return err
	}
	m, recalled := recall(before.memory())
	if recalled == nil && m.IDs.Uplinks != nil {
		recalled = keep.Save(p.memory(), m)
	}
	return errors.Join(err, recalled)
}

// leave removes what is ours at a place and at no other.
func (p place) leave(other place) error {
	var errs []error
	for _, path := range p.files() {
		if slices.Contains(other.files(), path) || !p.ours(path) {
			continue
		}
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ours reports whether one of the files may be removed: whatever the table says, and
// whoever has put something else in its place.
func (p place) ours(path string) bool {
	switch {
	case path == p.socket:
		info, err := os.Lstat(path)
		return err == nil && info.Mode().Type() == fs.ModeSocket
	case slices.Contains(p.published(), path):
		text, err := readOwn(path)
		return err == nil && text != nil
	}
	return true
}

// The words with which notes begin.
const (
	socketNote = "socket "
	stateNote  = "state "
)

// notes is what the agent writes into its table.
func (p place) notes() []string {
	notes := []string{socketNote + p.socket}
	if note := stateNote + p.state; p.state != "" && len(note) <= nat.MaxNote {
		notes = append(notes, note)
	}
	return notes
}

// noted is where the agent is, or was, whose table this is; ok is false where
// the table does not say.
func noted(state nat.State) (p place, ok bool) {
	for _, note := range state.Notes() {
		if path, ok := strings.CutPrefix(note, socketNote); ok && filepath.IsAbs(path) {
			p.socket = path
		}
		if path, ok := strings.CutPrefix(note, stateNote); ok && filepath.IsAbs(path) {
			p.state = path
		}
	}
	return p, p.socket != ""
}
