package probe

import (
	"crypto/rand"
	"testing"
	"time"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/test/lab"
)

// What is collected late has the round trip time that it had, and nothing is
// told before it is collected.
func TestCollectedLate(t *testing.T) {
	t.Parallel()
	const wait = 500 * time.Millisecond
	w := newWorld(t, lab.NewRouter, lab.Options{})
	for _, family := range families {
		t.Run(family.String(), func(t *testing.T) {
			t.Parallel()
			told := make(chan health.Result, 9)
			opener := Opener(Options{Random: rand.Reader, enter: w.Router.Do})
			p, err := opener(health.Leg{Uplink: "cable", Family: family}, w.path(t, w.Uplinks[1], family),
				[]config.Target{icmpTarget(internet(family)), gatewayTarget}, func(r health.Result) { told <- r })
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			for i := range uint64(4) { // the first two find the neighbours
				p.Send(int(i%2), i, patience)
				<-time.After(wait)
				if len(told) > 0 {
					t.Fatal("told before it was collected")
				}
				p.Collect()
				if len(told) != 1 {
					t.Fatalf("%d results", len(told))
				}
				if r := <-told; r.Token != i || r.Err != nil || r.RTT <= 0 || i > 1 && r.RTT > wait/2 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}
