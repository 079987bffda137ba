package config

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// lines prints the line of every leaf and list element below p.
func lines(p *place, path keyPath) []string {
	var out []string
	for _, k := range p.keys {
		out = append(out, lines(p.children[k], path.add(k))...)
	}
	for i, e := range p.elems {
		out = append(out, lines(e, path.item(i+1))...)
	}
	if len(p.keys) == 0 {
		out = append(out, fmt.Sprintf("%s %d", path, p.line))
	}
	return out
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"plain", "a = 1\n[b]\nc = 2 # x = 3\n\n[b.d]\ne='#'\n", "a 1, b.c 3, b.d.e 6"},
		{"dotted and quoted keys", "a.b . \"c.d\" = 1\n'[x]'.y = 2\n\"\\u0061\\x62\\n\" = 3\n\"\" = 4\n", `a.b."c.d" 1, [x].y 2, "ab\n" 3, "" 4`},
		{"quoted header", "[ a . \"b ] c\" ]\nd = 1\n['#']\ne = 2\n", `a."b ] c".d 2, "#".e 4`},
		{"multi-line strings", "a = \"\"\"\n[x]\ny = 1\\\"\"\"\n\"\"\"\"\"\nb = '''\n[z]\\'''\nc = \"\"\"x\"\"\"\nd = ''''''\n", "a 1, b 5, c 7, d 8"},
		{"strings", "a = \"[x]\\\"\\\\\"\nb = 'c:\\'\nd = \"\"\ne = ''\n", "a 1, b 2, d 3, e 4"},
		{"lists", "a = [\n  1, # ]\n\n  \"]\",\n  [ 2,\n 3 ] ,\n]\nb = []\nc = 1\n", "a[1] 2, a[2] 4, a[3][1] 5, a[3][2] 6, a[3] 5, a 1, b 8, c 9"},
		{"inline tables", "a = { b = 1, c.d = \"}\", e = { f = [ { g = 1 } ] } }\nh = {}\n", "a.b 1, a.c.d 1, a.e.f[1].g 1, a.e.f 1, h 2"},
		{"inline table over lines", "a = {\n  b = 1,\n  # }\n  c = 2,\n}\nd = 3\n", "a.b 2, a.c 4, d 6"},
		{"arrays of tables", "[[a]]\nb = 1\n[[a]]\n\nb = 2\n[a.c]\nd = 3\n[[a.e]]\nf = 4\n[[a.e]]\nf = 5\n[[a]]\n[[a.e]]\nf = 6\n", "a[1].b 2, a[2].b 5, a[2].c.d 7, a[2].e[1].f 9, a[2].e[2].f 11, a[2].e 8, a[3].e[1].f 14, a[3].e 13, a 1"},
		{"list of inline tables", "a = [\n { b = 1 },\n { b = 2,\n c = 3 },\n]\n", "a[1].b 2, a[2].b 3, a[2].c 4, a 1"},
		{"CRLF", "a = 1\r\n[b]\r\nc = [\r\n 2,\r\n]\r\nd = '''\r\n'''\r\ne = 3\r\n", "a 1, b.c[1] 4, b.c 3, b.d 6, b.e 8"},
		{"byte order mark", "\ufeffa = 1\nb = 2", "a 1, b 2"},
		{"header after its subtable", "[a.b]\nc = 1\n[a]\nd = 2\n", "a.b.c 2, a.d 4"},
		{"dates and numbers", "a = 1979-05-27 07:32:00Z\nb = [ 1.5e3, +inf,\n -1_000.5 ]\nc = 0xff\n", "a 1, b[1] 2, b[2] 2, b[3] 3, b 2, c 4"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, _ := places(tt.text)
			if diff := cmp.Diff(strings.Split(tt.want, ", "), lines(p, nil)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			checkPlaces(t, tt.text)
		})
	}
}

// A table's own line is that of its header, even if a subtable came before it.
func TestHeaderLines(t *testing.T) {
	t.Parallel()
	p, _ := places("[a.b]\nc = 1\n[a]\nd = 2\n[[e]]\n\n[[e]]\n")
	if got := p.children["a"].line; got != 3 {
		t.Errorf("a: %d", got)
	}
	if got := p.children["e"].elems[1].line; got != 7 {
		t.Errorf("e[2]: %d", got)
	}
}

// checkPlaces checks that the scanner and the decoder see the same keys and
// lists in a text that the decoder accepts.
func checkPlaces(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) { // never looked at; the decoder removes a UTF-16 byte order mark
		return
	}
	p, tooDeep := places(text)
	if tooDeep > 0 {
		return
	}
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		return
	}
	compareShape(t, doc, p, nil)
}

func compareShape(t *testing.T, v any, p *place, path keyPath) {
	t.Helper()
	if p == nil || p.line < 1 {
		t.Errorf("no place for %v", path)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) != len(p.keys) {
			t.Errorf("%v: decoder has %d keys, scanner %q", path, len(v), p.keys)
		}
		for k := range v {
			compareShape(t, v[k], p.children[k], path.add(k))
		}
	case []map[string]any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		compareShape(t, list, p, path)
	case []any:
		if len(v) != len(p.elems) {
			t.Errorf("%v: decoder has %d elements, scanner %d", path, len(v), len(p.elems))
			return
		}
		for i := range v {
			compareShape(t, v[i], p.elems[i], path.item(i+1))
		}
	default:
		if len(p.keys)+len(p.elems) > 0 {
			t.Errorf("%v: decoder has a plain value, scanner %v", path, lines(p, path))
		}
	}
}

// Texts that are not TOML must not make the scanner stand still.
func TestPlacesEnd(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"a = {[", "a = {]", "a = {=", "a = [}", "a = [=", "a = {\"", "a = {{[", "a = [[}", "a = {b}",
		"]", "=", "[[", "[a", "a = \"\"\"", "a = \"\\", "a.", "\"",
	} {
		places(text)
	}
}

// Neither reader may recurse without limit.
func TestTooDeep(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"a = " + strings.Repeat("[", 1<<20),
		"a = " + strings.Repeat("{a=", 1<<20),
		"[" + strings.Repeat("a.", 1<<20) + "a]",
		strings.Repeat("a.", 1<<20) + "a = 1",
		"[" + strings.Repeat("a.", 30) + "a]\n" + strings.Repeat("[", 100) + "x",
	} {
		if cfg, err := Parse([]File{{"a.toml", []byte(text)}}); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}
