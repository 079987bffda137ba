package docs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"multiroute/agent/web"
)

// row is how metrics.md describes a metric.
func row(m web.Metric) string {
	labels := "-"
	if len(m.Labels) > 0 {
		labels = strings.Join(m.Labels, ", ")
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", m.Name, m.Type, labels, m.Help)
}

var table = regexp.MustCompile(`(?m)^(\| multiroute_.*\n)+`)

// TestMetrics: metrics.md describes what is exported, no more and no less.
func TestMetrics(t *testing.T) {
	const page = "docs/metrics.md"
	want := ""
	for _, m := range web.Metrics() {
		want += row(m)
	}
	text := read(t, page)
	if *update {
		text = table.ReplaceAllLiteralString(text, want)
		if err := os.WriteFile(filepath.Join(root, page), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.FindString(text); got != want {
		t.Errorf("%s says\n%s\nwant (go test ./docs -update)\n%s", page, got, want)
	}
}

var metricName = regexp.MustCompile(`multiroute_[a-z_]+`)

// TestMetricNames: the rules and the dashboard ask for metrics that there are.
func TestMetricNames(t *testing.T) {
	known := map[string]bool{}
	for _, m := range web.Metrics() {
		known[m.Name] = true
		if m.Type == "histogram" {
			known[m.Name+"_bucket"], known[m.Name+"_sum"], known[m.Name+"_count"] = true, true, true
		}
	}
	for _, page := range []string{"docs/alerts.yml", "docs/grafana.json"} {
		names := metricName.FindAllString(read(t, page), -1)
		if len(names) < 5 {
			t.Errorf("%s names only %q", page, names)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", page, name)
			}
		}
	}
}

// TestDashboard: the dashboard is JSON, and what its panels ask is PromQL.
func TestDashboard(t *testing.T) {
	var board struct {
		Title, UID string
		Panels     []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "docs/grafana.json")), &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	rules := "groups:\n- name: dashboard\n  rules:\n"
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			rules += fmt.Sprintf("  - record: panel_%d\n    expr: %q\n", p.ID, strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
		}
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", path)
}

// TestAlerts: the rules are right, and do what they should on an example.
func TestAlerts(t *testing.T) {
	promtool(t, "check", "rules", "alerts.yml")
	promtool(t, "test", "rules", filepath.Join("testdata", "alerts_test.yml"))
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool (on Debian: apt-get install prometheus)")
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
