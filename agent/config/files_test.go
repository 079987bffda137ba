package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const oneUplink = "[uplink.dsl]\ninterface = 'eth1'\n"

// folder makes files with mode 0600 in a new folder; a name that ends with /
// makes a folder, a text that begins with -> a symbolic link.
func folder(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"agent.toml":             oneUplink,
		"agent.d/10-b.toml":      "uplink.dsl.weight = 2\n",
		"agent.d/9-c.toml":       "uplink.dsl.weight = 3\n",
		"agent.d/Z.toml":         "->inner/Z",
		"agent.d/inner/Z":        "[uplink.z]\ninterface = 'eth2'\n",
		"agent.d/note.txt":       "not read",
		"agent.d/.#10-b.toml":    "->nobody@nowhere",
		"agent.d/10-b.toml~":     "not read",
		"agent.d/inner/no.toml":  "not read",
		"agent.d/old.toml.saved": "not read",
	})
	cfg, err := Load(filepath.Join(dir, "agent.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if w := cfg.Uplink("dsl").Weight; w != 3 || cfg.Uplink("z") == nil {
		t.Errorf("weight %d, %v", w, cfg.Uplinks)
	}
	var want []string
	for _, name := range []string{"agent.toml", "agent.d/10-b.toml", "agent.d/9-c.toml", "agent.d/Z.toml"} {
		want = append(want, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, cfg.Files); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLoadWithoutFolder(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"agent.toml": oneUplink, "linked.toml": "->agent.toml"})
	for _, name := range []string{"agent.toml", "linked.toml"} {
		if _, err := Load(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadBad(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		content map[string]string
		prepare func(dir string) error
		want    string // DIR stands for the folder
	}{
		{"nothing there", nil, nil, `
DIR/agent.toml: no such file: write one there, or name another with --config`},
		{"a folder", map[string]string{"agent.toml/": ""}, nil, `
DIR/agent.toml: is not a regular file: put a file of TOML text there`},
		{"a pipe", nil, func(dir string) error { return unix.Mkfifo(dir+"/agent.toml", 0o600) }, `
DIR/agent.toml: is not a regular file: put a file of TOML text there`},
		{"writable", map[string]string{"agent.toml": oneUplink, "agent.d/a b.toml": ""}, func(dir string) error {
			if err := os.Chmod(dir+"/agent.toml", 0o620); err != nil {
				return err
			}
			return os.Chmod(dir+"/agent.d/a b.toml", 0o602)
		}, `
DIR/agent.toml: can be written by group or others, who could take over the router: run chmod go-w DIR/agent.toml
DIR/agent.d/a b.toml: can be written by group or others, who could take over the router: run chmod go-w 'DIR/agent.d/a b.toml'`},
		{"too large", map[string]string{"agent.toml": strings.Repeat("#", maxSize+1)}, nil, `
DIR/agent.toml: ` + tooLarge},
		{"links", map[string]string{
			"agent.toml":      oneUplink,
			"other.toml":      "",
			"agent.d/a.toml":  "->../other.toml",
			"agent.d/b.toml":  "->nowhere.toml",
			"agent.d/c.toml":  "->/dev/null",
			"agent.d/d.toml/": "",
			"agent.d/e.toml":  "lan = []",
		}, nil, `
DIR/agent.d/a.toml: is a symbolic link that leaves the folder: put a copy of the file here instead
DIR/agent.d/b.toml: is a symbolic link to nothing: remove it or put the file there
DIR/agent.d/c.toml: is a symbolic link that leaves the folder: put a copy of the file here instead
DIR/agent.d/d.toml: is not a regular file: put a file of TOML text there
DIR/agent.d/e.toml:1: lan: unknown key here: it belongs in [router]`},
		{"the folder is a file", map[string]string{"agent.toml": oneUplink, "agent.d": ""}, nil, `
DIR/agent.d: cannot be read: not a directory`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, tt.content)
			if tt.prepare != nil {
				if err := tt.prepare(dir); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := Load(filepath.Join(dir, "agent.toml"))
			if err == nil {
				t.Fatalf("accepted %+v", cfg)
			}
			got := strings.ReplaceAll(err.Error(), dir, "DIR")
			if diff := cmp.Diff(strings.TrimSpace(tt.want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
