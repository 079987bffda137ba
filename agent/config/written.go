package config

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Written is a configuration as it is written: its files with their texts, in
// reading order. It is a value; as JSON it can be kept and parsed again.
type Written struct{ sources []source }

// Read reads the files that Load would read. What cannot be read is a mistake
// that Parse reports.
func Read(path string) Written { return Written{read(path)} }

// Size is how many bytes there are to parse.
func (w Written) Size() int {
	n := 0
	for _, s := range w.sources {
		n += len(s.text)
	}
	return n
}

// Parse makes a Config of it, as Load does.
func (w Written) Parse() (*Config, error) { return parse(w.sources) }

// Equal reports whether both are the same files with the same texts.
func (w Written) Equal(o Written) bool {
	return slices.EqualFunc(w.sources, o.sources, func(a, b source) bool {
		return a.name == b.name && a.fault == b.fault && bytes.Equal(a.text, b.text)
	})
}

// writtenFile is a file in JSON.
type writtenFile struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
}

// MarshalJSON writes the files that could be read.
func (w Written) MarshalJSON() ([]byte, error) {
	files := []writtenFile{}
	for _, s := range w.sources {
		if s.fault == "" {
			files = append(files, writtenFile{s.name, s.text})
		}
	}
	return json.Marshal(files)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (w *Written) UnmarshalJSON(b []byte) error {
	var files []writtenFile
	if err := json.Unmarshal(b, &files); err != nil {
		return err
	}
	w.sources = nil
	for _, f := range files {
		w.sources = append(w.sources, source{name: f.Name, text: f.Text})
	}
	return nil
}
