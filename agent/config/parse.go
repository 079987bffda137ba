package config

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// File is the text of one configuration file.
type File struct {
	Name string // for messages
	Text []byte
}

// Parse turns the main file and its drop-ins, in this order, into a Config. On
// failure the error is of type Errors and says everything that is wrong.
func Parse(files []File) (*Config, error) {
	sources := make([]source, len(files))
	for i, f := range files {
		sources[i] = source{name: f.Name, text: f.Text}
	}
	return parse(sources)
}

// source is a file, or why there is none.
type source struct {
	name  string
	text  []byte
	fault string
}

// reader collects what is wrong while a configuration is read.
type reader struct {
	files []string
	errs  []failure
}

// failure is an Error that can be sorted.
type failure struct {
	file int
	Error
}

// fail reports a problem with n, which is at p, and marks n as bad.
func (r *reader) fail(n *node, p keyPath, problem string) {
	n.bad = true
	r.failAt(n.file, n.line, p.String(), problem)
}

func (r *reader) failAt(file, line int, key, problem string) {
	r.errs = append(r.errs, failure{file, Error{File: r.files[file], Line: line, Key: key, Problem: problem}})
}

// err returns what was reported, or nil.
func (r *reader) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b failure) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.Line, b.Line))
	})
	var errs Errors
	for _, f := range slices.Compact(r.errs) {
		errs = append(errs, f.Error)
	}
	return errs
}

// parse is the way from text to Config. Types and values are checked file by
// file, so that a mistake is found even where a later file hides it; names,
// missing keys are checked in what the files say together.
func parse(sources []source) (*Config, error) {
	r := &reader{}
	for _, src := range sources {
		r.files = append(r.files, src.name)
	}
	if len(sources) == 0 {
		return nil, Errors{{Problem: "no configuration file was given"}}
	}
	s := contractSpec()
	var root *node
	whole := true // every file could be read
	for i, src := range sources {
		n := r.decode(i, src)
		if n == nil {
			whole = false
			continue
		}
		r.check(n, s, nil)
		root = merge(root, n, s)
	}
	if root == nil {
		return nil, r.err()
	}
	if whole {
		r.checkRequired(root, s, nil)
		r.checkNames(root)
		r.checkRules(root)
	}
	cfg := r.build(root, s, whole)
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// decode reads the text of one file, or reports why it cannot be read.
func (r *reader) decode(file int, src source) *node {
	if src.fault != "" {
		r.failAt(file, 0, "", src.fault)
		return nil
	}
	if len(src.text) > maxSize {
		r.failAt(file, 0, "", tooLarge)
		return nil
	}
	if !utf8.Valid(src.text) {
		r.failAt(file, invalidLine(src.text), "", "this line is not UTF-8 text: save the file as UTF-8")
		return nil
	}
	str := string(src.text)
	where, tooDeep := places(str)
	if tooDeep > 0 {
		r.failAt(file, tooDeep, "", "brackets or dots are nested too deeply: no key needs that")
		return nil
	}
	var doc map[string]any
	if _, err := toml.Decode(str, &doc); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			r.failAt(file, syntaxLine(str, pe), pe.LastKey, syntaxProblem(pe.Message))
		} else {
			r.failAt(file, 1, "", syntaxProblem(err.Error()))
		}
		return nil
	}
	return newTree(file, doc, where)
}

// invalidLine returns the line of the first byte that is not UTF-8.
func invalidLine(text []byte) int {
	line := 1
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		if c == utf8.RuneError && size == 1 {
			break
		}
		if c == '\n' {
			line++
		}
		text = text[size:]
	}
	return line
}

// syntaxLine returns the line of a decoder's error. The decoder's own line is too
// high where it stumbled over the end of a line; its offset is right.
func syntaxLine(str string, pe toml.ParseError) int {
	str = strings.TrimPrefix(str, "\ufeff") // the decoder counts from behind it
	return 1 + strings.Count(str[:max(0, min(pe.Position.Start, len(str)))], "\n")
}

// syntaxHints say what would be right, by what the decoder says is wrong.
var syntaxHints = []struct{ part, hint string }{
	{"expected value", `: write text in quotes, a number, true, false, or a list in [ ]`},
	{"already been defined", ": remove one, or join them"},
	{"array terminator", ": separate elements with commas and close the list with ]"},
	{"unexpected EOF", ": the text in this value never ends"},
	{"invalid escape", `: write \\ for a backslash, or put the text in single quotes`},
	{"newlines", ": close the text with the quote it begins with"},
	{"expected '.' or '='", ": write key = value"},
	{"to end table name", ": close the header with ]"},
	{"expected a top-level item to end", ": write one key = value in each line"},
}

// syntaxProblem makes one line of what the decoder says, with a hint.
func syntaxProblem(message string) string {
	message = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return '?' // the decoder repeats what it read, whatever that was
	}, message)
	s := "wrong TOML: " + strings.TrimSuffix(strings.Join(strings.Fields(message), " "), ".")
	for _, h := range syntaxHints {
		if strings.Contains(s, h.part) {
			return s + h.hint
		}
	}
	return s
}
