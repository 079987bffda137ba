// Package sysctl sets the kernel parameters that multiroute needs, remembers
// what they were before, and puts them back.
package sysctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"multiroute/agent/keep"
)

// Setting is one parameter under /proc/sys, e.g. "net/ipv4/ip_forward".
// Interface names may hold dots, so the path form is used throughout.
type Setting struct {
	Key   string
	Value string
	// From, if not empty, is the only present value that is changed: a setting
	// that was switched off on purpose stays off.
	From string
	// Needs, if not empty, is a parameter without which the kernel does not know
	// Value; it gets Else then.
	Needs, Else string
	// Implied parameters change as a side effect of writing this one; they are
	// remembered and put back too.
	Implied []string
}

// Store reads and writes parameters below Root (usually /proc/sys) and keeps
// their first values in the file Saved. It has no state of its own but for Files,
// which may be nil.
type Store struct {
	Root  string
	Saved string
	Files *Files
}

// Deviation is a parameter that is not as wanted.
type Deviation struct {
	Setting
	Have string
}

// String says what is wrong in sysctl(8)'s words.
func (d Deviation) String() string {
	return fmt.Sprintf("sysctl %s is %s, needed is %s", dotted(d.Key), d.Have, d.Value)
}

// dotted is a key as sysctl(8) writes it.
func dotted(key string) string { return strings.ReplaceAll(key, "/", ".") }

// Check returns the settings that do not hold. Parameters that do not exist
// (an interface that is gone, no IPv6) are left out.
func (s Store) Check(want []Setting) ([]Deviation, error) {
	var wrong []Deviation
	var errs []error
	for _, w := range want {
		if w.Needs != "" {
			if _, err := os.Stat(s.path(w.Needs)); err != nil {
				w.Value = w.Else
			}
		}
		have, err := s.read(w.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case have != w.Value && (w.From == "" || have == w.From):
			wrong = append(wrong, Deviation{w, have})
		}
	}
	return wrong, errors.Join(errs...)
}

// Apply corrects the deviations in order. Each first value is on disk before
// it is overwritten, so that Restore works after a crash at any point.
func (s Store) Apply(wrong []Deviation) error {
	if len(wrong) == 0 {
		return nil
	}
	saved, err := s.load()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, v := range saved {
		known[v.Key] = true
	}
	added := false
	for _, d := range wrong {
		for _, key := range append([]string{d.Key}, d.Implied...) {
			if known[key] {
				continue
			}
			have, err := s.read(key)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			known[key], added = true, true
			saved = append(saved, value{key, have})
		}
	}
	if added {
		if err := keep.Save(s.Saved, saved); err != nil {
			return err
		}
	}
	var errs []error
	for _, d := range wrong {
		if err := s.write(d.Key, d.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Adopt takes over the first values that another store keeps. They are older
// than this one's, so of a parameter that both know they win.
func (s Store) Adopt(other Store) error {
	if s.Saved == other.Saved {
		return nil
	}
	saved, err := other.load()
	if err != nil || len(saved) == 0 {
		return err
	}
	own, err := s.load()
	if err != nil {
		return err
	}
	for _, v := range own {
		if !slices.ContainsFunc(saved, func(o value) bool { return o.Key == v.Key }) {
			saved = append(saved, v)
		}
	}
	if err := keep.Save(s.Saved, saved); err != nil {
		return err
	}
	return other.forget()
}

// forget removes what was saved.
func (s Store) forget() error {
	if err := os.Remove(s.Saved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting the saved sysctls: %w", err)
	}
	return nil
}

// Restore puts the first values back, forwarding first, and forgets them.
// Parameters whose interface is gone are skipped.
func (s Store) Restore() error {
	saved, err := s.load()
	if err != nil {
		return err
	}
	// The global switches overwrite parameters of interfaces, so they go first.
	slices.SortStableFunc(saved, func(a, b value) int { return cmp.Compare(rank(a.Key), rank(b.Key)) })
	var errs []error
	for _, v := range saved {
		if err := s.write(v.Key, v.Value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.forget()
}

type value struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// rank orders parameters from the whole system to one interface.
func rank(key string) int {
	switch {
	case !strings.Contains(key, "/conf/"), strings.Contains(key, "/conf/all/"):
		return 0
	case strings.Contains(key, "/conf/default/"):
		return 1
	}
	return 2
}

func (s Store) path(key string) string { return filepath.Join(s.Root, key) }

func (s Store) read(key string) (string, error) {
	var b [4096]byte // the kernel's own limit is a page, and it writes all at once
	n, err := s.Files.read(s.path(key), b[:])
	if err != nil {
		return "", fmt.Errorf("reading a sysctl: %w", err)
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func (s Store) write(key, v string) error {
	if have, err := s.read(key); err == nil && have == v {
		return nil
	}
	f, err := os.OpenFile(s.path(key), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing a sysctl: %w", err)
	}
	_, err = f.WriteString(v)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing a sysctl: %s: %w", v, err)
	}
	return nil
}

// load returns what was saved; a missing or damaged file is an empty one,
// because refusing to run would not bring the values back.
func (s Store) load() ([]value, error) {
	var saved []value
	if ok, err := keep.Load(s.Saved, &saved); !ok {
		return nil, err
	}
	return slices.DeleteFunc(saved, func(v value) bool { return !strings.HasPrefix(v.Key, "net/") || path.Clean(v.Key) != v.Key }), nil
}
