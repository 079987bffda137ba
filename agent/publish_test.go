package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"multiroute/agent/domains"
)

// sayer is a resolver with which something is wrong.
type sayer struct{ wanted domains.Wanted }

func (s *sayer) Update(w domains.Wanted, _ bool) { s.wanted = w }
func (*sayer) Warnings() []string                { return []string{"a list is full"} }

// TestPublish: who resolves names knows whose they are, and what is wrong with
// names and files is in the status.
func TestPublish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rule := "\n[[rule]]\nname = %\ndomains = [\"b.org\", \"a.org\"]\nuplink = \"a\"\n"
		r := started(t, twoUplinks+strings.ReplaceAll(rule, "%", `"video"`)+strings.ReplaceAll(rule, "%", `"films"`))
		names := &sayer{}
		r.names, r.folder = names, t.TempDir()
		path := filepath.Join(r.folder, dnsmasqFile)
		if err := os.WriteFile(path, []byte("somebody else's"), 0o644); err != nil {
			t.Fatal(err)
		}
		r.publish()
		if l := names.wanted.Lists; len(l) != 1 || !slices.Equal(l[0].Rules, []string{"video", "films"}) {
			t.Errorf("wanted %+v", l)
		}
		want := []string{"a list is full", unwantedFiles + ": " + path + " is there and not ours: move it away"}
		r.include.text = "made before"
		r.publish()
		if r.include.text != "made before" {
			t.Error("the include is made anew although no list has changed")
		}
		r.include.make(nil)
		if r.include.text != domains.Header {
			t.Errorf("the include without lists is %q", r.include.text)
		}
		if got := r.status().Warnings; !slices.Equal(got, want) {
			t.Errorf("status says %q, wanted %q", got, want)
		}
	})
}
