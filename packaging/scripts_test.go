// Package packaging checks the scripts of the packages that no laboratory here
// installs; those of the .deb are tried by packaging/test, and here where the
// service does not start.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// machine is what a script finds.
type machine struct {
	running, confirmed, wrong bool // wrong: "agent check" fails
	fresh, broken             bool // fresh: the service never ran; broken: systemd cannot start it
	environment, arguments    []string
}

// absolute is a path of the machine's own; what is below a variable is not.
var absolute = regexp.MustCompile(`(?m)(^|[^A-Za-z_}])(/(?:etc|var|run)/)`)

// run runs a script in a folder that stands for the machine, and returns which
// programs it called, and what it printed.
func (m machine) run(t *testing.T, script string) (calls, out string) {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stub := func(name string, fails ...string) {
		text := "#!/bin/sh\necho \"" + filepath.Base(name) + " $*\" >>" + root + "/calls\n"
		for _, f := range fails {
			text += "[ \"$*\" != '" + f + "' ] || exit 1\n"
		}
		write(name, text)
	}
	var agent, procd, openrc, systemd []string
	if m.wrong {
		agent = append(agent, "check")
	}
	if !m.running {
		procd, openrc = append(procd, "running"), append(openrc, "-q multiroute status")
	}
	if m.broken {
		systemd = []string{"start multiroute.service", "try-restart multiroute.service"}
	}
	stub("bin/getent")
	stub("bin/systemctl", "is-active --quiet systemd-networkd.service")
	stub("bin/deb-systemd-invoke", systemd...)
	write("run/systemd/system/nothing", "")
	stub("bin/agent", agent...)
	stub("bin/rc-service", openrc...)
	stub("etc/init.d/multiroute", procd...)
	stub("etc/rc.common")
	if !m.fresh {
		write("run/multiroute/agent.sock", "")
	}
	if m.confirmed {
		write("etc/multiroute/state/confirmed.json", "")
		write("var/lib/multiroute/confirmed.json", "")
	}
	text, err := os.ReadFile(filepath.Join("scripts", script))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"-c", absolute.ReplaceAllString(string(text), "${1}"+root+"${2}"), script}, m.arguments...)...)
	cmd.Env = append([]string{"PATH=" + root + "/bin:" + os.Getenv("PATH")}, m.environment...)
	for i, e := range cmd.Env {
		cmd.Env[i] = strings.ReplaceAll(e, "$ROOT", root)
	}
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, said)
	}
	called, _ := os.ReadFile(filepath.Join(root, "calls"))
	return strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(string(called), "\n", "; ")), root, ""), string(said)
}

// TestScripts: what a package does with the service.
func TestScripts(t *testing.T) {
	upgrade := []string{"PKG_UPGRADE=1"}
	first, second := []string{"configure", ""}, []string{"configure", "1.0"}
	for _, test := range []struct {
		name, script string
		machine      machine
		calls, says  string
	}{
		{"OpenWrt: first, nothing configured", "procd-postinst", machine{wrong: true}, "multiroute enable; agent check;", "needs your uplinks"},
		{"OpenWrt: first, configured", "procd-postinst", machine{}, "multiroute enable; agent check; multiroute restart;", ""},
		{"OpenWrt: first, in an image", "procd-postinst", machine{environment: []string{"IPKG_INSTROOT=$ROOT"}}, "rc.common /etc/init.d/multiroute enable;", ""},
		{"OpenWrt: upgrade", "procd-postinst", machine{running: true, environment: upgrade}, "multiroute running; agent check; multiroute restart;", ""},
		{"OpenWrt: upgrade of a stopped one", "procd-postinst", machine{environment: upgrade}, "multiroute running;", ""},
		{"OpenWrt: upgrade, wrong and confirmed", "procd-postinst", machine{running: true, wrong: true, confirmed: true, environment: upgrade}, "multiroute running; multiroute restart;", ""},
		{"OpenWrt: upgrade, wrong", "procd-postinst", machine{running: true, wrong: true, environment: upgrade}, "multiroute running; agent check;", "was not started anew"},
		{"OpenWrt: before an upgrade", "procd-prerm", machine{running: true, environment: upgrade}, "", ""},
		{"OpenWrt: before it goes", "procd-prerm", machine{running: true}, "multiroute stop; multiroute disable; agent purge;", ""},

		{"Alpine: upgrade", "openrc-postupgrade", machine{running: true}, "rc-service -q multiroute status; agent check; rc-service multiroute restart;", ""},
		{"Alpine: upgrade of a stopped one", "openrc-postupgrade", machine{}, "rc-service -q multiroute status;", ""},
		{"Alpine: upgrade, wrong and confirmed", "openrc-postupgrade", machine{running: true, wrong: true, confirmed: true}, "rc-service -q multiroute status; rc-service multiroute restart;", ""},
		{"Alpine: upgrade, wrong", "openrc-postupgrade", machine{running: true, wrong: true}, "rc-service -q multiroute status; agent check;", "was not started anew"},

		{"Debian: first", "systemd-postinst", machine{fresh: true, arguments: first}, "getent passwd multiroute; systemctl enable multiroute.service; agent check; systemctl daemon-reload; systemctl is-active --quiet systemd-networkd.service; systemctl is-enabled --quiet multiroute.service; deb-systemd-invoke start multiroute.service;", ""},
		{"Debian: first, and it does not start", "systemd-postinst", machine{fresh: true, broken: true, arguments: first}, "getent passwd multiroute; systemctl enable multiroute.service; agent check; systemctl daemon-reload; systemctl is-active --quiet systemd-networkd.service; systemctl is-enabled --quiet multiroute.service; deb-systemd-invoke start multiroute.service;", "did not start"},
		{"Debian: upgrade", "systemd-postinst", machine{arguments: second}, "getent passwd multiroute; agent check; systemctl daemon-reload; deb-systemd-invoke try-restart multiroute.service;", ""},
		{"Debian: upgrade, and it does not start", "systemd-postinst", machine{broken: true, arguments: second}, "getent passwd multiroute; agent check; systemctl daemon-reload; deb-systemd-invoke try-restart multiroute.service;", "did not start"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			calls, out := test.machine.run(t, test.script)
			if calls != test.calls || !strings.Contains(out, test.says) || test.says == "" && out != "" {
				t.Errorf("called %q, wanted %q; said %q", calls, test.calls, out)
			}
		})
	}
}
