// Package doctor looks for what would get in multiroute's way: facts about the
// machine go in, findings with their remedies come out. It is pure; who gathers
// the facts is package agent.
package doctor

import (
	"fmt"
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/nat"
	"multiroute/routes"
)

// Severity says how bad a finding is.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // traffic does not flow, or leaks
	Warning Severity = "warning" // it will bite one day
	Note    Severity = "note"    // good to know
)

var order = []Severity{Error, Warning, Note}

// Finding is one thing that was found. The JSON keys are part of "agent doctor
// --json".
type Finding struct {
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject"` // the object it is about
	What     string   `json:"what"`
	Remedy   string   `json:"remedy"` // commands or lines to write
}

// Report is what came of all checks.
type Report struct {
	Findings []Finding `json:"findings"` // worst first
	Checked  []string  `json:"checked"`  // what was looked at
	Unseen   []Unseen  `json:"unseen"`   // what could not be looked at
}

// Unseen is a check that could not be made.
type Unseen struct {
	Check  string `json:"check"`
	Reason string `json:"reason"`
}

// Worst returns the severity of the worst finding; without any it is a Note.
func (r Report) Worst() Severity {
	for _, s := range order {
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == s }) {
			return s
		}
	}
	return Note
}

// Facts is what is known of the machine. What could not be read is nil or empty,
// and Unseen tells why by the name of the check.
type Facts struct {
	Config      *config.Config
	Plan        plan.Plan // of a start now, with nothing known of health
	Kernel      routes.Facts
	Rules       []routes.ForeignRule
	Tables      *nat.Foreign
	Legacy      []string // tables of ip_tables and ip6_tables in use
	Deviations  []sysctl.Deviation
	SysctlFiles []File   // in the order in which they are applied at boot
	Networkd    []File   // likewise, of systemd-networkd
	Unread      []string // paths of those that were written after it was started
	Connections Connections
	Missing     []Missing
	Programs    []string // names of running processes
	Managed     []string // interfaces that NetworkManager manages
	Links       map[string]Speed
	Joining     []string // interfaces whose cards put received packets together (LRO)
	Daemon      Daemon
	Service     Service
	Resolv      string // text of /etc/resolv.conf
	ResolvPath  string // the file that it really is
	Unseen      map[string]error
}

// File is a configuration file of another program.
type File struct{ Path, Text string }

// Missing is a feature that the kernel does not have.
type Missing struct {
	Name, Option string
}

// Speed is what a network card has agreed on with its far end.
type Speed struct {
	Mbit   int
	Duplex string
}

// Daemon is what is known of a running agent.
type Daemon struct {
	Running     bool
	Ready       bool
	ConfigError string
	Warnings    []string
	Down        map[string]string // why uplinks are, by name
	Other       string            // who else manages this network namespace; "": nobody
}

// The names of the checks.
const (
	Configuration = "configuration"
	Uplinks       = "uplinks and interfaces"
	Features      = "kernel features"
	Sysctls       = "sysctls"
	ConnTable     = "connection table"
	PolicyRules   = "policy rules and tables"
	Filters       = "others' filters"
	Marks         = "others' marks and NAT"
	Programs      = "other programs"
	Boot          = "daemon and boot"
	Names         = "DNS"
)

// Examine makes all checks.
func Examine(f *Facts) Report {
	r := Report{Findings: []Finding{}, Checked: []string{}, Unseen: []Unseen{}}
	for _, check := range []struct {
		name string
		look func(*Facts) []Finding
	}{
		{Configuration, configuration},
		{Uplinks, uplinks},
		{Features, features},
		{Sysctls, sysctls},
		{ConnTable, connections},
		{PolicyRules, policyRules},
		{Filters, filters},
		{Marks, InOurWay},
		{Programs, programs},
		{Boot, boot},
		{Names, names},
	} {
		if err := f.Unseen[check.name]; err != nil {
			r.Unseen = append(r.Unseen, Unseen{check.name, err.Error()})
			continue
		}
		r.Checked = append(r.Checked, check.name)
		r.Findings = append(r.Findings, check.look(f)...)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return slices.Index(order, a.Severity) - slices.Index(order, b.Severity) })
	return r
}

func finding(s Severity, subject, remedy, format string, args ...any) Finding {
	return Finding{Severity: s, Subject: subject, What: fmt.Sprintf(format, args...), Remedy: remedy}
}

// interfaces are those of the uplinks that are not switched off, each once.
func (f *Facts) interfaces() []string {
	var all []string
	for _, u := range f.Config.Uplinks {
		if u.Enabled && !slices.Contains(all, u.Interface) {
			all = append(all, u.Interface)
		}
	}
	return all
}

// forwards reports whether the router serves others.
func (f *Facts) forwards() bool { return len(f.Config.Router.LAN) > 0 }

// ipv6 reports whether some uplink has IPv6 in use.
func (f *Facts) ipv6() bool {
	return slices.ContainsFunc(f.Plan.Uplinks, func(u plan.Uplink) bool { return u.V6.Wanted })
}
