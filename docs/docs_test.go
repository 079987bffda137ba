// Package docs checks that the documentation says what the program does.
package docs

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"multiroute/agent/config"
)

var update = flag.Bool("update", false, "write the program's texts into the documentation")

const root = ".."

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages are all pages, as paths below root.
func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	names := []string{"README.md", "CHANGELOG.md"}
	for _, path := range list {
		names = append(names, filepath.Join("docs", filepath.Base(path)))
	}
	return names
}

var block = regexp.MustCompile("(?s)```toml\n(.*?)```\n")

// TestReference: configuration.md contains minimal.toml and reference.toml, word for word.
func TestReference(t *testing.T) {
	const page = "docs/configuration.md"
	want := []string{config.Minimal, config.Reference}
	text := read(t, page)
	if *update {
		i := -1
		text = block.ReplaceAllStringFunc(text, func(string) string { i++; return "```toml\n" + want[i] + "```\n" })
		if err := os.WriteFile(filepath.Join(root, page), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := block.FindAllStringSubmatch(text, -1)
	if len(got) != len(want) {
		t.Fatalf("%s has %d blocks of TOML", page, len(got))
	}
	for i := range want {
		if got[i][1] != want[i] {
			t.Errorf("%s: block %d is not what the program says: run go test ./docs -update", page, i+1)
		}
	}
}

// TestTenLines: the README's configuration is right, and the demo's.
func TestTenLines(t *testing.T) {
	blocks := block.FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) != 3 {
		t.Fatalf("the README has %d blocks of TOML", len(blocks))
	}
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(blocks[0][1]+"\n"+blocks[1][1]+"\n"+blocks[2][1]), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Uplinks) != 3 || len(cfg.PortForwards) != 1 {
		t.Errorf("%d uplinks, %d port forwards", len(cfg.Uplinks), len(cfg.PortForwards))
	}
	lines := 0
	for line := range strings.Lines(blocks[0][1]) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	if lines != 10 {
		t.Errorf("%d lines are not ten", lines)
	}
	demo := read(t, "test/demo/steps.go")
	for _, i := range []int{0, 2} { // its house has no LTE
		if !strings.Contains(demo, "`"+blocks[i][1]+"`") {
			t.Errorf("the demo does not use block %d of the README", i+1)
		}
	}
}

// TestCommands: the README names every command, in the words of the program.
func TestCommands(t *testing.T) {
	out, err := exec.Command("go", "run", "multiroute/cmd/agent", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	readme := read(t, "README.md")
	commands := 0
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "  ") {
			continue
		}
		commands++
		if name := strings.Fields(line)[0]; !strings.Contains(readme, "| `agent "+name) {
			t.Errorf("the README's table lacks agent %s", name)
		}
	}
	if commands == 0 {
		t.Errorf("no commands in %q", out)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)\)`)

// TestLinks: what pages refer to exists.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

var target = regexp.MustCompile("`?make ([a-z-]+)`?")

// TestTargets: every make target that a page or the CI names exists.
func TestTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, page := range append(pages(t), ".ci/run") {
		for line := range strings.Lines(read(t, page)) {
			code := strings.HasPrefix(line, "    make ") || strings.HasPrefix(line, "make ") || strings.Contains(line, "`make ")
			if m := target.FindStringSubmatch(line); code && m != nil && !strings.Contains(makefile, "\n"+m[1]+": ") {
				t.Errorf("%s: no target %s", page, m[1])
			}
		}
	}
}
