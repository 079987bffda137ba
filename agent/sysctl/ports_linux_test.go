package sysctl

import (
	"fmt"
	"testing"

	"multiroute/test/lab"
)

// TestPortsOfKernel: the real kernel's text is understood, also where it is
// longer than a page, and a change is seen by what is kept open.
func TestPortsOfKernel(t *testing.T) {
	ns, err := lab.NewNS("ports")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(ns.Close)
	files := &Files{}
	defer files.Close()
	s := Store{Root: "/proc/sys", Files: files}
	for _, c := range []struct {
		list  string
		first uint16
		want  int    // ranges
		last  uint16 // port
	}{
		{"", 32768, 0, 0},
		{"51821,40000,40001-40005", 1024, 2, 51821},
		{everySecond(600), 40000, 600, 31198}, // 3,600 bytes
		{"1000-9999," + everySecond(800), 40000, 801, 31598},
		{"", 32768, 0, 0},
	} {
		if err := ns.Sysctl(reservedPorts, c.list+"\n"); err != nil {
			t.Fatal(err)
		}
		if err := ns.Sysctl(portRange, fmt.Sprintf("%d 65535", c.first)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // by the path, by the open file
			var got Ports
			if err := ns.Do(func() (err error) { got, err = s.Ports(); return err }); err != nil {
				t.Fatal(err)
			}
			if got.First != c.first || len(got.Reserved) != c.want || c.want > 0 && got.Reserved[c.want-1].Hi != c.last {
				t.Errorf("%.20q: from %d, %d ranges, the last ones %v", c.list, got.First, len(got.Reserved), got.Reserved[max(0, len(got.Reserved)-3):])
			}
		}
	}
}
