package keep

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "value.json")
	got := map[string]int{"untouched": 1}
	if ok, err := Load(path, &got); ok || err != nil || got["untouched"] != 1 {
		t.Errorf("missing file: %v, %v, %v", ok, err, got)
	}
	if err := Save(path, map[string]int{"a": 7}); err != nil {
		t.Fatal(err)
	}
	if ok, err := Load(path, &got); !ok || err != nil || got["a"] != 7 {
		t.Errorf("saved file: %v, %v, %v", ok, err, got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is not for root only: %v, %v", info.Mode(), err)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "cut": `{"a": 7`, "of another type": `["a"]`, "huge": `{"a": 7}` + strings.Repeat(" ", limit),
	} {
		path := filepath.Join(t.TempDir(), "value.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		if ok, err := Load(path, &got); ok || err != nil || len(got) != 0 {
			t.Errorf("%s: %v, %v, %v", name, ok, err, got)
		}
	}
}

func TestNowhereToSave(t *testing.T) {
	t.Parallel()
	if err := Save(filepath.Join(t.TempDir(), "missing", "value.json"), 1); err == nil || !strings.Contains(err.Error(), "value.json") {
		t.Errorf("no error that names the file: %v", err)
	}
}
