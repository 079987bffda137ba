package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/doctor"
	"multiroute/routes"
)

// TestMachineFiles: files of other programs are found as these read them.
func TestMachineFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/sysctl.conf":                                    "last",
		"etc/sysctl.d/20-b.conf":                             "b",
		"usr/lib/sysctl.d/20-b.conf":                         "masked",
		"usr/lib/sysctl.d/10-a.conf":                         "a",
		"run/sysctl.d/30-c.conf":                             "c",
		"run/sysctl.d/no":                                    "no",
		"etc/systemd/networkd.conf":                          "main",
		"usr/lib/systemd/networkd.conf.d/50-multiroute.conf": "drop-in",
		"proc/1/comm":                                        "systemd\n",
		"proc/5/comm":                                        "systemd-network\n",
		"proc/5/stat":                                        "5 (systemd-network) S 1 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 100 2 3\n",
		"proc/7/comm":                                        "NetworkManager\n",
		"proc/8/comm":                                        "mwan3track\n",
		"run/NetworkManager/devices/2":                       "[device]\nmanaged=true\n",
		"sys/class/net/eth1/ifindex":                         "2\n",
		"sys/class/net/eth1/speed":                           "10\n",
		"sys/class/net/eth1/duplex":                          "half\n",
		"sys/class/net/eth2/ifindex":                         "77\n",
		"sys/class/net/eth2/speed":                           "10\n",
		"run/systemd/system/x":                               "",
		"usr/lib/systemd/system/multiroute.service":          "",
		"etc/systemd/system/multi-user.target.wants/multiroute.service": "",
		"etc/resolv.conf": "nameserver 9.9.9.9\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for process, namespace := range map[string]string{"self": "net:[1]", "7": "net:[1]", "8": "net:[2]"} {
		dir := filepath.Join(root, "proc", process, "ns")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(namespace, filepath.Join(dir, "net")); err != nil {
			t.Fatal(err)
		}
	}
	m := machine{root: root, facts: doctor.Facts{Config: &config.Config{API: config.API{Socket: filepath.Join(root, "run/multiroute/agent.sock")}}}}
	m.facts.Kernel.Links = []routes.Link{{Name: "eth1", Index: 2}, {Name: "eth2", Index: 3}}
	m.files()
	f := m.facts
	if want := []doctor.File{{Path: "/usr/lib/sysctl.d/10-a.conf", Text: "a"}, {Path: "/etc/sysctl.d/20-b.conf", Text: "b"}, {Path: "/run/sysctl.d/30-c.conf", Text: "c"}, {Path: "/etc/sysctl.conf", Text: "last"}}; !slices.Equal(f.SysctlFiles, want) {
		t.Errorf("sysctl files: %v", f.SysctlFiles)
	}
	if want := []doctor.File{{Path: "/etc/systemd/networkd.conf", Text: "main"}, {Path: "/usr/lib/systemd/networkd.conf.d/50-multiroute.conf", Text: "drop-in"}}; !slices.Equal(f.Networkd, want) {
		t.Errorf("networkd's files: %v", f.Networkd)
	}
	if want := []string{"/etc/systemd/networkd.conf", "/usr/lib/systemd/networkd.conf.d/50-multiroute.conf"}; !slices.Equal(f.Unread, want) {
		t.Errorf("networkd, started a second after the boot, has not read %v", f.Unread)
	}
	m.facts.Unread = nil
	var sinceBoot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &sinceBoot); err != nil {
		t.Fatal(err)
	}
	stat := fmt.Sprintf("5 (a b) c) S 1 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 2 3\n", 100*(sinceBoot.Sec+60))
	if err := os.WriteFile(filepath.Join(root, "proc/5/stat"), []byte(stat), 0o600); err != nil {
		t.Fatal(err)
	}
	if m.unread(filepath.Join(root, "proc/5")); len(m.facts.Unread) > 0 {
		t.Errorf("networkd, started after its files were written, has not read %v", m.facts.Unread)
	}
	if !slices.Contains(f.Programs, "NetworkManager") || slices.Contains(f.Programs, "mwan3track") || !slices.Equal(f.Managed, []string{"eth1"}) {
		t.Errorf("programs %v, managed %v", f.Programs, f.Managed)
	}
	if len(f.Links) != 1 || f.Links["eth1"] != (doctor.Speed{Mbit: 10, Duplex: "half"}) {
		t.Errorf("links %v", f.Links)
	}
	s := f.Service
	if !s.Systemd || s.Unit != "/usr/lib/systemd/system/multiroute.service" || !s.Enabled || s.NoFolder != "" {
		t.Errorf("service %+v", s)
	}
	if f.Resolv != "nameserver 9.9.9.9\n" || filepath.Base(f.ResolvPath) != "resolv.conf" {
		t.Errorf("%q, %q", f.Resolv, f.ResolvPath)
	}
}
