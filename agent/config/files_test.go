package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
		{"writable folder", map[string]string{"agent.toml": oneUplink, "agent.d/a.toml": "nonsense"}, func(dir string) error {
			return os.Chmod(dir+"/agent.d", 0o775)
		}, `
DIR/agent.d: can be written by group or others, who could take over the router: run chmod go-w DIR/agent.d`},
		{"sticky folder for all", map[string]string{"agent.toml": oneUplink, "agent.d/": ""}, func(dir string) error {
			return os.Chmod(dir+"/agent.d", 0o777|os.ModeSticky)
		}, `
DIR/agent.d: can be written by group or others, who could take over the router: run chmod go-w DIR/agent.d`},
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

// TestDistrust: whose files and folders are believed, and what is said of the
// others.
func TestDistrust(t *testing.T) {
	t.Parallel()
	const nobody = 54321 // has no name
	for _, c := range []struct {
		mode      fs.FileMode
		owner, me int
		want      string
	}{
		{0o644, 0, 0, ""},
		{0o644, 0, nobody, ""}, // a package's file, and the service
		{0o600, nobody, nobody, ""},
		{0o600, nobody, 0, "belongs to user 54321, who could take over the router: run chown root '/etc/a b'"},
		{fs.ModeDir | 0o755, nobody, nobody + 1, "belongs to user 54321, who could take over the router: run chown root '/etc/a b'"},
		{0o664, 0, 0, "can be written by group or others, who could take over the router: run chmod go-w '/etc/a b'"},
		{fs.ModeDir | fs.ModeSticky | 0o777, 0, 0, "can be written by group or others, who could take over the router: run chmod go-w '/etc/a b'"},
	} {
		if got := distrust(info{mode: c.mode, owner: c.owner}, "/etc/a b", c.me); got != c.want {
			t.Errorf("%v of %d, for %d: %q, want %q", c.mode, c.owner, c.me, got, c.want)
		}
	}
}

// info is what the kernel says of a file.
type info struct {
	fs.FileInfo
	mode  fs.FileMode
	owner int
}

func (i info) Mode() fs.FileMode { return i.mode }
func (i info) Sys() any          { return &syscall.Stat_t{Uid: uint32(i.owner)} }

// TestLoadOfOthers: what belongs to somebody else is not read.
func TestLoadOfOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const somebody = 54321
	for what, want := range map[string]string{
		"agent.toml":        "DIR/agent.toml: belongs to user 54321, who could take over the router: run chown root DIR/agent.toml",
		"agent.d":           "DIR/agent.d: belongs to user 54321, who could take over the router: run chown root DIR/agent.d",
		"agent.d/10-b.toml": "DIR/agent.d/10-b.toml: belongs to user 54321, who could take over the router: run chown root DIR/agent.d/10-b.toml",
	} {
		dir := folder(t, map[string]string{"agent.toml": oneUplink, "agent.d/10-b.toml": "uplink.dsl.weight = 2\n"})
		if err := os.Chown(filepath.Join(dir, what), somebody, -1); err != nil {
			t.Fatal(err)
		}
		_, err := Load(filepath.Join(dir, "agent.toml"))
		if err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want {
			t.Errorf("%s: %v", what, err)
		}
	}
}
