//go:build linux

package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// What the probes say when only a part of the internet answers, or somebody who
// should not.

// probing is a quick configuration with these targets, for IPv4 alone.
func probing(h *house, targets string) string {
	return rig.Probing(h.Topology, nil, fmt.Sprintf("[health]\nprofile = \"fast\"\nhold_down = \"0s\"\ntargets = [%s]\ntargets6 = []\n", targets))
}

// verdicts breaks one provider in some ways, and asserts what becomes of the
// uplink's IPv4.
func verdicts(t *testing.T, targets string, cases map[string]verdictCase) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
			h.Server.Resolve("probe.example", time.Minute, lab.InternetAddress)
			h.start(ctx, probing(h, targets))
			h.allUp(ctx, 5*time.Second)
			u := h.Uplinks[0]
			passes(ctx, 300*time.Millisecond)
			x := h.history(ctx)
			serves := func(uplinks []*lab.Uplink) {
				t.Helper()
				what := fmt.Sprintf("clients are on %v", names(uplinks))
				h.soon(ctx, 5*time.Second, what, func(ctx context.Context) string { return strings.Join(h.trySpread(ctx, uplinks, nil), "; ") })
				h.spread(ctx, what, uplinks, nil)
			}
			must(t, u.Provider.Break(c.faults...))
			if c.down {
				h.becomes(ctx, u, api.Down, 5*time.Second)
				serves(h.others(u))
				must(t, u.Provider.Break())
				h.becomes(ctx, u, api.Up, 5*time.Second)
				serves(h.Uplinks)
				x.stop()
				return
			}
			passes(ctx, 2*time.Second)
			calm(t, name, x.stop())
		})
	}
}

type verdictCase struct {
	faults []lab.Fault
	down   bool
}

// TestTargetsOfSeveralKinds: an uplink is well as long as anything answers
// (faults 33, 34 and 42).
func TestTargetsOfSeveralKinds(t *testing.T) {
	verdicts(t, `"icmp://1.1.1.1", "tcp://8.8.8.8:80", "dns://9.9.9.9/probe.example"`, map[string]verdictCase{
		"only ICMP is dropped":        {faults: []lab.Fault{{Protocol: unix.IPPROTO_ICMP}}},
		"only TCP is dropped":         {faults: []lab.Fault{{Protocol: unix.IPPROTO_TCP}}},
		"only UDP is dropped":         {faults: []lab.Fault{{Protocol: unix.IPPROTO_UDP}}},
		"only ICMP passes":            {faults: []lab.Fault{{Protocol: unix.IPPROTO_TCP}, {Protocol: unix.IPPROTO_UDP}}},
		"one target is dead":          {faults: []lab.Fault{{Far: lab.Targets[0]}}},
		"two targets are dead":        {faults: []lab.Fault{{Far: lab.Targets[0]}, {Far: lab.Targets[1]}}},
		"all targets are dead":        {faults: []lab.Fault{{Far: lab.Targets[0]}, {Far: lab.Targets[1]}, {Far: lab.Targets[2]}}, down: true},
		"nothing gets there":          {faults: []lab.Fault{{Way: lab.FromCustomer}}, down: true},
		"nothing comes back":          {faults: []lab.Fault{{Way: lab.ToCustomer}}, down: true},
		"no protocol of probes works": {faults: []lab.Fault{{Protocol: unix.IPPROTO_ICMP}, {Protocol: unix.IPPROTO_TCP}, {Protocol: unix.IPPROTO_UDP}}, down: true},
	})
}

// TestDNSTargets: where only the DNS counts, only the DNS counts.
func TestDNSTargets(t *testing.T) {
	verdicts(t, `"dns://9.9.9.9/probe.example", "dns://8.8.8.8/probe.example"`, map[string]verdictCase{
		"only DNS is broken":  {faults: []lab.Fault{{Protocol: unix.IPPROTO_UDP, Port: lab.PortDNS}}, down: true},
		"only ICMP is broken": {faults: []lab.Fault{{Protocol: unix.IPPROTO_ICMP}}},
	})
}

// TestTargetsDeadEverywhere: targets that answer by no uplink are not the
// uplinks' fault (fault 42).
func TestTargetsDeadEverywhere(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	b := h.bystanders(ctx, h.Uplinks...)
	x := h.history(ctx)
	var faults []lab.Fault
	for _, a := range append(lab.Targets, lab.Targets6...) {
		faults = append(faults, lab.Fault{Far: a})
		for _, u := range h.Uplinks {
			must(t, u.Provider.Break(faults...))
		}
		passes(ctx, 500*time.Millisecond)
	}
	passes(ctx, 2*time.Second)
	calm(t, "all targets dead, with traffic", x.so())
	b.check()
	passes(ctx, 3*time.Second) // without replies that excuse lost probes
	calm(t, "all targets dead", x.so())
	for _, u := range h.Uplinks {
		must(t, u.Provider.Break())
	}
	passes(ctx, time.Second)
	calm(t, "targets back", x.stop())
	h.carry(ctx, h.Uplinks, 15*time.Second) // one that was called degraded meanwhile, too
	h.spread(ctx, "targets back", h.Uplinks, h.Uplinks)
}

// TestCaptivePortal: somebody answers everything, and it is not the internet
// (fault 40).
func TestCaptivePortal(t *testing.T) {
	for name, target := range map[string]string{
		"status by address": `"http://198.51.100.1:8080/generate_204 status=204"`,
		"status by name":    `"http://probe.example:8080/generate_204 status=204"`,
		"text":              `"http://198.51.100.1:8080/ text=24.19.12.45"`, // the server's page names who asks
	} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
			h.Server.Resolve("probe.example", time.Minute, lab.InternetAddress)
			u := h.Uplinks[1]
			text := fmt.Sprintf("%s[router]\nlan = [%q]\n", rig.LinksOnly, h.LAN)
			for _, o := range h.Uplinks {
				text += fmt.Sprintf("[uplink.%s]\ninterface = %q\ngateway = %q\ngateway6 = \"off\"\ndns = [%q]\n", o.Name, o.Interface, o.Gateway, o.DNS)
			}
			text += fmt.Sprintf("[uplink.%s.health]\nprofile = \"fast\"\nhold_down = \"0s\"\ntargets = [%s]\n", u.Name, target)
			h.start(ctx, text)
			h.allUp(ctx, 5*time.Second)
			x := h.history(ctx)
			passes(ctx, time.Second)
			calm(t, "no portal", x.stop())
			portal, err := u.Provider.Portal()
			must(t, err)
			s := h.becomes(ctx, u, api.Down, 5*time.Second)
			if s.Reason != nil {
				t.Logf("reason: %s", *s.Reason)
			}
			portal.Server.Answer(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "<html>Welcome to the hotel</html>")
			})
			x = h.history(ctx)
			passes(ctx, time.Second)
			if changes := x.stop(); len(changes) > 0 {
				t.Errorf("a page of the portal: %v", changes)
			}
			must(t, portal.Close())
			h.becomes(ctx, u, api.Up, 10*time.Second)
		})
	}
}

// TestForgedAnswers: an attacker at the provider cannot keep a dead uplink
// alive, nor bring it back (fault 41).
func TestForgedAnswers(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	h.start(ctx, rig.Probing(h.Topology, nil, "[health]\nprofile = \"fast\"\nhold_down = \"0s\"\n"))
	h.allUp(ctx, 5*time.Second)
	u := h.Uplinks[0]
	liar, err := u.Provider.StartLiar()
	must(t, err)
	defer liar.Close()
	passes(ctx, time.Second) // it collects
	stream := h.udpOn(ctx, u, false)
	defer stream.Stop()
	liar.Lie()
	must(t, u.Provider.Blackhole(true))
	h.becomes(ctx, u, api.Down, 3*time.Second)
	h.carry(ctx, h.Uplinks[1:], 2*time.Second)
	x := h.history(ctx)
	passes(ctx, 3*time.Second)
	for _, c := range x.stop() {
		if c.state != api.Down {
			t.Errorf("forged answers were believed: %v", c)
		}
	}
	t.Logf("%d forged answers", liar.Lies())
	if liar.Lies() < 100 {
		t.Errorf("only %d forged answers", liar.Lies())
	}
	must(t, u.Provider.Blackhole(false))
	h.becomes(ctx, u, api.Up, 5*time.Second)
}

// TestNoWayOut: a single uplink never goes down by its probes alone: there is
// nothing better.
func TestNoWayOut(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{Uplinks: 1})
	h.start(ctx, rig.Probing(h.Topology, nil))
	h.allUp(ctx, 5*time.Second)
	x := h.history(ctx)
	stream := h.udpOn(ctx, h.Uplinks[0], false)
	must(t, h.Uplinks[0].Provider.Blackhole(true))
	passes(ctx, 2*time.Second)
	must(t, h.Uplinks[0].Provider.Blackhole(false))
	received := stream.Report().Received
	h.until(time.Second, "the stream goes on at once", func() bool { return stream.Report().Received > received+100 })
	calm(t, "the only uplink", x.stop())
	if r := stream.Stop(); len(r.Sources) != 1 {
		t.Errorf("the stream has moved: %v", r)
	}
}
