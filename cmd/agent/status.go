package main

import (
	"flag"
	"fmt"
	"strings"
	"time"

	"multiroute/agent/api"
)

// statusFlags adds the flags of agent status.
func statusFlags(flags *flag.FlagSet, c *call) {
	flags.BoolVar(&c.watch, "watch", false, "look again every second, until Ctrl-C")
}

func status(c *call) error {
	if c.watch {
		return watchStatus(c)
	}
	client, ctx, cancel := c.daemon()
	defer cancel()
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(s)
	}
	f := format{}
	if t := openTerminal(c.out); t != nil {
		f = format{width: t.size().width, colour: t.colour}
	}
	_, err = fmt.Fprintln(c.out, strings.Join(statusLines(s, time.Now(), f), "\n"))
	return err
}

// format is how text is laid out.
type format struct {
	width  int // in columns; 0: any
	colour bool
}

// The colours of a terminal (SGR). They repeat what words say, too.
const (
	plain  = ""
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint gives a text a colour.
func (f format) paint(colour, text string) string {
	if !f.colour || colour == plain {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// sentence breaks a text into lines that fit.
func (f format) sentence(colour, text string) []string {
	var all []string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		for _, part := range wrap(line, f.width) {
			all = append(all, f.paint(colour, part))
		}
	}
	return all
}

// statusLines is a status for people; what is not known is a dash.
func statusLines(s api.Status, now time.Time, f format) []string {
	ready := "ready"
	if !s.Ready {
		ready = "not ready yet"
	}
	head := fmt.Sprintf("multiroute %s, process %d, %s, configuration %d", s.Version, s.PID, ready, s.Config.Generation)
	if s.Drift.Repairs > 0 {
		head += fmt.Sprintf(", %d repairs", s.Drift.Repairs)
	}
	all := append(f.sentence(plain, head), "")
	all = append(all, uplinkTable(s.Uplinks, now, f)...)
	all = append(all, "")
	for _, u := range s.Uplinks {
		if text := explanation(u, now); text != "" {
			all = append(all, f.sentence(plain, u.Name+": "+text)...)
		}
	}
	for _, p := range s.Policies {
		all = append(all, f.sentence(plain, "policy "+p.Name+": "+carriers(p))...)
	}
	if by := s.Config.ConfirmBy; by != nil {
		left := max(0, by.Sub(now).Round(time.Second))
		all = append(all, "")
		all = append(all, f.sentence(yellow, fmt.Sprintf(`this configuration is on trial: the one before comes back in %s, unless you write "agent confirm"`, left))...)
	}
	if s.Config.Error != nil {
		all = append(all, "")
		all = append(all, f.sentence(red, "the newest configuration was refused, the one before is in force:\n"+*s.Config.Error)...)
	}
	for _, warning := range s.Warnings {
		all = append(all, f.sentence(yellow, "warning: "+warning)...)
	}
	return all
}

// carriers says which share of a policy's new connections each uplink gets.
func carriers(p api.PolicyStatus) string {
	total := 0
	for _, m := range p.Members {
		total += m.Weight
	}
	if total == 0 {
		return "nobody: new connections are rejected"
	}
	var shares []string
	for _, m := range p.Members {
		shares = append(shares, fmt.Sprintf("%s %d%%", m.Uplink, (100*m.Weight+total/2)/total))
	}
	text := strings.Join(shares, ", ")
	if p.Tier != nil && *p.Tier > 0 {
		text += fmt.Sprintf(" (tier %d)", *p.Tier+1)
	}
	return text
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
