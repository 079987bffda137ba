package config

import "strings"

// gap is a part of the contract that has no behaviour yet. To give a key its
// behaviour, delete its row.
type gap struct {
	path    string         // as in the contract; what stands below it is meant too
	whole   bool           // one error for the table instead of one for each key in it
	does    func(any) bool // which values mean what the program does now; nil: none
	subject string         // what it is that comes later
	instead string         // what to do until then
}

const removeKey = "remove this key"

// unsupported lists everything without behaviour.
var unsupported = []gap{
	{"hooks.on_change", false, emptyList, "hooks come", "write [] or remove this key"},
	{"hooks.hook_timeout", false, nil, "hooks come", removeKey},
}

func is[T comparable](v T) func(any) bool { return func(val any) bool { return val == any(v) } }

func emptyList(val any) bool {
	v, ok := val.([]string)
	return ok && len(v) == 0
}

// problem says that the gap is one.
func (g *gap) problem() string {
	return "not supported yet: " + g.subject + " in a later version; " + g.instead
}

// findGap returns the row for exactly this path in terms of the contract.
func findGap(gaps []gap, parts []string) *gap {
	for i := range gaps {
		if matches(gaps[i].path, parts) {
			return &gaps[i]
		}
	}
	return nil
}

func matches(pattern string, parts []string) bool {
	want := strings.Split(pattern, ".")
	if len(want) != len(parts) {
		return false
	}
	for i, w := range want {
		switch {
		case w == parts[i], w == "*", w == "[]" && strings.HasPrefix(parts[i], "["):
		default:
			return false
		}
	}
	return true
}
