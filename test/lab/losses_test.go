//go:build linux

package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestLosses: a packet for nobody is counted where it arrived.
func TestLosses(t *testing.T) {
	t.Parallel()
	lab := plain(t, NewRouter, Options{})
	c, err := lab.Router.DialUDP(Socket{Device: lab.Uplinks[0].Interface}, netip.AddrPortFrom(InternetAddress, 9999))
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("?"))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(lab.Losses())
		}
	})
	until(t, "the loss is counted", func() bool {
		_, internet, _ := strings.Cut(lab.Losses(), "internet: ")
		internet, _, _ = strings.Cut(internet, ";") // a busy kernel may count something else beside it
		return slices.Contains(strings.Fields(internet), "Udp.NoPorts=1")
	})
	for _, where := range []string{"client 1: ", "router: ", "dsl: ", "cable: "} {
		if !strings.Contains(lab.Losses(), where) {
			t.Errorf("%q is not in: %s", where, lab.Losses())
		}
	}
}
