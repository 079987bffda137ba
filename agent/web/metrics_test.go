package web

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// exported gathers what is exported of the sample, as text.
func exported(t *testing.T, n *Snapshot) string {
	t.Helper()
	w := get(t, served(t, n), "/metrics")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatal(w.Code, w.Header())
	}
	return w.Body.String()
}

// TestMetrics: everything that is described is exported, with these labels, and
// nothing else.
func TestMetrics(t *testing.T) {
	t.Parallel()
	var latest atomic.Pointer[Snapshot]
	latest.Store(sample())
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(newCollector("test", &latest)); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]Metric{}
	for _, m := range Metrics() {
		described[m.Name] = m
	}
	for _, f := range families {
		m, ok := described[f.GetName()]
		if !ok {
			t.Errorf("%s is not described", f.GetName())
		}
		delete(described, f.GetName())
		if kind := strings.ToLower(f.GetType().String()); kind != m.Type || f.GetHelp() != m.Help {
			t.Errorf("%s is a %s", m.Name, kind)
		}
		want := slices.Sorted(slices.Values(m.Labels))
		for _, one := range f.Metric {
			var labels []string
			for _, l := range one.Label {
				labels = append(labels, l.GetName())
			}
			if !slices.Equal(labels, want) {
				t.Errorf("%s has labels %q, want %q", m.Name, labels, want)
			}
		}
	}
	for name := range described {
		t.Errorf("%s is not exported", name)
	}
}

func TestMetricValues(t *testing.T) {
	t.Parallel()
	text := exported(t, sample())
	for _, line := range []string{
		`multiroute_ready 1`,
		`multiroute_uplink_state{state="up",uplink="dsl"} 1`,
		`multiroute_uplink_state{state="down",uplink="dsl"} 0`,
		`multiroute_uplink_state{state="down",uplink="cable"} 1`,
		`multiroute_uplink_up{uplink="cable"} 0`,
		`multiroute_uplink_rtt_seconds{family="ipv4",uplink="dsl"} 0.0123`,
		`multiroute_uplink_loss_ratio{family="ipv4",uplink="cable"} 1`,
		`multiroute_uplink_transitions_total{cause="probes",state="down",uplink="cable"} 1`,
		`multiroute_uplink_receive_bytes_total{uplink="dsl"} 1e+06`,
		`multiroute_uplink_connections{uplink="dsl"} 42`,
		`multiroute_policy_usable{policy="voice"} 0`,
		`multiroute_failover_duration_seconds_bucket{le="0.5"} 0`,
		`multiroute_failover_duration_seconds_bucket{le="0.7"} 1`,
		`multiroute_failover_duration_seconds_bucket{le="+Inf"} 2`,
		`multiroute_failover_duration_seconds_sum 60.6`,
		`multiroute_reloads_total{result="invalid"} 2`,
		`multiroute_kernel_writes_total{part="nftables"} 2`,
		`multiroute_conntrack_entries_limit 65536`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
	for _, name := range []string{`family="ipv6"`, "uplink_rtt_seconds{family=\"ipv4\",uplink=\"cable\"", "receive_bytes_total{uplink=\"cable\"}"} {
		if strings.Contains(text, name) {
			t.Errorf("%s is there, and nothing is known of it", name)
		}
	}
	for _, name := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
	// Before the first look.
	if text := exported(t, nil); !strings.Contains(text, "\nmultiroute_ready 0\n") || strings.Contains(text, "uplink") {
		t.Errorf("before the first snapshot:\n%s", text)
	}
}

// TestLint: Prometheus's own opinion of names and units.
func TestLint(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool (on Debian: apt-get install prometheus)")
	}
	path := filepath.Join(t.TempDir(), "metrics")
	text := exported(t, sample())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, prefix) {
			t.Error(line)
		}
	}
	if cmd.ProcessState.ExitCode() == 1 { // 3 is an opinion, which may be about Go's own metrics
		t.Errorf("promtool cannot read the metrics: %v\n%s", err, out)
	}
	t.Logf("%v\n%s", err, out)
}
