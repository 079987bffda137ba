package main

import (
	"fmt"

	"multiroute/agent/config"
)

func check(c *call) error {
	cfg, err := config.Load(c.config)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"files": cfg.Files, "uplinks": len(cfg.Uplinks)})
	}
	for _, f := range cfg.Files {
		fmt.Fprintln(c.out, f)
	}
	fmt.Fprintf(c.out, "ok: %d uplinks\n", len(cfg.Uplinks))
	return nil
}
