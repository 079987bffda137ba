package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML decoder gives values without positions (and wrong ones inside
// arrays of tables), so this file reads the text a second time, for the line of
// every key and every list element only. It trusts that the decoder accepts
// the text: on anything else it returns some tree, but it never panics.

// maxDepth limits nesting, so that neither this scanner nor the decoder, which
// are both recursive, can exhaust the stack. The contract needs 4.
const maxDepth = 32

// place is where a value stands: a tree of the same shape as the values.
type place struct {
	line     int
	explicit bool              // line is that of a header or a key of its own, not of something inside it
	keys     []string          // of a table, in reading order
	children map[string]*place // of a table
	elems    []*place          // of a list
}

// child returns the place of key in p, made at line if it is new.
func (p *place) child(key string, line int) *place {
	if c, ok := p.children[key]; ok {
		return c
	}
	c := &place{line: line}
	if p.children == nil {
		p.children = map[string]*place{}
	}
	p.children[key] = c
	p.keys = append(p.keys, key)
	return c
}

// enter is child, but a list of tables stands for its last element, as in TOML headers.
func (p *place) enter(key string, line int) *place {
	c := p.child(key, line)
	if n := len(c.elems); n > 0 {
		return c.elems[n-1]
	}
	return c
}

// at says that p's own header or key is at line.
func (p *place) at(line int) {
	if !p.explicit {
		p.line, p.explicit = line, true
	}
}

// scanner walks over TOML text. All methods stop at the end of the text.
type scanner struct {
	text    string
	i       int
	line    int
	item    int // where the last item of a list or inline table began
	tooDeep int // line where nesting passed maxDepth, 0 if nowhere
}

// places returns where everything in text stands, and the line of the first
// thing that is nested too deeply (0: nothing is; otherwise the tree is incomplete).
func places(text string) (root *place, tooDeep int) {
	s := &scanner{text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	root = &place{line: 1}
	current := root
	for s.tooDeep == 0 {
		s.space(true)
		if s.end() {
			break
		}
		before := s.i
		if s.skip("[[") {
			current = s.header(root, true)
			s.skip("]]")
		} else if s.skip("[") {
			current = s.header(root, false)
			s.skip("]")
		} else {
			s.pair(current, 0)
		}
		if s.i == before { // cannot happen in valid TOML
			s.i++
		}
	}
	return root, s.tooDeep
}

func (s *scanner) end() bool { return s.i >= len(s.text) }

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.end() {
		return 0
	}
	return s.text[s.i]
}

// skip moves over prefix if it is next.
func (s *scanner) skip(prefix string) bool {
	if strings.HasPrefix(s.text[s.i:], prefix) {
		s.i += len(prefix)
		return true
	}
	return false
}

// space moves over blanks, and over newlines and comments if lines is set.
func (s *scanner) space(lines bool) {
	for !s.end() {
		switch c := s.text[s.i]; {
		case c == ' ' || c == '\t' || c == '\r':
			s.i++
		case c == '\n' && lines:
			s.line++
			s.i++
		case c == '#' && lines:
			for !s.end() && s.text[s.i] != '\n' {
				s.i++
			}
		default:
			return
		}
	}
}

// header reads the key of [key] or [[key]] and returns the table that follows.
func (s *scanner) header(root *place, list bool) *place {
	line := s.line
	parts := s.key()
	p := root
	for i, part := range parts {
		switch {
		case i < len(parts)-1:
			p = p.enter(part, line)
		case list:
			c := p.child(part, line)
			c.at(line)
			p = &place{line: line, explicit: true}
			c.elems = append(c.elems, p)
		default:
			p = p.enter(part, line)
			p.at(line)
		}
	}
	return p
}

// pair reads key = value into the table p.
func (s *scanner) pair(p *place, depth int) {
	line := s.line
	for _, part := range s.key() {
		p = p.enter(part, line)
	}
	p.at(line)
	s.space(false)
	if !s.skip("=") {
		return
	}
	s.space(false)
	s.value(p, depth)
}

// key reads a dotted key, up to the "=" or "]" after it.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.space(false)
		parts = append(parts, s.keyPart())
		s.space(false)
		if !s.skip(".") {
			return parts
		}
		if len(parts) >= maxDepth {
			s.tooDeep = s.line
			return parts
		}
	}
}

func (s *scanner) keyPart() string {
	switch c := s.peek(); c {
	case '"', '\'':
		return s.quoted(c)
	}
	start := s.i
	for !s.end() && !strings.ContainsRune(" \t\r\n.=[]{},#\"'", rune(s.text[s.i])) {
		s.i++
	}
	return s.text[start:s.i]
}

// quoted reads a single-line string and returns what it means.
func (s *scanner) quoted(quote byte) string {
	s.i++
	start, escaped := s.i, false
	for !s.end() && s.text[s.i] != quote && s.text[s.i] != '\n' {
		if s.text[s.i] == '\\' && quote == '"' {
			escaped = true
			s.i++
		}
		if !s.end() && s.text[s.i] != '\n' {
			s.i++
		}
	}
	str := s.text[start:s.i]
	s.skip(string(quote))
	if escaped {
		return unescape(str)
	}
	return str
}

// value reads a value that stands at p.
func (s *scanner) value(p *place, depth int) {
	if depth >= maxDepth {
		s.tooDeep = s.line
		s.i = len(s.text)
		return
	}
	switch {
	case s.skip(`"""`):
		s.multiline('"')
	case s.skip(`'''`):
		s.multiline('\'')
	case s.peek() == '"', s.peek() == '\'':
		s.quoted(s.peek())
	case s.skip("["):
		for s.more("]") {
			e := &place{line: s.line, explicit: true}
			p.elems = append(p.elems, e)
			s.value(e, depth+1)
		}
	case s.skip("{"):
		for s.more("}") {
			s.pair(p, depth+1)
		}
	default:
		for !s.end() && !strings.ContainsRune(",]}#\n", rune(s.text[s.i])) {
			s.i++
		}
	}
}

// more moves to the next item of a list or inline table, and past its closing
// bracket if there is none.
func (s *scanner) more(closing string) bool {
	for {
		before := s.i
		s.space(true)
		s.skip(",")
		if s.i == before {
			break
		}
	}
	if s.end() || s.skip(closing) {
		return false
	}
	if s.i == s.item { // nothing was read since; cannot happen in valid TOML
		s.i = len(s.text)
		return false
	}
	s.item = s.i
	return true
}

// multiline moves behind the end of a multi-line string. Up to two quotes may
// stand directly before the closing three.
func (s *scanner) multiline(quote byte) {
	three := strings.Repeat(string(quote), 3)
	for !s.end() {
		switch c := s.text[s.i]; {
		case c == '\n':
			s.line++
			s.i++
		case c == '\\' && quote == '"':
			s.i++
			if s.peek() == '"' || s.peek() == '\\' {
				s.i++
			}
		case strings.HasPrefix(s.text[s.i:], three):
			s.i += 3
			for n := 0; n < 2 && s.peek() == quote; n++ {
				s.i++
			}
			return
		default:
			s.i++
		}
	}
}

// unescape resolves the escapes of a TOML basic string.
func unescape(str string) string {
	var b strings.Builder
	for i := 0; i < len(str); i++ {
		if str[i] != '\\' || i+1 == len(str) {
			b.WriteByte(str[i])
			continue
		}
		i++
		digits := 0
		switch str[i] {
		case 'b':
			b.WriteByte('\b')
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'f':
			b.WriteByte('\f')
		case 'r':
			b.WriteByte('\r')
		case 'e':
			b.WriteByte(0x1b)
		case 'x':
			digits = 2
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		default:
			b.WriteByte(str[i])
		}
		if digits > 0 && i+digits < len(str) {
			r, err := strconv.ParseUint(str[i+1:i+1+digits], 16, 32)
			if err != nil || !utf8.ValidRune(rune(r)) {
				r = utf8.RuneError
			}
			b.WriteRune(rune(r))
			i += digits
		}
	}
	return b.String()
}
