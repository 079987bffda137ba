package main

import (
	"flag"
	"fmt"
	"time"

	"multiroute/agent/api"
)

// reloadFlags adds the flags of agent reload.
func reloadFlags(flags *flag.FlagSet, c *call) {
	flags.Func("confirm", "the old configuration comes back after `TIME`, unless \"agent confirm\" comes before", func(s string) (err error) {
		c.time, err = api.ParseTrial(s)
		return err
	})
}

func reload(c *call) error {
	client, ctx, cancel := c.daemon()
	defer cancel()
	result, err := client.Reload(ctx, c.time)
	if err != nil {
		return err
	}
	return c.loaded(result)
}

// confirm is agent confirm.
func confirm(c *call) error {
	client, ctx, cancel := c.daemon()
	defer cancel()
	result, err := client.Confirm(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(result)
	}
	fmt.Fprintf(c.out, "configuration %d is confirmed\n", result.Generation)
	return nil
}

// loaded prints what came of a reload.
func (c *call) loaded(result api.ReloadResult) error {
	if c.json {
		return c.printJSON(result)
	}
	for _, w := range result.Warnings {
		fmt.Fprintln(c.out, "warning:", w)
	}
	for _, change := range result.Changes {
		fmt.Fprintln(c.out, change)
	}
	if !result.Changed {
		fmt.Fprintln(c.out, "nothing changed")
	}
	fmt.Fprintf(c.out, "configuration %d is in force\n", result.Generation)
	if by := result.ConfirmBy; by != nil {
		fmt.Fprintf(c.out, "the one before comes back at %s, unless you write \"agent confirm\"\n", by.Local().Format(time.TimeOnly))
	} else if c.time != 0 {
		fmt.Fprintln(c.out, "it is what was confirmed before, so it is not on trial")
	}
	return nil
}
