package probe

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/test/lab"
)

// named is a target that is known by name.
func named(scheme config.Scheme, host string, port uint16) config.Target {
	return config.Target{Text: host, Scheme: scheme, Host: host, Port: port, Name: "www.example.org"}
}

// Names are resolved by the uplink's own servers, through the uplink: nobody else
// can reach them.
func TestNamesAreResolvedThroughTheUplink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	w.Server.Resolve("target.example.org", time.Minute, lab.InternetAddress, lab.InternetAddress6)
	w.Server.Resolve("four.example.org", time.Minute, lab.InternetAddress)
	for _, u := range w.Uplinks {
		for _, family := range families {
			before := w.Server.Queries("target.example.org")
			p := w.open(t, u, family,
				named(config.ICMP, "target.example.org", 0),
				named(config.TCP, "target.example.org.", lab.PortDiscard),
				named(config.DNS, "target.example.org", 53))
			for range 10 {
				p.answered(t, 0)
				p.answered(t, 1)
				p.answered(t, 2)
			}
			p.quiet(t)
			if n := w.Server.Queries("target.example.org") - before; n != 3 {
				t.Errorf("%s %s: the name was asked for %d times, want once for each target", u.Name, family, n)
			}
			if family == families[1] {
				p = w.open(t, u, family, named(config.ICMP, "four.example.org", 0), named(config.TCP, "missing.example.org", 80))
				for i := range 2 {
					if r := p.wait(t, p.send(i, patience)); r.Err == nil {
						t.Errorf("%s: a target without address answered", u.Name)
					}
				}
			}
		}
	}
	if err := w.Leaks(); err != nil {
		t.Error(err)
	}
}

// The other provider's servers cannot be reached.
func TestNamesNeedTheUplinksServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	w.Server.Resolve("target.example.org", time.Minute, lab.InternetAddress)
	path := w.path(t, w.Uplinks[1], families[0])
	path.DNS = []netip.Addr{w.Uplinks[0].DNS}
	p := w.openPath(t, "cable", families[0], path, named(config.ICMP, "target.example.org", 0))
	before := w.Server.Queries("target.example.org")
	if r := p.wait(t, p.send(0, patience)); r.Err == nil {
		t.Error("the name was resolved")
	}
	if n := w.Server.Queries("target.example.org"); n != before {
		t.Errorf("the other uplink's server was asked %d times", n-before)
	}
}

// One of two servers is enough.
func TestSecondServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	w.Server.Resolve("target.example.org", time.Minute, lab.InternetAddress)
	path := w.path(t, w.Uplinks[1], families[0])
	for _, servers := range [][]netip.Addr{{w.Uplinks[0].DNS, w.Uplinks[1].DNS}, {w.Uplinks[1].DNS, w.Uplinks[0].DNS}} {
		path.DNS = servers
		w.openPath(t, "cable", families[0], path, named(config.ICMP, "target.example.org", 0)).answered(t, 0)
	}
}

// The options of a leg that cannot be probed are an error at once.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	good := w.path(t, w.Uplinks[0], families[0])
	bad := good
	bad.Source = lab.InternetAddress
	gone := good
	gone.Index = 999999
	for name, c := range map[string]struct {
		path   health.Path
		target config.Target
		want   error
	}{
		"an address that is not ours": {bad, icmpTarget(lab.InternetAddress), unix.EADDRNOTAVAIL},
		"an interface that is gone":   {gone, gatewayTarget, unix.ENODEV},
		"another family":              {good, icmpTarget(lab.InternetAddress6), nil},
		"no host":                     {good, config.Target{Scheme: config.TCP, Port: 80}, nil},
	} {
		opener := Opener(Options{Random: rand.Reader, enter: w.Router.Do})
		_, err := opener(health.Leg{Uplink: "dsl", Family: families[0]}, c.path, []config.Target{c.target}, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}
