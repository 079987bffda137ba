package sysctl

import (
	"os"
	"testing"

	"multiroute/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// TestFiles: parameters that are kept open tell what the kernel holds now, of an interface
// that is gone nothing, and of another one with its name what that one has.
func TestFiles(t *testing.T) {
	ns, err := lab.NewNS("sysctl")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(ns.Close)
	const key = "net/ipv4/conf/eth0/rp_filter"
	want := []Setting{{Key: key, Value: "2"}, {Key: "net/ipv4/conf/lo/rp_filter", Value: "0"}}
	files := &Files{}
	defer files.Close()
	s := Store{Root: "/proc/sys", Files: files}
	check := func(have ...string) {
		t.Helper()
		for range 2 { // by the path, by the open file
			var wrong []Deviation
			err := ns.Do(func() (err error) { wrong, err = s.Check(want); return err })
			if err != nil || len(wrong) != len(have) || len(have) > 0 && wrong[0].Have != have[0] {
				t.Errorf("%v, %v; want %q", wrong, err, have)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	must(lab.Veth(ns, "eth0", ns, "far"))
	must(ns.Sysctl(key, "1"))
	check("1")
	must(ns.Sysctl(key, "2"))
	check()
	must(ns.Sysctl(key, "0"))
	check("0")
	link, err := ns.Link("eth0")
	must(err)
	must(ns.Handle().LinkDel(link))
	check()
	must(lab.Veth(ns, "eth0", ns, "far"))
	must(ns.Sysctl(key, "1"))
	check("1")
	if n := len(files.open); n != 2 {
		t.Errorf("%d files are open", n)
	}
}
