package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kind is what a plain value of the contract may be.
type kind struct {
	wants string // what would be right, as in "wants a list of addresses"
	// check returns what n means, or reports why it means nothing and returns
	// nil. Lists report each element on its own line.
	check func(n *node, fail func(n *node, problem string)) any
}

// scalar is a kind of values that are no lists.
func scalar[T any](wants string, parse func(raw any) (T, error)) kind {
	return kind{wants, func(n *node, fail func(*node, string)) any {
		v, err := parse(n.raw)
		if err != nil {
			fail(n, err.Error())
			return nil
		}
		return v
	}}
}

// text is a kind of strings.
func text[T any](wants string, parse func(s string) (T, error)) kind {
	return scalar(wants, func(raw any) (T, error) {
		if s, ok := raw.(string); ok {
			return parse(s)
		}
		var none T
		return none, wrongType(raw, wants)
	})
}

// wrongType says that raw is not what the key wants.
func wrongType(raw any, wants string) error {
	return fmt.Errorf("is %s, wants %s", describe(raw), wants)
}

// badText says that s is text, but not the right one.
func badText(s, wants string) error { return fmt.Errorf("%s is not %s", quote(s), wants) }

// listOf is a kind of lists whose elements are of kind elem, which makes a T. The value is a []T.
func listOf[T comparable](elem kind) kind {
	wants := "a list, each element of it " + elem.wants
	return kind{wants, func(n *node, fail func(*node, string)) any {
		list, ok := n.raw.([]*node)
		if !ok {
			fail(n, wrongType(n.raw, wants).Error()+": put it in [ ]")
			return nil
		}
		out, seen, good := make([]T, 0, len(list)), make(map[T]bool, len(list)), true
		for _, e := range list {
			v, ok := elem.check(e, fail).(T)
			if !ok {
				good = false
				continue
			}
			if seen[v] {
				fail(e, fmt.Sprintf("%s is in the list twice: remove one", quote(fmt.Sprint(v))))
				good = false
			}
			seen[v] = true
			out = append(out, v)
		}
		if !good {
			return nil
		}
		return out
	}}
}

// oneOrMore is listOf, but a single value may stand without the brackets.
func oneOrMore[T comparable](elem kind) kind {
	list := listOf[T](elem)
	return kind{elem.wants + ", or a list of such", func(n *node, fail func(*node, string)) any {
		if _, ok := n.raw.([]*node); ok {
			return list.check(n, fail)
		}
		if v, ok := elem.check(n, fail).(T); ok {
			return []T{v}
		}
		return nil
	}}
}

var boolean = scalar("true or false", func(raw any) (bool, error) {
	if b, ok := raw.(bool); ok {
		return b, nil
	}
	return false, wrongType(raw, "true or false")
})

// integer is a kind of whole numbers from lo to hi; why, if not empty, explains the limits.
func integer(lo, hi int, why string) kind { return whole(lo, hi, why) }

// whole is integer for other types: int has only 32 bits on small routers.
func whole[T int | uint32](lo, hi T, why string) kind {
	wants := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	return scalar(wants, func(raw any) (T, error) {
		i, ok := raw.(int64)
		switch {
		case !ok && isDigits(raw):
			return 0, fmt.Errorf("%w: write it without quotes", wrongType(raw, wants))
		case !ok:
			return 0, wrongType(raw, wants)
		case (i < int64(lo) || i > int64(hi)) && why != "":
			return 0, fmt.Errorf("%d is out of range: write %s, %s", i, wants, why)
		case i < int64(lo) || i > int64(hi):
			return 0, fmt.Errorf("%d is out of range: write %s", i, wants)
		}
		return T(i), nil
	})
}

// isDigits reports whether raw is a number in quotes.
func isDigits(raw any) bool {
	s, ok := raw.(string)
	return ok && s != "" && strings.Trim(s, "0123456789") == ""
}

// enum is a kind of strings that must be one of a few words.
func enum(words ...string) kind {
	wants := oneOf(words)
	return text(wants, func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return "", fmt.Errorf("%s is unknown: write %s", quote(s), wants)
	})
}

// oneOf prints words as alternatives.
func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// duration is a kind of times from lo to hi, always with a unit.
func duration(lo, hi time.Duration) kind {
	wants := fmt.Sprintf("a time with its unit in quotes, from %q to %q", short(lo), short(hi))
	return scalar(wants, func(raw any) (time.Duration, error) {
		if s, ok := raw.(string); ok && !isDigits(raw) {
			d, err := time.ParseDuration(s)
			switch {
			case err != nil:
				return 0, fmt.Errorf(`%s is not a time: write a number and a unit, such as "500ms", "10s", "5m" or "1h30m"`, quote(s))
			case d < lo || d > hi:
				return 0, fmt.Errorf("%s is out of range: write a time from %q to %q", quote(s), short(lo), short(hi))
			}
			return d, nil
		}
		switch raw.(type) {
		case int64, float64, string:
			return 0, fmt.Errorf(`%v has no unit: write "%[1]vs" for seconds or "%[1]vms" for milliseconds`, raw)
		}
		return 0, wrongType(raw, wants)
	})
}

// short prints a duration without zero minutes and seconds.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var (
	probeTime  = duration(10*time.Millisecond, time.Hour)
	waitTime   = duration(10*time.Millisecond, time.Minute)
	holdTime   = duration(0, 10*time.Minute) // which is also what it doubles up to
	latency    = duration(0, time.Minute)
	stickyTime = duration(time.Second, 7*24*time.Hour)
	hookTime   = duration(time.Second, time.Hour)
	rounds     = integer(1, 1000, "")
	percent    = integer(0, 100, "")
	profile    = enum("normal", "fast", "metered")
	mtuSize    = scalar("0 for the interface's, or a whole number from 576 to 65535", func(raw any) (int, error) {
		if i, ok := raw.(int64); ok && i == 0 {
			return 0, nil
		}
		if i, ok := raw.(int64); ok && i >= 576 && i <= 65535 {
			return int(i), nil
		}
		return 0, wrongType(raw, "0 for the interface's, or a whole number from 576 to 65535")
	})
)

// nameText is what an uplink, a policy, a rule or a port forward may be called.
var nameText = text("a name", func(s string) (string, error) { return s, checkName(s) })

// checkName returns why s cannot be a name. Names stand in file names, chain
// comments and command lines, so they are short and plain.
func checkName(s string) error {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	switch {
	case s == "":
		return errors.New("an empty name: write 1 to 31 letters, digits, - or _")
	case len(s) > 31:
		return fmt.Errorf("the name %s has %d bytes: write at most 31", quote(s), len(s))
	case strings.Trim(s, letters+"_-") != "" || !strings.Contains(letters, s[:1]):
		return fmt.Errorf("%s cannot be a name: write letters, digits, - and _, and begin with a letter or digit", quote(s))
	}
	return nil
}
