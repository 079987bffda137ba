package nat

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
)

// TestCountersStay: what was counted outlives changes of rules, and counters go
// with the last rule that counts in them.
func TestCountersStay(t *testing.T) {
	needNFT(t)
	k := newKernel(t)
	k.nft("add table inet multiroute\nadd counter inet multiroute down-1-dsl { packets 5 bytes 500; }\nadd counter inet multiroute theirs")
	counted := func(want ...string) {
		t.Helper()
		var got map[string]Count
		if err := k.ns.Do(func() (err error) { got, err = k.table.Counters(); return err }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
			t.Errorf("counters (-want +got)\n%s", diff)
		}
		if slices.Contains(want, "down-1-dsl") && got["down-1-dsl"] != (Count{Packets: 5, Bytes: 500}) {
			t.Errorf("counted %v", got)
		}
	}
	spec := find("counted")
	k.write(Compile(spec))
	counted("down-1-dsl", "down-3-lte", "up-1-dsl", "up-3-lte")
	k.write(Compile(changed(spec, func(s *Spec) { s.Guard, s.Uplinks[0].Source = false, addrs("198.18.1.2") })))
	counted("down-1-dsl", "down-3-lte", "up-1-dsl", "up-3-lte")
	k.write(Compile(find("counted-other")))
	counted("down-1-dsl", "down-2-cable", "up-1-dsl", "up-2-cable")
	if got := k.read().Uplinks(); len(got) != 3 || got[0].Interface != "eth1" || len(got[0].Gateways) != 2 {
		t.Errorf("a restarted agent reads %+v", got)
	}
	k.nft("flush chain inet multiroute mark-1-dsl")
	k.write(Compile(find("counted-other")))
	counted("down-1-dsl", "down-2-cable", "up-1-dsl", "up-2-cable")
	k.write(Compile(find("three-on-one")))
	counted()
}

// TestCountersMalformed: what is no counter of ours is none.
func TestCountersMalformed(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "\x01\x00\x00\x00\x05", "\x01\x00\x00\x00\x03\x00\x04\x00"} {
		if got, err := decodeCounters([]netlink.Message{{Data: []byte(data)}}); err == nil {
			t.Errorf("%q: %v", data, got)
		}
	}
}
