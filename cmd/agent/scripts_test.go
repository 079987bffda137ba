package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The scripts of packages and services are right as far as a shell can tell
// without running them.
func TestScriptsSyntax(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob(filepath.Join(packaging, "scripts", "*"))
	if err != nil || len(names) < 7 {
		t.Fatalf("scripts: %q, %v", names, err)
	}
	for _, name := range append(names, filepath.Join(packaging, "make"), filepath.Join(packaging, "multiroute.openrc"), filepath.Join(packaging, "multiroute.procd")) {
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestLogLines: every service writes the log as lines of JSON, for programs that
// read the history of failovers from it.
func TestLogLines(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"multiroute.service": "ExecStart=/usr/bin/agent run --json",
		"multiroute.openrc":  `command_args="run --json"`,
		"multiroute.procd":   "    procd_set_param command /usr/bin/agent run --json",
	} {
		text, err := os.ReadFile(filepath.Join(packaging, name))
		if err != nil || !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("%s has no line %q, %v", name, line, err)
		}
	}
}

// What OpenWrt's procd is asked for: the confirmed configuration is kept where a
// reboot leaves it, and a configuration that cannot be used is not started.
func TestProcd(t *testing.T) {
	t.Parallel()
	for check, want := range map[string]string{
		"true":  "command /usr/bin/agent run --json\nenv STATE_DIRECTORY=/etc/multiroute/state\nrespawn 3600 1 0",
		"false": "",
	} {
		cmd := exec.Command("sh", "-c", `agent() { `+check+`; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { echo "$*"; }
. ./multiroute.procd
start_service`)
		cmd.Dir = packaging
		out, err := cmd.CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if got := strings.Join(lines[:min(3, len(lines))], "\n"); got != want || (err == nil) != (check == "true") {
			t.Errorf("where agent check says %s: %q, %v", check, lines, err)
		}
		if check == "true" && !slices.Contains(lines, "reload_signal HUP") {
			t.Errorf("%q", lines)
		}
	}
}
