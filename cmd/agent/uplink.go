package main

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// uplinkFlags adds the flags of agent uplink.
func uplinkFlags(flags *flag.FlagSet, c *call) {
	flags.Func("for", "it comes back by itself after `TIME`", func(s string) (err error) {
		c.time, err = positive(s)
		return err
	})
}

// positive reads a time above 0.
func positive(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errors.New(`write a time above 0 with its unit, such as "90s", "10m" or "2h"`)
	}
	return d, nil
}

// setUplink is agent uplink.
func setUplink(c *call) error {
	const right = `"agent uplink disable NAME [--for 10m]" or "agent uplink enable NAME"`
	switch {
	case len(c.args) != 2 || c.args[0] != "disable" && c.args[0] != "enable" || c.args[1] == "":
		return fmt.Errorf("%w: write %s", errUsage, right)
	case c.args[0] == "enable" && c.time != 0:
		return fmt.Errorf("%w: --for is for disable only: write %s", errUsage, right)
	}
	name, enabled := c.args[1], c.args[0] == "enable"
	client, ctx, cancel := c.daemon()
	defer cancel()
	if err := client.SetUplink(ctx, name, enabled, c.time); err != nil {
		return err
	}
	switch {
	case c.json:
		return c.printJSON(map[string]any{"uplink": name, "enabled": enabled})
	case enabled:
		fmt.Fprintf(c.out, "uplink %s is enabled\n", name)
	case c.time != 0:
		fmt.Fprintf(c.out, "uplink %s is disabled for %s\n", name, c.time)
	default:
		fmt.Fprintf(c.out, "uplink %s is disabled until \"agent uplink enable %[1]s\"\n", name)
	}
	return nil
}
