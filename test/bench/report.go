//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bound is a promise: a result is at least, or at most, a value.
type bound struct {
	result  string  // key in report.Values
	least   bool    // at least; else at most
	value   float64 // if minus is set: what to take from that result
	minus   string  // key of the result to compare with; "": value itself
	because string
}

// bounds are all promises.
var bounds = []bound{
	{"B established", true, 0.92, "", "2 uplinks, with guard"},
	{"B first", true, 0.80, "", "2 uplinks, with guard"},
	{"C established", true, 0.95, "", "2 uplinks, without guard"},
	{"D established", true, 0.05, "B established", "64 uplinks cost no more than 2"},
	{"D first", true, 0.05, "B first", "64 uplinks cost no more than 2"},
	{"start", false, 50, "", "ms until the kernel holds the wanted state, median"},
	{"memory", false, 25, "", "MB resident"},
	{"memory after reloads", false, 25, "", "MB resident after 100 reloads"},
	{"R1m first", true, 0.90, "", "1,000 rules from addresses, to one"},
	{"R2m first", true, 0.90, "", "1,000 rules to prefixes, to one"},
	{"R3m first", true, 0.90, "", "1,000 rules of ports, to one"},
	{"R1m established", true, 0.97, "", "rules cost known connections nothing"},
	{"R2m established", true, 0.97, "", "rules cost known connections nothing"},
	{"R3m established", true, 0.97, "", "rules cost known connections nothing"},
	{"list, loaded", false, 1000, "", "ms to load 100,000 prefixes, the whole reload"},
	{"list, one more, writing", false, 5, "", "ms to write one more, tidied up"},
	{"list, memory", false, 100, "", "MB resident with 100,000 prefixes"},
	{"list, memory at most", false, 100, "", "MB, after reloads"},
	{"writes on restart", false, 0, "", "messages: unchanged configuration, nothing to write"},
}

// report is the result of a run.
type report struct {
	Time     time.Time          `json:"time"`
	Kernel   string             `json:"kernel"`
	CPUs     int                `json:"cpus"`
	Rounds   int                `json:"rounds"`
	Variants []row              `json:"variants"`
	Rules    []row              `json:"rules"`  // compared with others of them
	Values   map[string]float64 `json:"values"` // what bounds are about
	Bounds   []verdict          `json:"bounds"`
	OK       bool               `json:"ok"`
}

// row is one variant.
type row struct {
	ID          string `json:"id"`
	What        string `json:"what"`
	Missing     string `json:"missing,omitempty"` // why there is nothing below
	Established ratio  `json:"established"`
	Replies     ratio  `json:"replies"`
	First       ratio  `json:"first"`
	// The same with ordinary sockets at both ends.
	SocketsEstablished ratio `json:"established_sockets"`
	SocketsFirst       ratio `json:"first_sockets"`

	Spread []int `json:"spread,omitempty"` // known connections per uplink
}

// ratio is packets per second compared with the first variant in the same round: the median of all rounds, and the quartiles.
type ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Nanos  int64   `json:"ns"` // time per packet, median
}

// verdict says whether a bound holds.
type verdict struct {
	Result  string  `json:"result"`
	Value   float64 `json:"value"`
	Least   bool    `json:"least"`
	Bound   float64 `json:"bound"`
	Because string  `json:"because"`
	Sockets float64 `json:"sockets,omitempty"` // the same result with ordinary sockets at both ends; no bound is about it
	OK      bool    `json:"ok"`
}

func newReport(e effort) *report {
	r := &report{Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Rounds: e.rounds, Values: map[string]float64{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

func (r *report) value(key string, v float64) { r.Values[key] = math.Round(v*1000) / 1000 }

// packets adds the variants' rows.
func (r *report) packets(all []*variant) {
	if v := all[0]; v.missing == "" {
		r.value("harness", middle(v.rounds, func(r round) samples { return r.bare }))
	}
	for _, v := range all {
		w := row{ID: v.id, What: v.what, Missing: v.missing}
		if v.missing == "" && len(all[0].rounds) == len(v.rounds) {
			w.Spread = v.track.spread
			w.Established = compare(all[0].rounds, v.rounds, func(r round) samples { return r.established })
			w.Replies = compare(all[0].rounds, v.rounds, func(r round) samples { return r.replies })
			w.First = compare(all[0].rounds, v.rounds, func(r round) samples { return r.first })
			w.SocketsEstablished = compare(all[0].rounds, v.rounds, func(r round) samples { return r.socketsEstablished })
			w.SocketsFirst = compare(all[0].rounds, v.rounds, func(r round) samples { return r.socketsFirst })
			r.value(v.id+" established, sockets", w.SocketsEstablished.Median)
			r.value(v.id+" first, sockets", w.SocketsFirst.Median)
			r.value(v.id+" established", w.Established.Median)
			r.value(v.id+" replies", w.Replies.Median)
			r.value(v.id+" first", w.First.Median)
		}
		r.Variants = append(r.Variants, w)
	}
}

// middle is the median time of a packet.
func middle(rounds []round, of func(round) samples) float64 {
	var times []float64
	for i := range rounds {
		times = append(times, of(rounds[i]).packet())
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// compare compares two variants round by round.
func compare(base, rounds []round, of func(round) samples) ratio {
	var ratios, times []float64
	for i := range rounds {
		t := of(rounds[i]).packet()
		ratios, times = append(ratios, of(base[i]).packet()/t), append(times, t)
	}
	slices.Sort(ratios)
	slices.Sort(times)
	n := len(ratios)
	return ratio{ratios[n/2], ratios[n/4], ratios[n-1-n/4], int64(times[n/2])}
}

// judge compares the results with the bounds. What was not measured is an error, unless only a part was asked for.
func (r *report) judge(part bool) {
	r.OK = true
	for _, b := range bounds {
		v, ok := r.Values[b.result]
		limit := b.value
		if b.minus != "" {
			other, known := r.Values[b.minus]
			limit, ok = math.Round((other-b.value)*1000)/1000, ok && known
		}
		if !ok && part {
			continue
		}
		holds := ok && (v == limit || (v > limit) == b.least)
		r.OK = r.OK && (holds || part)
		r.Bounds = append(r.Bounds, verdict{b.result, v, b.least, limit, b.because, r.Values[b.result+", sockets"], holds})
	}
}

// String prints the table.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d CPUs, %d rounds. Packets per second as a ratio to A, median (quartiles), and the time of a packet:\n\n", r.Kernel, r.CPUs, r.Rounds)
	fmt.Fprintf(&b, "   %-32s %-29s %-29s %-29s\n", "", "established", "replies", "first packets")
	for _, v := range r.Variants {
		if v.Missing != "" {
			fmt.Fprintf(&b, "%s  %-32s not measured: %s\n", v.ID, v.What, v.Missing)
			continue
		}
		fmt.Fprintf(&b, "%s  %-32s %-29s %-29s %-29s\n", v.ID, v.What, v.Established, v.Replies, v.First)
	}
	fmt.Fprintf(&b, "\nThe same with ordinary UDP sockets at both ends, a system call to send and one to receive each datagram:\n\n")
	fmt.Fprintf(&b, "   %-32s %-29s %-29s\n", "", "established, sockets", "first packets, sockets")
	for _, v := range r.Variants {
		if v.Missing == "" {
			fmt.Fprintf(&b, "%s  %-32s %-29s %-29s\n", v.ID, v.What, v.SocketsEstablished, v.SocketsFirst)
		}
	}
	if len(r.Rules) > 0 {
		fmt.Fprintf(&b, "\nWhat rules cost, 2 uplinks: as a ratio to no rules, and with many of a shape to one of it:\n\n")
		fmt.Fprintf(&b, "    %-32s %-29s %-29s\n", "", "established", "first packets")
		for _, v := range r.Rules {
			fmt.Fprintf(&b, "%-3s %-32s %-29s %-29s\n", v.ID, v.What, v.Established, v.First)
		}
	}
	fmt.Fprintf(&b, "\n   %-26s %10s    %s\n", "", "result", "bound")
	for _, v := range r.Bounds {
		word, relation := "missed", "<="
		if v.OK {
			word = "ok"
		}
		if v.Least {
			relation = ">="
		}
		sockets := ""
		if v.Sockets > 0 {
			sockets = fmt.Sprintf(" (sockets: %.3f)", v.Sockets)
		}
		fmt.Fprintf(&b, "   %-26s %10.3f %s %6.3f  %-6s  %s%s\n", v.Result, v.Value, relation, v.Bound, word, v.Because, sockets)
	}
	for _, other := range []struct{ key, what string }{
		{"start, slowest", "ms"},
		{"restart", "ms, median: nothing to write"},
		{"list, loaded, cpu", "ms of CPUs: what else runs here does not count"},
		{"list, loaded, writing", "ms of it to write rules"},
		{"list, loaded, writing, cpu", "ms of a CPU"},
		{"list, one more", "ms for a reload that adds one prefix"},
		{"list, one more, cpu", "ms of CPUs"},
		{"list, one more, writing, cpu", "ms of a CPU"},
		{"harness", "ns of every packet's time above: sending and dropping it, without a router"},
	} {
		if v, ok := r.Values[other.key]; ok {
			fmt.Fprintf(&b, "   %-26s %10.3f %19s %s\n", other.key, v, "", other.what)
		}
	}
	return b.String()
}

func (r ratio) String() string {
	return fmt.Sprintf("%.3f (%.3f-%.3f) %5d ns", r.Median, r.Low, r.High, r.Nanos)
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

// contains reports whether the letters hold this one.
func contains(letters, one string) bool { return strings.Contains(letters, one) }
