//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"multiroute/test/lab"
)

// snapshot is everything in a namespace's kernel that the agent could change: nftables, rules, routes of all tables, and the parameters of
// IPv4 and IPv6, a line each, in order. It is read without any code of the agent's.
func snapshot(ns *lab.NS) ([]string, error) {
	var lines []string
	for _, read := range []func(*lab.NS) ([]string, error){tables, rulesAndRoutes, parameters} {
		more, err := read(ns)
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's state: %w", err)
		}
		lines = append(lines, more...)
	}
	slices.Sort(lines)
	return lines, nil
}

// tables lists nftables.
func tables(ns *lab.NS) ([]string, error) {
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return nil, err
	}
	list, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, t := range list {
		lines = append(lines, fmt.Sprintf("nftables table %s (family %d)", t.Name, t.Family))
	}
	return lines, nil
}

// rulesAndRoutes lists the policy rules, and the routes of all tables.
func rulesAndRoutes(ns *lab.NS) ([]string, error) {
	var lines []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := ns.Handle().RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule (family %d) %s", family, r))
		}
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		routes, err := ns.Handle().RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route (family %d) %s", family, r))
		}
	}
	return lines, nil
}

// parameters reads /proc/sys/net/ipv4 and ipv6. What cannot be read is no setting.
func parameters(ns *lab.NS) ([]string, error) {
	var lines []string
	visit := func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if text, err := os.ReadFile(path); err == nil {
			lines = append(lines, fmt.Sprintf("sysctl %s = %s", strings.TrimPrefix(path, "/proc/sys/"), strings.TrimSpace(string(text))))
		}
		return nil
	}
	// /proc/sys/net belongs to the namespace of the thread that looks.
	err := ns.Do(func() error {
		return errors.Join(filepath.WalkDir("/proc/sys/net/ipv4", visit), filepath.WalkDir("/proc/sys/net/ipv6", visit))
	})
	return lines, err
}

// difference lists what is in one sorted list only: "- " for before, "+ " for after.
func difference(before, after []string) []string {
	var d []string
	for _, line := range before {
		if _, found := slices.BinarySearch(after, line); !found {
			d = append(d, "- "+line)
		}
	}
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			d = append(d, "+ "+line)
		}
	}
	return d
}
