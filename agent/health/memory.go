package health

import "time"

// Memory is what is kept of a leg over a restart. It is a value that encodes to
// JSON; the owner writes it to a file.
type Memory struct {
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"`   // not up before
	Flaps   int       `json:"flaps,omitempty"`  // how often it went down of late
	Decayed time.Time `json:"decayed,omitzero"` // when Flaps was last taken back by one
}
