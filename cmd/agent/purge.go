package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"multiroute/agent"
	"multiroute/agent/config"
)

func purge(c *call) error {
	cfg, err := config.Load(c.config)
	if err != nil {
		// Purge works without a good configuration: it is what people turn to
		// when things are broken.
		fmt.Fprintf(c.err, "agent purge: the configuration cannot be used, assuming the defaults:\n%v\n", err)
		cfg = config.Fallback(c.config)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done, err := agent.Purge(ctx, cfg, os.Getenv("STATE_DIRECTORY"))
	if c.json {
		return errors.Join(err, c.printJSON(map[string]any{"done": append([]string{}, done...)}))
	}
	for _, line := range done {
		fmt.Fprintln(c.out, line)
	}
	return err
}
