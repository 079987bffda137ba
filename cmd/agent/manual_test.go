package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const packaging = "../../packaging"

func packaged(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(packaging, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The manual and the completions know every command and its options.
func TestManualKnowsCommands(t *testing.T) {
	t.Parallel()
	manual, bash, zsh, fish := packaged(t, "agent.8"), packaged(t, "completion/agent.bash"), packaged(t, "completion/agent.zsh"), packaged(t, "completion/agent.fish")
	_, list, _ := strings.Cut(bash, "'') words='")
	list, _, _ = strings.Cut(list, "'")
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
		for where, text := range map[string]struct{ all, want string }{
			"agent.8":    {manual, "\n.It Cm " + c.name},
			"agent.zsh":  {zsh, "    '" + c.name + ":"},
			"agent.fish": {fish, " -a " + c.name + " -d "},
		} {
			if !strings.Contains(text.all, text.want) {
				t.Errorf("%s lacks agent %s", where, c.name)
			}
		}
		flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
		if c.flags != nil {
			c.flags(flags, &call{})
		}
		flags.VisitAll(func(f *flag.Flag) {
			for where, text := range map[string]struct{ all, want string }{
				"agent.8":    {strings.ReplaceAll(manual, "\n", " "), "Fl -" + f.Name + " "},
				"agent.bash": {bash, " --" + f.Name},
				"agent.zsh":  {zsh, "'--" + f.Name + "["},
				"agent.fish": {fish, " -l " + f.Name + " "},
			} {
				if !strings.Contains(text.all, text.want) {
					t.Errorf("%s lacks --%s of agent %s", where, f.Name, c.name)
				}
			}
		})
	}
	if got := strings.Fields(list); !slices.Equal(got, append(names, "help")) {
		t.Errorf("agent.bash has the commands\n%q, the program\n%q", got, names)
	}
}

func TestBashCompletion(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	for words, want := range map[string]string{
		"agent re":                 "reload",
		"agent show ":              "--config --json nft routes",
		"agent --json show r":      "routes",
		"agent reload --c":         "--config --confirm",
		"agent uplink d":           "disable",
		"agent uplink disable ":    "dsl lte",
		"agent flows l":            "lte",
		"agent explain --prot":     "--protocol",
		"agent reload --confirm 6": "",
		"agent explain lo":         "local",
	} {
		// A daemon with two uplinks answers.
		script := `agent() { printf 'multiroute 1, ready\n\nUPLINK STATE\ndsl up\nlte down\n\nlte: dead\n'; }
. completion/agent.bash
read -ra COMP_WORDS <<<"$1"; [[ $1 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_agent && echo "${COMPREPLY[*]}"`
		cmd := exec.Command(bash, "-euo", "pipefail", "-c", script, "bash", words)
		cmd.Dir = packaging
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q: got %q (%v), want %q", words, got, err, want)
		}
	}
}
