package nat

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A packet that is on its way through a chain while the rules change still
// finds what the old rules look up: the kernel ends the elements of maps at
// once, while packets are among the rules that lead to them. Many rules before
// the map make the way long; what misses the map is dropped, and its sender
// told.
func TestPacketsAmidChange(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	version := func(n int) Ruleset {
		var rules []Rule
		for port := range 1000 {
			rules = append(rules, Rule{Match{Field: DestPort, Values: []Value{{Text: fmt.Sprint(20000 + port), Raw: port16(20000 + uint16(port))}}}, Verdict{Kind: Drop}})
		}
		known := Map{Field: PacketMark, Mask: 0xff000000, Entries: []MapEntry{{mark(0), Verdict{Kind: Accept}}, {mark(uint32(n+1) << 24), Verdict{Kind: Accept}}}}
		rules = append(rules, Rule{known}, Rule{Verdict{Kind: Drop}})
		return Ruleset{Chains: []Chain{{Name: "out", Type: Filter, Hook: Output, Priority: priorityFilter, Rules: rules}}}
	}
	k.write(version(0))

	var sent, lost atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	err := k.ns.Do(func() error {
		if err := k.ns.Up("lo"); err != nil {
			return err
		}
		c, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			return err
		}
		go func() {
			defer close(done)
			defer c.Close()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write([]byte("x")); errors.Is(err, unix.EPERM) {
					lost.Add(1)
				}
				sent.Add(1)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) || changes < 5; changes++ {
		k.write(version(changes % 2))
	}
	close(stop)
	<-done
	t.Logf("%d changes, %d packets, %d of them met neither the old rules nor the new ones", changes, sent.Load(), lost.Load())
	if lost.Load() > 0 || sent.Load() < 1000 {
		t.Fail()
	}
}
