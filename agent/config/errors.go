package config

import (
	"fmt"
	"strings"
)

// Error is one thing that is wrong in the configuration.
type Error struct {
	File    string // as given to Load or Parse
	Line    int    // counted from 1; 0: the file as a whole
	Key     string // such as uplink.dsl.weight or port_forward[2].port (the file's second entry); may be empty
	Problem string // what is wrong, and what would be right
}

// Error returns "file:line: key: problem", without the parts that are empty.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Problem)
	return b.String()
}

// Errors is everything that is wrong, in reading order: by file, then by line.
// It is never empty when Load or Parse returns it.
type Errors []Error

// Error returns one line per error, without a final newline.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each Error reachable through errors.As.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}
