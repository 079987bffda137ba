package nat

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestListing: what nft(8) makes of our text and what we make of it ourselves
// are listed the same.
func TestListing(t *testing.T) {
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			ours, theirs := newKernel(t), newKernel(t)
			rules := Compile(s.spec)
			ours.write(rules)
			theirs.nft(rules.String())
			got, want := listing(ours), listing(theirs)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("listed (-as nft loads our text +as we write it):\n%s", diff)
			}
			if strings.Count(got, "\n") < 5 {
				t.Errorf("listed: %s", got)
			}
		})
	}
}

// TestCommands: the commands that "agent plan" prints do what Write does.
func TestCommands(t *testing.T) {
	all := situations()
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			before, after := Compile(all[(i+len(all)-1)%len(all)].spec), Compile(s.spec)
			ours, theirs := newKernel(t), newKernel(t)
			for _, start := range []string{"from nothing", "from another"} {
				commands := strings.Join(ours.read().Commands(after), "\n")
				theirs.nft(commands)
				ours.write(after)
				if diff := cmp.Diff(listing(theirs), listing(ours)); diff != "" {
					t.Errorf("%s (-by the commands +by Write):\n%s\ncommands:\n%s", start, diff, commands)
				}
				ours.write(before)
				theirs = newKernel(t)
				theirs.nft(before.String())
			}
		})
	}
}

var comments = regexp.MustCompile(` comment "[^"]*"`)

func listing(k *kernel) string {
	k.t.Helper()
	return comments.ReplaceAllString(k.nft("", "-n", "list", "table", "inet", TableName), "")
}
