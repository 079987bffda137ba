//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Shorewall's folders: its configuration, and what it compiled and how it stands.
const (
	shorewallConfig = "/etc/shorewall"
	shorewallState  = "/var/lib/shorewall"
)

// shorewallFiles is its configuration: two providers, balanced, and the policies of its own two-interface example. What is not here is as the
// distribution ships it.
var shorewallFiles = map[string]string{
	"zones":      "fw firewall\nnet ipv4\nloc ipv4\n",
	"interfaces": "?FORMAT 2\nnet eth1\nnet eth2\nloc eth0\n",
	"policy":     "loc net ACCEPT\n$FW all ACCEPT\nnet all DROP\nall all REJECT\n",
	"providers":  "isp1 1 1 - eth1 10.64.1.1 track,balance\nisp2 2 2 - eth2 10.64.2.1 track,balance\n",
	"snat":       "MASQUERADE 192.168.0.0/24 eth1\nMASQUERADE 192.168.0.0/24 eth2\n",
}

// startShorewall starts Debian's Shorewall in the router's namespace.
func startShorewall(ctx context.Context, _ *bench, h *house) error {
	program, err := exec.LookPath("shorewall")
	if err != nil {
		return missingError{"it is not installed (Debian: packages shorewall and iptables)"}
	}
	files := map[string]string{}
	for _, name := range []string{"shorewall.conf", "conntrack", "params"} { // those that are installed in /etc, where somebody may have changed them
		text, err := os.ReadFile(filepath.Join("/usr/share/shorewall/configfiles", name))
		if err != nil {
			return missingError{err.Error()}
		}
		files[name] = string(text)
	}
	// Only this program and its children see these mounts (lab.Main).
	for _, folder := range []string{shorewallConfig, shorewallState} {
		if err := unix.Mount("tmpfs", folder, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return missingError{fmt.Sprintf("mounting a fresh %s: %v", folder, err)}
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil { // of the lab's own /run
		return missingError{err.Error()}
	}
	maps.Copy(files, shorewallFiles)
	files["shorewall.conf"] = shorewallSettings(files["shorewall.conf"])
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(shorewallConfig, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "start")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Router.Start(cmd); err != nil {
		return missingError{err.Error()}
	}
	if err := cmd.Wait(); err != nil {
		return missingError{fmt.Sprintf("\"shorewall start\" failed (%v): %s", err, lastLines(out.String(), 3))}
	}
	return nil
}

// shorewallSettings changes a few of the shipped settings: those without which it does not start, or writes outside its namespace.
func shorewallSettings(shipped string) string {
	change := map[string]string{
		"STARTUP_ENABLED": "Yes",
		"IP_FORWARDING":   "On",
		"LOG_BACKEND":     "",
		"STARTUP_LOG":     "",
		"ROUTE_FILTER":    "No", // several providers do not go with it
	}
	lines := strings.Split(shipped, "\n")
	for i, line := range lines {
		key, _, ok := strings.Cut(line, "=")
		if value, wanted := change[key]; ok && wanted {
			lines[i] = key + "=" + value
			delete(change, key)
		}
	}
	for key, value := range change {
		lines = append(lines, key+"="+value)
	}
	return strings.Join(lines, "\n") + "\n"
}

// lastLines joins the last n lines of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
