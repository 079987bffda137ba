package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asAgent in the environment makes the test binary the program itself.
const asAgent = "MULTIROUTE_TEST_IS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestScripts runs the commands as people and scripts do. A script is a txtar
// archive, in the language of rogpeppe/go-internal/testscript as far as it is
// needed here: lines of commands, then files, in which $WORK is the folder that
// they are put into.
//
//	code N agent ARGUMENTS   the program must end with this exit code
//	[!] stdout|stderr REGEXP what it printed must (not) match
//	cmp stdout|stderr FILE   what it printed must be this
//	[root] or [!root] in front: only (not) for root
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, path)
		})
	}
}

// archive is a txtar archive.
type archive struct {
	script string
	names  []string
	files  map[string]string
}

var fileHeader = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func parseArchive(text string) archive {
	a := archive{files: map[string]string{}}
	heads := fileHeader.FindAllStringSubmatchIndex(text, -1)
	end := func(i int) int {
		if i < len(heads) {
			return heads[i][0]
		}
		return len(text)
	}
	a.script = text[:end(0)]
	for i, h := range heads {
		name := text[h[2]:h[3]]
		a.names = append(a.names, name)
		a.files[name] = text[h[1]:end(i+1)]
	}
	return a
}

func (a archive) String() string {
	text := a.script
	for _, n := range a.names {
		text += "-- " + n + " --\n" + a.files[n]
	}
	return text
}

var word = regexp.MustCompile(`'[^']*'|\S+`)

func runScript(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := parseArchive(string(text))
	work := t.TempDir()
	for name, content := range a.files {
		file := filepath.Join(work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(strings.ReplaceAll(content, "$WORK", work)), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	printed := map[string]string{}
	for i, line := range strings.Split(a.script, "\n") {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		fatalf := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("%s:%d: %s\n"+format, append([]any{path, i + 1, line}, args...)...)
		}
		var words []string
		for _, w := range word.FindAllString(line, -1) {
			words = append(words, strings.Trim(w, "'"))
		}
		if c := words[0]; c == "[root]" || c == "[!root]" {
			if (c == "[root]") != (os.Geteuid() == 0) {
				continue
			}
			words = words[1:]
		}
		not := words[0] == "!"
		if not {
			words = words[1:]
		}
		switch {
		case words[0] == "code" && len(words) > 2 && words[2] == "agent":
			cmd := exec.CommandContext(t.Context(), os.Args[0], words[3:]...)
			cmd.Dir, cmd.Env = work, append(os.Environ(), asAgent+"=1")
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				fatalf("%v", err)
			}
			printed["stdout"], printed["stderr"] = out.String(), errOut.String()
			if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != words[1] {
				fatalf("exit code %s\nstdout: %s\nstderr: %s", got, &out, &errOut)
			}
		case (words[0] == "stdout" || words[0] == "stderr") && len(words) == 2:
			if regexp.MustCompile("(?m)"+words[1]).MatchString(printed[words[0]]) == not {
				fatalf("%s is\n%s", words[0], printed[words[0]])
			}
		case words[0] == "cmp" && len(words) == 3 && !not:
			got := strings.ReplaceAll(printed[words[1]], work, "$WORK")
			if *update {
				a.files[words[2]] = got
			} else if diff := cmp.Diff(a.files[words[2]], got); diff != "" {
				fatalf("(-want +got)\n%s", diff)
			}
		default:
			fatalf("cannot do that")
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(a.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
