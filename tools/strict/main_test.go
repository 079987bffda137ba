package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	const pass = `{"Action":"output","Package":"a","Test":"T","Output":"noise\n"}
{"Action":"pass","Package":"a","Test":"T"}
{"Action":"output","Package":"a","Output":"PASS\n"}
{"Action":"output","Package":"a","Output":"ok  \ta\t0.1s\n"}
{"Action":"pass","Package":"a"}
`
	for _, c := range []struct {
		name, in string
		status   int
		out      string
		err      string
	}{
		{"allowed", pass + `{"Action":"output","Package":"b","Test":"S","Output":"    s_test.go:3: no tun here\n"}
{"Action":"skip","Package":"b","Test":"S"}
`, 0, "ok  \ta\t0.1s\n1 packages, 1 tests passed, 1 skipped\n", "strict: skipped: b S: s_test.go:3: no tun here\n"},
		{"passed", pass, 0, "ok  \ta\t0.1s\n1 packages, 1 tests passed, 0 skipped\n", ""},
		{"text between events", "make: hello\n" + pass, 0, "make: hello\nok  \ta\t0.1s\n1 packages, 1 tests passed, 0 skipped\n", ""},
		{"skipped", pass + `{"Action":"output","Package":"b","Test":"S","Output":"=== RUN S\n"}
{"Action":"output","Package":"b","Test":"S","Output":"    s_test.go:3: no lab\n"}
{"Action":"output","Package":"b","Test":"S","Output":"--- SKIP: S (0.00s)\n"}
{"Action":"skip","Package":"b","Test":"S"}
`, 1, "ok  \ta\t0.1s\n1 packages, 1 tests passed, 1 skipped\n", "strict: skipped: b S: s_test.go:3: no lab\n"},
		{"failed", pass + `{"Action":"output","Package":"b","Test":"F","Output":"    f_test.go:7: wrong\n"}
{"Action":"output","Package":"b","Test":"F","Output":"noise\n"}
{"Action":"fail","Package":"b","Test":"F"}
{"Action":"output","Package":"b","Output":"FAIL\tb\t0.1s\n"}
{"Action":"fail","Package":"b"}
`, 1, "ok  \ta\t0.1s\n    f_test.go:7: wrong\nnoise\nFAIL\tb\t0.1s\n2 packages, 1 tests passed, 0 skipped\n", "strict: failed: b F\n\tf_test.go:7: wrong\n"},
		{"timeout", pass + `{"Action":"output","Package":"b","Test":"F","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"b"}
`, 1, "ok  \ta\t0.1s\npanic: test timed out\n2 packages, 1 tests passed, 0 skipped\n", ""},
		{"does not build", pass + `{"ImportPath":"b","Action":"build-output","Output":"b.go:1: syntax error\n"}
{"ImportPath":"b","Action":"build-fail"}
`, 1, "ok  \ta\t0.1s\nb.go:1: syntax error\n1 packages, 1 tests passed, 0 skipped\n", ""},
		{"nothing", "", 1, "0 packages, 0 tests passed, 0 skipped\n", "strict: no tests ran\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out, errOut strings.Builder
			if status := run("no tun", strings.NewReader(c.in), &out, &errOut); status != c.status || out.String() != c.out || errOut.String() != c.err {
				t.Errorf("status %d\n%s%s", status, &out, &errOut)
			}
		})
	}
}

// TestSaid: of many words of a failed test the last ones are told, which say what failed.
func TestSaid(t *testing.T) {
	t.Parallel()
	var output strings.Builder
	for i := range 2 * maxSaid {
		fmt.Fprintf(&output, "    f_test.go:%d: fine\nnoise\n", i)
	}
	output.WriteString("    f_test.go:99: wrong\n")
	got := said(output.String())
	if n := strings.Count(got, "\n\t"); n != maxSaid || !strings.HasSuffix(got, "\n\tf_test.go:99: wrong") || strings.Contains(got, "noise") {
		t.Errorf("%d lines: %s", n, got)
	}
}
