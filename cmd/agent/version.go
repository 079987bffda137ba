package main

import "fmt"

func printVersion(c *call) error {
	if c.json {
		return c.printJSON(map[string]string{"version": versionText()})
	}
	_, err := fmt.Fprintln(c.out, "multiroute", versionText())
	return err
}
