//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// screen is where a person looks. It also keeps account of what was expected.
type screen struct {
	out          io.Writer
	colour       bool
	step         int
	expectations int
	failures     []string
}

// newScreen uses colours on a terminal only, and never against the user's will (https://no-color.org).
func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		s.colour = err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return s
}

// The colours, as parameters of the terminal's SGR sequence.
const (
	bold   = "1"
	faint  = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
	blue   = "36"
)

func (s *screen) paint(colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// say prints a line.
func (s *screen) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// title begins a step.
func (s *screen) title(text string) {
	s.step++
	s.say("\n%s", s.paint(bold, fmt.Sprintf("%d. %s", s.step, text)))
}

// text prints text as it is.
func (s *screen) text(text string) { s.lines("", text) }

// detail prints text as it is, a little in the background.
func (s *screen) detail(text string) { s.lines(faint, text) }

func (s *screen) lines(colour, text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		switch {
		case text == "":
		case line == "":
			s.say("")
		default:
			s.say("   %s", s.paint(colour, line))
		}
	}
}

// command shows what a person would type.
func (s *screen) command(text string) { s.say("   %s", s.paint(blue, "$ "+text)) }

// expect prints whether something is as it should be, and remembers if it is not.
func (s *screen) expect(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.expectations++
	if ok {
		s.say("   %s  %s", s.paint(green, "ok"), text)
		return
	}
	s.failures = append(s.failures, text)
	s.say("   %s  %s", s.paint(red, "NOT AS EXPECTED:"), text)
}

// bar draws a share of a whole.
func (s *screen) bar(label string, n, total int) {
	const width = 40
	share := 0.0
	if total > 0 {
		share = float64(n) / float64(total)
	}
	filled := int(share*width + 0.5)
	s.say("   %s %s%s %4d  %3.0f %%", label, s.paint(yellow, strings.Repeat("#", filled)), s.paint(faint, strings.Repeat(".", width-filled)), n, 100*share)
}

// tail is the end of a text.
func tail(text string, lines int) string {
	all := strings.SplitAfter(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
