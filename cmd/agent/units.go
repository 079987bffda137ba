package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"multiroute/agent/api"
)

func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return now.Sub(*t).Round(time.Second).String()
}

func addresses(all []netip.Addr) string {
	if len(all) == 0 {
		return "-"
	}
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

// briefly is the first of several addresses, and how many more there are.
func briefly(all []netip.Addr) string {
	if len(all) < 2 {
		return addresses(all)
	}
	return fmt.Sprintf("%s+%d", all[0], len(all)-1)
}

func gateways(u api.UplinkStatus) []netip.Addr {
	var all []netip.Addr
	for _, g := range []*netip.Addr{u.Gateway, u.Gateway6} {
		if g != nil {
			all = append(all, *g)
		}
	}
	return all
}

// milliseconds prints a time in about two digits. What is shorter than can be
// shown took some time nevertheless.
func milliseconds(ms *float64) string {
	switch {
	case ms == nil:
		return "-"
	case *ms < 0.05:
		return "<0.1ms"
	}
	return digits(*ms) + "ms"
}

// percent prints a share in about two digits.
func percent(p *float64) string {
	if p == nil {
		return "-"
	}
	return digits(*p) + "%"
}

// digits prints a number with one digit behind the point where it is small.
func digits(v float64) string {
	if v >= 9.95 || v == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func number(n *int) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func size(n *uint64) string {
	if n == nil {
		return "-"
	}
	const unit = 1024
	v, prefix := float64(*n), ""
	for _, p := range []string{"K", "M", "G", "T"} {
		if v < unit {
			break
		}
		v, prefix = v/unit, p
	}
	if prefix == "" {
		return fmt.Sprintf("%d B", *n)
	}
	return fmt.Sprintf("%.1f %siB", v, prefix)
}

// rate prints bits per second, with the prefixes that providers use.
func rate(bits *float64) string {
	if bits == nil {
		return "-"
	}
	v, prefix := *bits, ""
	for _, p := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, prefix = v/1000, p
	}
	if prefix == "" {
		return fmt.Sprintf("%.0f bit/s", v)
	}
	return digits(v) + " " + prefix + "bit/s"
}
