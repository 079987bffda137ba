package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// usual is how an uplink is probed if nothing is said about it.
func usual() Health {
	ping := func(text, addr string) Target {
		return Target{Text: text, Host: addr, Addr: netip.MustParseAddr(addr)}
	}
	return Health{
		Targets: []Target{ping("icmp://1.1.1.1", "1.1.1.1"), ping("icmp://8.8.8.8", "8.8.8.8"), ping("icmp://9.9.9.9", "9.9.9.9")},
		Targets6: []Target{
			ping("icmp://[2606:4700:4700::1111]", "2606:4700:4700::1111"),
			ping("icmp://[2001:4860:4860::8888]", "2001:4860:4860::8888"),
		},
		Interval: 500 * time.Millisecond, Timeout: time.Second, Floor: 200 * time.Millisecond, SuspectInterval: 100 * time.Millisecond,
		DownAfter: 5, UpAfter: 5, HoldDown: 10 * time.Second, DegradedLoss: 20,
	}
}

// checkHealthInvariants says what is wrong with h, if anything is.
func checkHealthInvariants(h *Health) string {
	const most = 10 * time.Minute
	switch {
	case h.Floor <= 0 || h.Timeout < h.Floor || h.Timeout > time.Minute:
		return "timeout"
	case h.SuspectInterval < 10*time.Millisecond || h.Interval < h.SuspectInterval || h.Interval > time.Hour:
		return "interval"
	case h.DownAfter < 1 || h.UpAfter < 1 || h.HoldDown < 0 || h.HoldDown > most:
		return "rounds"
	case h.DegradedLoss < 0 || h.DegradedLoss > 100 || h.DegradedLatency < 0:
		return "degraded"
	}
	for i, list := range [][]Target{h.Targets, h.Targets6} {
		if list != nil && len(list) == 0 || len(list) > 8 {
			return "length of a list"
		}
		for _, t := range list {
			web := t.Scheme == HTTP || t.Scheme == HTTPS
			switch {
			case t.Addr.IsValid() && (t.Addr.Is4() != (i == 0) || t.Addr.Is6() != (i == 1)):
				return "family"
			case (t.Host == "") != (t.Scheme == GatewayTarget) || t.Text == "":
				return "host"
			case (t.Port == 0) != (t.Scheme == ICMP || t.Scheme == GatewayTarget):
				return "port"
			case (t.Name != "") != (t.Scheme == DNS):
				return "name"
			case strings.HasPrefix(t.Path, "/") != web || strings.ContainsAny(t.Path, " \r\n\x00"):
				return "path"
			case !web && (t.Status != 0 || t.Body != "") || t.Status != 0 && (t.Status < 200 || t.Status > 599):
				return "expectation"
			}
		}
	}
	return ""
}

// TestLayers: defaults < profile < [health] < metered < profile of the uplink < keys of the uplink.
func TestLayers(t *testing.T) {
	t.Parallel()
	with := func(profile string, change func(h *Health)) Health {
		h, targets := profileNumbers(profile), usual()
		h.Targets, h.Targets6, h.DegradedLoss = targets.Targets, targets.Targets6, targets.DegradedLoss
		if change != nil {
			change(&h)
		}
		return h
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name, text string
		want       Health
	}{
		{"nothing said", "", with("normal", nil)},
		{"[health] alone", "[health]\n", with("normal", nil)},
		{"profile for all", "[health]\nprofile = 'fast'\n", with("fast", nil)},
		{"keys win over the profile beside them", "[health]\ninterval = '120ms'\nprofile = 'fast'\nup_after = 2\n",
			with("fast", func(h *Health) { h.Interval, h.UpAfter = 120*ms, 2 })},
		{"a key of the uplink wins", "[health]\ninterval = '120ms'\ntimeout = '2s'\n[uplink.x.health]\ninterval = '130ms'\n",
			with("normal", func(h *Health) { h.Interval, h.Timeout = 130*ms, 2*time.Second })},
		{"a profile of the uplink wins over the keys for all", "[health]\ninterval = '120ms'\nhold_down = '1s'\n[uplink.x.health]\nprofile = 'normal'\n",
			with("normal", nil)},
		{"the keys of the uplink win over its profile", "[health]\ninterval = '120ms'\nhold_down = '1s'\n[uplink.x.health]\nprofile = 'fast'\nhold_down = '0s'\n",
			with("fast", func(h *Health) { h.HoldDown = 0 })},
		{"metered", "[uplink.x]\nmetered = true\n", with("metered", nil)},
		{"metered wins over the keys for all", "[health]\ninterval = '120ms'\nprofile = 'fast'\n[uplink.x]\nmetered = true\n", with("metered", nil)},
		{"a profile wins over metered", "[uplink.x]\nmetered = true\nhealth.profile = 'fast'\n", with("fast", nil)},
		{"the keys of the uplink win over metered", "[uplink.x]\nmetered = true\nhealth.interval = '20s'\n",
			with("metered", func(h *Health) { h.Interval = 20 * time.Second })},
		{"what no profile sets is not reset by one", "[health]\ndegraded_loss = 7\ndegraded_latency = '90ms'\ntargets6 = []\n[uplink.x.health]\nprofile = 'metered'\n",
			with("metered", func(h *Health) { h.DegradedLoss, h.DegradedLatency, h.Targets6 = 7, 90*ms, nil })},
		{"the uplink's own", "[health]\ndegraded_loss = 7\ndegraded_latency = '90ms'\ntargets6 = []\n" +
			"[uplink.x.health]\ndegraded_loss = 0\ndegraded_latency = '0s'\ntargets = []\ntargets6 = ['gateway']\n",
			with("normal", func(h *Health) {
				h.DegradedLoss, h.Targets, h.Targets6 = 0, nil, []Target{{Text: "gateway", Scheme: GatewayTarget}}
			})},
		{"every key", "[uplink.x.health]\ninterval = '1s'\ntimeout = '3s'\nsuspect_interval = '150ms'\ndown_after = 3\nup_after = 9\nhold_down = '1m'\n",
			with("normal", func(h *Health) {
				h.Interval, h.Timeout, h.SuspectInterval, h.DownAfter, h.UpAfter, h.HoldDown = time.Second, 3*time.Second, 150*ms, 3, 9, time.Minute
			})},
		{"a gateway for all, and none here", "[health]\ntargets = ['gateway', 'icmp://1.1.1.1']\ntargets6 = ['gateway']\n[uplink.x]\ngateway = 'none'\ngateway6 = 'none'\n",
			with("normal", func(h *Health) { h.Targets, h.Targets6 = h.Targets[:1], nil })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := must(t, "[uplink.x]\ninterface = 'eth1'\n", "[uplink.other]\ninterface = 'eth2'\n", tt.text)
			if diff := cmp.Diff(tt.want, cfg.Uplink("x").Health, netipEqual...); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// What one uplink inherits is its own: nothing done to it reaches another.
func TestHealthIsNotShared(t *testing.T) {
	t.Parallel()
	const two = "[uplink.a]\ninterface = 'eth1'\n[uplink.b]\ninterface = 'eth2'\n"
	cfg := must(t, two)
	cfg.Uplink("a").Health.Targets[0] = Target{}
	for _, h := range []Health{cfg.Uplink("b").Health, must(t, two).Uplink("a").Health} {
		if diff := cmp.Diff(usual(), h, netipEqual...); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

// The contract names the numbers of the profile "normal" as defaults.
func TestProfileNormal(t *testing.T) {
	t.Parallel()
	n, s := profileNumbers("normal"), contractSpec().children["health"].children
	got := Health{
		Interval: s["interval"].def.(time.Duration), Timeout: s["timeout"].def.(time.Duration), Floor: n.Floor,
		SuspectInterval: s["suspect_interval"].def.(time.Duration),
		DownAfter:       s["down_after"].def.(int), UpAfter: s["up_after"].def.(int), HoldDown: s["hold_down"].def.(time.Duration),
	}
	if diff := cmp.Diff(n, got); diff != "" {
		t.Errorf("(-profile +contract)\n%s", diff)
	}
}
