package main

import "fmt"

func reload(c *call) error {
	client, ctx, cancel := c.daemon()
	defer cancel()
	result, err := client.Reload(ctx)
	if err != nil {
		return err
	}
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
	return nil
}
