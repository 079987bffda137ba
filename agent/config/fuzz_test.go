package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkParse checks what holds for every text: no panic, a Config or errors but
// not both, errors that can be shown, a Config that keeps its promises. Keys
// without behaviour are let through.
func checkParse(t *testing.T, texts ...string) {
	t.Helper()
	cfg, err := parseAll(texts...)
	if (cfg == nil) == (err == nil) {
		t.Fatalf("config %v and error %v", cfg, err)
	}
	if err != nil {
		checkErrors(t, err, len(texts))
		return
	}
	checkInvariants(t, cfg)
}

func checkErrors(t *testing.T, err error, nfiles int) {
	t.Helper()
	var errs Errors
	if !errors.As(err, &errs) || len(errs) == 0 {
		t.Fatalf("%T %v", err, err)
	}
	for i, e := range errs {
		if e.File < "a.toml" || e.File > string(rune('a'+nfiles-1))+".toml" || e.Line < 0 || e.Problem == "" {
			t.Errorf("%#v", e)
		}
		if strings.ContainsAny(e.Error(), "\n\r\x00") || !utf8.ValidString(e.Error()) {
			t.Errorf("cannot be shown: %q", e.Error())
		}
		if i > 0 && (errs[i-1].File > e.File || errs[i-1].File == e.File && errs[i-1].Line > e.Line) {
			t.Errorf("%v stands before %v", errs[i-1], e)
		}
	}
}

// TestTruncated cuts the reference configuration at every third byte.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for i := 0; i <= len(Reference); i += 3 { // cuts each kind of token somewhere
		checkParse(t, Reference[:i])
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Minimal, "")
	f.Add("\xfe\xff", "") // a byte order mark of UTF-16
	f.Add(Reference, Minimal)
	f.Add(Reference, "uplink.dsl.weight = 2")
	names, _ := filepath.Glob("testdata/bad-*.toml")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(Minimal, string(text))
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		checkParse(t, a, b)
		checkPlaces(t, a)
		checkPlaces(t, b)
	})
}
