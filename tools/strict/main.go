// Strict reads what "go test -json" prints and writes what "go test" would have written. Its exit status is 1 if a test failed, and also if one
// was skipped: a test that does not run says nothing.
//
//	go test -json ./... | go run ./tools/strict [-allow REASON]
//
// A test may be skipped if its own words contain REASON; it is listed all the same.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	allow := flag.String("allow", "", "tests may be skipped for this `reason`")
	flag.Parse()
	os.Exit(run(*allow, os.Stdin, os.Stdout, os.Stderr))
}

// event is a line of test2json (go doc cmd/test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// key is one test.
type key struct{ pkg, test string }

type report struct {
	out      io.Writer
	running  map[key]*strings.Builder // what each unfinished test has printed
	passed   int                      // tests
	packages int                      // finished
	failed   bool                     // or skipped without leave
	skipped  []string
	failures []string // tests that failed, and where they say why
	allow    string   // why a test may be skipped; empty: for no reason
}

func run(allow string, in io.Reader, out, errOut io.Writer) int {
	r := report{out: out, allow: allow, running: map[key]*strings.Builder{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Fprintln(errOut, "strict: reading the results:", err)
			return 1
		}
	}
	fmt.Fprintf(out, "%d packages, %d tests passed, %d skipped\n", r.packages, r.passed, len(r.skipped))
	for _, f := range r.failures {
		fmt.Fprintf(errOut, "strict: failed: %s\n", f)
	}
	for _, s := range r.skipped {
		fmt.Fprintf(errOut, "strict: skipped: %s\n", s)
	}
	if r.packages == 0 || r.passed == 0 {
		fmt.Fprintln(errOut, "strict: no tests ran")
		return 1
	}
	if r.failed {
		return 1
	}
	return 0
}

// line takes one line, which is an event or something that another program wrote.
func (r *report) line(line []byte) {
	var e event
	if line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
		_, _ = r.out.Write(line)
		return
	}
	if e.Test == "" {
		r.pkg(e)
		return
	}
	k := key{e.Package, e.Test}
	if r.running[k] == nil {
		r.running[k] = &strings.Builder{}
	}
	switch e.Action {
	case "output":
		r.running[k].WriteString(e.Output)
		return
	case "pass":
		r.passed++
	case "fail":
		r.failed = true
		fmt.Fprint(r.out, r.running[k])
		r.failures = append(r.failures, fmt.Sprintf("%s %s%s", e.Package, e.Test, said(r.running[k].String())))
	case "skip":
		why := reason(r.running[k].String())
		r.skipped = append(r.skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, why))
		if r.allow == "" || !strings.Contains(why, r.allow) {
			r.failed = true
		}
	default: // run, pause, cont
		return
	}
	delete(r.running, k)
}

// pkg takes an event of a whole package, or of a build.
func (r *report) pkg(e event) {
	switch e.Action {
	case "output", "build-output":
		if e.Output != "PASS\n" {
			fmt.Fprint(r.out, e.Output)
		}
	case "build-fail":
		r.failed = true
	case "pass":
		r.packages++
	case "fail":
		r.packages++
		r.failed = true
		var unfinished []string // a panic or the timeout ended them
		for k, text := range r.running {
			if k.pkg == e.Package {
				unfinished = append(unfinished, text.String())
				delete(r.running, k)
			}
		}
		slices.Sort(unfinished)
		fmt.Fprint(r.out, strings.Join(unfinished, ""))
	}
}

// reason is why a test was skipped, in its own words.
func reason(output string) string {
	var words []string
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			words = append(words, line)
		}
	}
	return strings.Join(words, " ")
}

// saying is a line that begins with a place in a test.
var saying = regexp.MustCompile(`^\s*\S+\.(go|txtar):\d+: `)

// maxSaid is how many lines of a failed test are said again at the end: the last
// ones, since what failed comes after what went well.
const maxSaid = 20

// said is what a failed test says itself, without what its programs wrote: it is
// found at the end of a log of which the beginning is lost.
func said(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		if saying.MatchString(line) {
			lines = append(lines, "\n\t"+strings.TrimSpace(line))
		}
	}
	return strings.Join(lines[max(0, len(lines)-maxSaid):], "")
}
