package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is one whose cursor can be moved.
type terminal struct {
	file   *os.File
	colour bool
	before *unix.Termios // as it was; nil: it is so
}

// extent is the size of a terminal in characters.
type extent struct{ width, height int }

// openTerminal returns the terminal that out is; nil if it is none, or one that
// can do nothing but print. The user's environment chooses the colours.
func openTerminal(out io.Writer) *terminal {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &terminal{file: file, colour: os.Getenv("NO_COLOR") == ""}
}

// size is the present size. A serial line does not know its own.
func (t *terminal) size() extent {
	w, err := unix.IoctlGetWinsize(int(t.file.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return extent{width: 80, height: 24}
	}
	return extent{width: int(w.Col), height: int(w.Row)}
}

// What takes the whole screen: the other screen buffer, no cursor, no wrapping of long
// lines; and what gives all that back.
const (
	takeScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	giveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// take takes the whole screen. Keys are not shown; those of the terminal, such as
// Ctrl-C, work as ever.
func (t *terminal) take() error {
	if t.taken() {
		return nil
	}
	before, err := unix.IoctlGetTermios(int(t.file.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("reading the modes of the terminal: %w", err)
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO | unix.ICANON
	if err := unix.IoctlSetTermios(int(t.file.Fd()), unix.TCSETS, &quiet); err != nil {
		return fmt.Errorf("changing the modes of the terminal: %w", err)
	}
	t.before = before
	_, err = t.file.WriteString(takeScreen)
	return err
}

// taken reports whether the screen is ours.
func (t *terminal) taken() bool { return t.before != nil }

// give gives the terminal back as it was, and forgets the keys that were pressed.
func (t *terminal) give() error {
	if !t.taken() {
		return nil
	}
	_, err := t.file.WriteString(giveScreen)
	err = errors.Join(err, unix.IoctlSetTermios(int(t.file.Fd()), unix.TCSETSF, t.before))
	t.before = nil
	return err
}
