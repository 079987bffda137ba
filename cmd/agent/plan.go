package main

import (
	"errors"
	"fmt"

	"multiroute/agent"
	"multiroute/agent/api"
)

func showPlan(c *call) error {
	client, ctx, cancel := c.daemon()
	defer cancel()
	text, err := client.Plan(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		text, _, _, err = agent.Preview(c.config)
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"commands": lines(text)})
	}
	if text == "" {
		text = "nothing would change\n"
	}
	_, err = fmt.Fprint(c.out, text)
	return err
}
