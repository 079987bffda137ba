package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"multiroute/agent/api"
)

func status(c *call) error {
	client, ctx, cancel := c.daemon()
	defer cancel()
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(s)
	}
	return printStatus(c.out, s, time.Now())
}

// printStatus prints for people; what is not known is a dash.
func printStatus(out io.Writer, s api.Status, now time.Time) error {
	ready := "ready"
	if !s.Ready {
		ready = "not ready yet"
	}
	fmt.Fprintf(out, "multiroute %s, process %d, %s, configuration %d", s.Version, s.PID, ready, s.Config.Generation)
	if s.Drift.Repairs > 0 {
		fmt.Fprintf(out, ", %d repairs", s.Drift.Repairs)
	}
	fmt.Fprint(out, "\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "UPLINK\tSTATE\tSINCE\tINTERFACE\tADDRESS\tGATEWAY\tRTT\tLOSS\tCONNECTIONS\tRECEIVED\tSENT")
	for _, u := range s.Uplinks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", u.Name, u.State, ago(u.Since, now), u.Interface,
			addresses(u.Addresses), gateways(u), milliseconds(u.RTT), percent(u.Loss), number(u.Connections), size(u.RxBytes), size(u.TxBytes))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, u := range s.Uplinks {
		if text := explanation(u, now); text != "" {
			fmt.Fprintf(out, "%s: %s\n", u.Name, text)
		}
	}
	for _, p := range s.Policies {
		total := 0
		for _, m := range p.Members {
			total += m.Weight
		}
		var shares []string
		for _, m := range p.Members {
			shares = append(shares, fmt.Sprintf("%s %d%%", m.Uplink, (100*m.Weight+total/2)/total))
		}
		if len(shares) == 0 {
			shares = []string{"nobody: new connections are rejected"}
		}
		fmt.Fprintf(out, "policy %s: %s\n", p.Name, strings.Join(shares, ", "))
	}
	if s.Config.Error != nil {
		fmt.Fprintf(out, "\nthe newest configuration was refused, the one before is in force:\n%s\n", *s.Config.Error)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(out, "warning:", warning)
	}
	return nil
}

// explanation says why an uplink is in its state, and when that can end.
func explanation(u api.UplinkStatus, now time.Time) string {
	var parts []string
	if u.Reason != nil {
		parts = append(parts, *u.Reason)
	}
	if u.Until != nil {
		if left := u.Until.Sub(now).Round(time.Second); left > 0 {
			parts = append(parts, fmt.Sprintf("back in %s at the earliest", left))
		}
	}
	return strings.Join(parts, "; ")
}

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

func gateways(u api.UplinkStatus) string {
	var all []netip.Addr
	for _, g := range []*netip.Addr{u.Gateway, u.Gateway6} {
		if g != nil {
			all = append(all, *g)
		}
	}
	return addresses(all)
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
