package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/doctor"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// Diagnose looks at the machine, with or without a running agent, for what is
// wrong or will get in the way of the configuration at path. It changes nothing:
// what the kernel can do it tries in a network namespace of its own. Without
// CAP_NET_ADMIN the report says what it could not look at. A wrong configuration
// is an error.
func Diagnose(ctx context.Context, path string) (doctor.Report, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return doctor.Report{}, fmt.Errorf("%w:\n%w", api.ErrConfig, err)
	}
	m := machine{root: "/", facts: doctor.Facts{Config: cfg, Unseen: map[string]error{}}}
	if err := m.routing(); err != nil {
		return doctor.Report{}, err
	}
	m.tables()
	m.plan()
	m.files()
	m.connections()
	m.features()
	m.daemon(ctx)
	return doctor.Examine(&m.facts), nil
}

// machine gathers facts; its files are below root.
type machine struct {
	root  string
	facts doctor.Facts
	ids   plan.IDs
}

// routing reads links, addresses, routes and rules.
func (m *machine) routing() error {
	k, err := routes.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	if m.facts.Kernel, err = k.Facts(); err != nil {
		return err
	}
	for _, l := range m.facts.Kernel.Links {
		if on, err := routes.LargeReceive(l.Name); err == nil && on { // many have no such thing
			m.facts.Joining = append(m.facts.Joining, l.Name)
		}
	}
	m.facts.Rules, err = k.ForeignRules()
	return err
}

// tables reads nftables.
func (m *machine) tables() {
	t, err := nat.Open()
	if err == nil {
		defer t.Close()
		var state nat.State
		if state, err = t.Read(); err == nil {
			m.ids = idsFrom(state)
			m.facts.Tables, err = t.Foreign()
		}
	}
	if err != nil {
		m.facts.Unseen[doctor.Filters], m.facts.Unseen[doctor.Marks] = err, err
	}
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		text, _ := os.ReadFile(filepath.Join("/proc/thread-self/net", name)) // there if ip_tables is
		for table := range strings.FieldsSeq(string(text)) {
			if !slices.Contains(m.facts.Legacy, table) {
				m.facts.Legacy = append(m.facts.Legacy, table)
			}
		}
	}
}

// plan plans a start, and compares sysctls with what it needs.
func (m *machine) plan() {
	store := sysctl.Store{Root: "/proc/sys"}
	in := plan.Input{Config: m.facts.Config, Facts: m.facts.Kernel, IDs: plan.Assign(m.ids, m.facts.Config)}
	in.Ports, in.PortsUnread = store.Ports()
	m.facts.Plan = plan.Make(in)
	var err error
	if m.facts.Deviations, err = store.Check(m.facts.Plan.Sysctls); err != nil {
		m.facts.Unseen[doctor.Sysctls] = err
	}
}

// files reads what other programs' files and /proc say.
func (m *machine) files() {
	f := &m.facts
	f.SysctlFiles = m.dropIns("sysctl.d")
	if last := "etc/sysctl.conf"; m.read(last) != "" && !slices.ContainsFunc(f.SysctlFiles, func(x doctor.File) bool { return x.Text == m.read(last) }) {
		f.SysctlFiles = append(f.SysctlFiles, doctor.File{Path: "/" + last, Text: m.read(last)}) // sysctl(8) reads it last
	}
	f.Networkd = append([]doctor.File{{Path: "/etc/systemd/networkd.conf", Text: m.read("etc/systemd/networkd.conf")}}, m.dropIns("systemd/networkd.conf.d")...)
	names, _ := filepath.Glob(filepath.Join(m.root, "proc/[0-9]*/comm"))
	for _, name := range names {
		if m.elsewhere(filepath.Dir(name)) {
			continue
		}
		text, err := os.ReadFile(name)
		program := strings.TrimSpace(string(text))
		if err == nil && !slices.Contains(f.Programs, program) {
			f.Programs = append(f.Programs, program)
		}
		if program == "systemd-network" {
			m.unread(filepath.Dir(name))
		}
	}
	f.Links = map[string]doctor.Speed{}
	for _, l := range f.Kernel.Links {
		if slices.Contains(f.Programs, "NetworkManager") && strings.Contains(m.read("run/NetworkManager/devices/"+strconv.Itoa(l.Index)), "managed=true") {
			f.Managed = append(f.Managed, l.Name)
		}
		dir := "sys/class/net/" + l.Name + "/"
		if strings.TrimSpace(m.read(dir+"ifindex")) != strconv.Itoa(l.Index) {
			continue // another network namespace's
		}
		speed, _ := strconv.Atoi(strings.TrimSpace(m.read(dir + "speed"))) // -1: not known
		f.Links[l.Name] = doctor.Speed{Mbit: max(0, speed), Duplex: strings.TrimSpace(m.read(dir + "duplex"))}
	}
	f.Resolv = m.read("etc/resolv.conf")
	f.ResolvPath, _ = filepath.EvalSymlinks(filepath.Join(m.root, "etc/resolv.conf"))
	m.service()
}

// elsewhere reports whether a process is in another network namespace, as in a
// container.
func (m *machine) elsewhere(process string) bool {
	own, err := os.Readlink(filepath.Join(m.root, "proc/self/ns/net"))
	other, err2 := os.Readlink(filepath.Join(process, "ns/net"))
	return errors.Join(err, err2) == nil && own != other
}

// unread finds systemd-networkd's files that were written after its process was
// started: installed, since a package's files bring the time that they were built
// with them.
func (m *machine) unread(process string) {
	text, _ := os.ReadFile(filepath.Join(process, "stat"))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third on, proc_pid_stat(5)
	const started, perSecond = 22 - 3, 100                                    // USER_HZ
	var now, sinceBoot unix.Timespec
	if len(fields) <= started || unix.ClockGettime(unix.CLOCK_REALTIME, &now) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &sinceBoot) != nil {
		return
	}
	ticks, err := strconv.ParseInt(fields[started], 10, 64)
	start := int64(now.Sec) - int64(sinceBoot.Sec) + ticks/perSecond
	for _, file := range m.facts.Networkd {
		var s unix.Stat_t
		if err == nil && unix.Stat(filepath.Join(m.root, file.Path), &s) == nil && int64(s.Ctim.Sec) > start+1 {
			m.facts.Unread = append(m.facts.Unread, file.Path)
		}
	}
}

// read returns a file's text; "" if it is not there or cannot be read.
func (m *machine) read(name string) string {
	text, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		return ""
	}
	return string(text)
}

// dropIns reads the *.conf files of a folder as systemd does: of those with one
// name the first counts, /etc's before the others', and they go by name
// (sysctl.d(5), systemd.conf(5)).
func (m *machine) dropIns(folder string) []doctor.File {
	found := map[string]doctor.File{}
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib", "lib"} {
		names, _ := filepath.Glob(filepath.Join(m.root, dir, folder, "*.conf"))
		for _, name := range names {
			base := filepath.Base(name)
			if _, ok := found[base]; ok {
				continue
			}
			path := "/" + filepath.Join(dir, folder, base)
			found[base] = doctor.File{Path: path, Text: m.read(path)}
		}
	}
	var all []doctor.File
	for _, base := range slices.Sorted(maps.Keys(found)) {
		all = append(all, found[base])
	}
	return all
}

// service looks for the boot service, and for the folder of the runtime files.
func (m *machine) service() {
	s := &m.facts.Service
	if _, err := os.Stat(filepath.Join(m.root, "run/systemd/system")); err == nil {
		s.Systemd = true
	}
	const unit = "multiroute.service"
	for _, dir := range []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(m.root, dir, unit)); err == nil && s.Unit == "" {
			s.Unit = "/" + filepath.Join(dir, unit)
		}
	}
	wanted, _ := filepath.Glob(filepath.Join(m.root, "etc/systemd/system/*.wants", unit))
	s.Enabled = len(wanted) > 0
	s.Folder = filepath.Dir(m.facts.Config.API.Socket)
	dir := s.Folder
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Dir(dir) // the agent makes it
	}
	if err := unix.Access(dir, unix.W_OK); err != nil && os.Geteuid() == 0 {
		s.NoFolder = err.Error()
	}
}

// connections reads conntrack's figures.
func (m *machine) connections() {
	value := func(name string) string {
		return strings.TrimSpace(m.read("proc/sys/net/netfilter/nf_conntrack_" + name))
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(value(name)) // 0: conntrack is not there yet
		return n
	}
	c := &m.facts.Connections
	*c = doctor.Connections{Count: number("count"), Max: number("max"), Buckets: number("buckets"), Established: number("tcp_timeout_established"),
		Bytes: number("acct") == 1, Start: value("timestamp") != "0", Helper: number("helper") == 1}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		c.MemoryMiB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20)
	}
	ct, err := conntrack.Dial()
	var lacks *conntrack.UnsupportedError
	switch {
	case errors.As(err, &lacks):
		m.facts.Missing = append(m.facts.Missing, doctor.Missing{Name: "netlink for conntrack", Option: lacks.Option})
	case err != nil:
		m.facts.Unseen[doctor.ConnTable] = err
	default:
		defer ct.Close()
		if s, err := ct.Stats(); err == nil {
			c.Drop, c.InsertFailed, c.EarlyDrop = s.Dropped, s.InsertFailed, s.EarlyDropped
		}
	}
}

// features tries what our rules and routes are made of, and then the rules that
// the configuration needs.
func (m *machine) features() {
	missing, err := tryElsewhere(nat.Compile(m.facts.Plan.NAT))
	m.facts.Missing = append(m.facts.Missing, missing...)
	if err != nil {
		m.facts.Unseen[doctor.Features] = err
	}
	wants := []string{"net/ipv4/fwmark_reflect", "net/ipv4/fib_multipath_hash_policy"}
	if !m.facts.Kernel.NoIPv6 {
		wants = append(wants, "net/ipv6/fwmark_reflect", "net/ipv6/fib_multipath_hash_policy")
	}
	for _, key := range wants {
		if _, err := os.Stat("/proc/sys/" + key); errors.Is(err, fs.ErrNotExist) {
			m.facts.Missing = append(m.facts.Missing, doctor.Missing{Name: "sysctl " + strings.ReplaceAll(key, "/", "."), Option: "CONFIG_IP_ROUTE_MULTIPATH, Linux 4.16"})
		}
	}
}

// tryElsewhere tries features and rules in a network namespace of its own, which
// ends with the thread that made it.
func tryElsewhere(rules nat.Ruleset) (missing []doctor.Missing, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: nobody else gets this thread
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("a network namespace to try them in: %w (it needs root, or CAP_SYS_ADMIN)", err)
			return
		}
		missing, err = try(rules)
	}()
	<-done
	return missing, err
}

func try(rules nat.Ruleset) (missing []doctor.Missing, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	features, err := k.table.Probe()
	if err != nil {
		return nil, err
	}
	for _, f := range features {
		missing = append(missing, doctor.Missing{Name: f.Name, Option: f.Option})
	}
	if len(missing) == 0 {
		if err := k.table.Write(nat.State{}, rules); err != nil {
			missing = append(missing, doctor.Missing{Name: "room or words for this configuration's rules: " + err.Error(), Option: "what it lacks"})
		}
	}
	ways, err := k.router.Probe()
	for _, f := range ways {
		missing = append(missing, doctor.Missing{Name: f.Name, Option: f.Option})
	}
	return missing, err
}

// daemon asks the running agent, if there is one.
func (m *machine) daemon(ctx context.Context) {
	d := &m.facts.Daemon
	socket := m.facts.Config.API.Socket
	s, err := api.Dial(socket).Status(ctx)
	switch {
	case errors.Is(err, api.ErrNotRunning):
		// Does another one hold the name? It is not taken, not even for a moment.
		c, err := net.Dial("unix", lockName)
		if err != nil {
			return
		}
		_ = c.Close()
		if _, squatted, err := lock(socket); errors.Join(squatted, err) != nil {
			d.Other = fmt.Sprintf("%v; nobody answers at %s", errors.Join(squatted, err), socket)
		}
	case err != nil:
		m.facts.Unseen[doctor.Boot] = err
	default:
		d.Running, d.Ready, d.Down = true, s.Ready, map[string]string{}
		for _, u := range s.Uplinks {
			if u.State == api.Down && u.Reason != nil {
				d.Down[u.Name] = *u.Reason
			}
		}
		if s.Config.Error != nil {
			d.ConfigError = *s.Config.Error
		}
		found := slices.Concat(m.facts.Plan.Warnings, inOurWay(&m.facts))
		for _, w := range s.Warnings {
			if !slices.Contains(found, w) {
				d.Warnings = append(d.Warnings, w)
			}
		}
	}
}
