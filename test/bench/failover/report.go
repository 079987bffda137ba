//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the result of a run.
type report struct {
	Time   time.Time `json:"time"`
	Kernel string    `json:"kernel"`
	CPUs   int       `json:"cpus"`
	Rounds int       `json:"rounds"`
	Rows   []row     `json:"rows"`
	OK     bool      `json:"ok"`
}

// row is one measured thing. Values are milliseconds unless Unit says something else.
type row struct {
	Case    string    `json:"case"`
	What    string    `json:"what"`
	Unit    string    `json:"unit"`
	Median  float64   `json:"median"`
	P99     float64   `json:"p99"` // with fewer than 100 values: the largest
	Bound   float64   `json:"bound"`
	Middle  float64   `json:"median_bound,omitempty"` // for the median; 0: none
	OK      bool      `json:"ok"`
	Because string    `json:"because,omitempty"`
	Values  []float64 `json:"values"`
}

func newReport(rounds int) *report {
	r := &report{Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Rounds: rounds, OK: true}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

// add adds rows, and judges.
func (r *report) add(rows ...row) {
	for _, w := range rows {
		r.OK = r.OK && w.OK
		r.Rows = append(r.Rows, w)
	}
}

// times is a row of durations, with a bound for the 99th percentile and one for the median (0: none).
func times(name, what string, values []time.Duration, bound, middle time.Duration) row {
	var all []float64
	for _, v := range values {
		all = append(all, milliseconds(v))
	}
	return judged(row{Case: name, What: what, Unit: "ms", Values: all, Bound: milliseconds(bound), Middle: milliseconds(middle)})
}

// counted is a row of one number that may not be exceeded.
func counted(name, what, because string, value, bound int) row {
	return judged(row{Case: name, What: what, Values: []float64{float64(value)}, Bound: float64(bound), Because: because})
}

// judged completes a row. One without values has missed its bound.
func judged(w row) row {
	if len(w.Values) == 0 {
		return w
	}
	sorted := slices.Sorted(slices.Values(w.Values))
	w.Median, w.P99 = sorted[len(sorted)/2], sorted[(len(sorted)*99-1)/100]
	w.OK = w.P99 <= w.Bound && (w.Middle == 0 || w.Median <= w.Middle)
	return w
}

// String prints the table.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d CPUs, %d rounds of each case.\n\n%-44s %-24s %10s %10s    %s\n", r.Kernel, r.CPUs, r.Rounds, "", "", "median", "p99 / max", "bound")
	last := ""
	for _, w := range r.Rows {
		name, word := w.Case, "missed"
		if name == last {
			name = ""
		}
		last = w.Case
		if w.OK {
			word = "ok"
		}
		bound := fmt.Sprintf("<= %.0f", w.Bound)
		if w.Middle != 0 {
			bound += fmt.Sprintf(", median <= %.0f", w.Middle)
		}
		fmt.Fprintf(&b, "%-44s %-24s %10.1f %10.1f %-2s %-24s %-6s %s\n", name, w.What, w.Median, w.P99, w.Unit, bound, word, w.Because)
	}
	return b.String()
}

// save writes the report as JSON.
func (r *report) save(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
