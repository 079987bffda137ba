// Package keep keeps values over restarts, as JSON files.
package keep

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// limit is the most that is read back, in bytes.
const limit = 32 << 20

// Save writes v to the file at path, for root only. A reader finds the old
// value or the new one, never a part, also after the machine has died.
func Save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := write(tmp, b); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	return nil
}

// write makes the file anew and returns when the disk has it.
func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// Load reads into v what Save wrote, and reports whether there was something
// to read. A missing or damaged file leaves v as it is: refusing to run would
// not bring it back.
func Load(path string, v any) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading what was saved: %w", err)
	}
	if info.Size() > limit {
		return false, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading what was saved: %w", err)
	}
	return json.Valid(b) && json.Unmarshal(b, v) == nil, nil
}
