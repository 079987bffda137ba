// Package keep keeps small values over restarts, as JSON files in the folder of
// the control socket. That folder does not outlive a reboot, and nor should
// they.
package keep

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// limit is the most that is read back, in bytes.
const limit = 1 << 20

// Save writes v to the file at path, for root only. A reader finds the old
// value or the new one, never a part.
func Save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	return nil
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
