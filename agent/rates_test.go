package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/web"
)

func TestRates(t *testing.T) {
	t.Parallel()
	start := time.Now()
	link := func(index int, rx, tx uint64) map[string]carried {
		return map[string]carried{"a": {index, web.Traffic{InBytes: rx, OutBytes: tx}}}
	}
	looks := []struct {
		name  string
		after time.Duration // the start
		links map[string]carried
		want  map[string]bitsPerSecond
	}{
		{name: "the first", links: link(3, 1000, 10), want: map[string]bitsPerSecond{}},
		{name: "too early", after: 800 * time.Millisecond, links: link(3, 1500, 10), want: map[string]bitsPerSecond{}},
		{name: "a second", after: time.Second, links: link(3, 2000, 10), want: map[string]bitsPerSecond{"a": {rx: 8000}}},
		{name: "too early: the old rate", after: 1500 * time.Millisecond, links: link(3, 9000, 10), want: map[string]bitsPerSecond{"a": {rx: 8000}}},
		{name: "late", after: 6 * time.Second, links: link(3, 12000, 5010), want: map[string]bitsPerSecond{"a": {rx: 16000, tx: 8000}}},
		{name: "the clock went back", after: time.Second, links: link(3, 0, 0), want: map[string]bitsPerSecond{"a": {rx: 16000, tx: 8000}}},
		{name: "counters began anew", after: 7 * time.Second, links: link(3, 0, 6000), want: map[string]bitsPerSecond{}},
		{name: "another interface", after: 8 * time.Second, links: link(4, 5000, 9000), want: map[string]bitsPerSecond{}},
		{name: "gone", after: 9 * time.Second, want: map[string]bitsPerSecond{}},
		{name: "back", after: 10 * time.Second, links: link(4, 5000, 9000), want: map[string]bitsPerSecond{}},
	}
	var r rates
	for _, l := range looks {
		r.see(start.Add(l.after), l.links)
		if diff := cmp.Diff(l.want, r.newest, cmp.AllowUnexported(bitsPerSecond{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", l.name, diff)
		}
	}
}
