package main

import (
	"context"
	"fmt"
	"strings"

	"multiroute/agent"
	"multiroute/agent/doctor"
)

// exitStatus is an error whose text was printed already.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// diagnose is agent doctor.
func diagnose(c *call) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	report, err := agent.Diagnose(ctx, c.config)
	if err != nil {
		return err
	}
	if c.json {
		err = c.printJSON(report)
	} else {
		_, err = fmt.Fprint(c.out, reportText(report))
	}
	if err != nil {
		return err
	}
	switch report.Worst() {
	case doctor.Error:
		return exitStatus(exitFailed)
	case doctor.Warning:
		return exitStatus(exitWarnings)
	}
	return nil
}

// reportText prints findings, worst first, each with its remedy below it.
func reportText(r doctor.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Severity, f.Subject, f.What)
		for line := range strings.Lines(f.Remedy) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	for _, u := range r.Unseen {
		fmt.Fprintf(&b, "not looked at: %s: %s\n", u.Check, u.Reason)
	}
	fmt.Fprintf(&b, "checked: %s\n", strings.Join(r.Checked, ", "))
	return b.String()
}
