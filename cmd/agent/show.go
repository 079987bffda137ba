package main

import (
	"errors"
	"fmt"
	"strings"

	"multiroute/agent"
	"multiroute/agent/api"
)

func show(c *call) error {
	if len(c.args) != 1 || c.args[0] != api.ShowNFT && c.args[0] != api.ShowRoutes {
		return fmt.Errorf("%w: say what to show: \"agent show nft\" or \"agent show routes\"", errUsage)
	}
	client, ctx, cancel := c.daemon()
	defer cancel()
	text, err := client.Show(ctx, c.args[0])
	if errors.Is(err, api.ErrNotRunning) {
		var nft, ip string
		_, nft, ip, err = agent.Preview(c.config)
		text = ip
		if c.args[0] == api.ShowNFT {
			text = nft
		}
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{c.args[0]: lines(text)})
	}
	_, err = fmt.Fprint(c.out, text)
	return err
}

// lines splits a text into its lines; an empty text has none.
func lines(text string) []string {
	if text == "" {
		return []string{}
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
