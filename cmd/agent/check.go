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
	many := "s"
	if len(cfg.Uplinks) == 1 {
		many = ""
	}
	fmt.Fprintf(c.out, "ok: %d uplink%s\n", len(cfg.Uplinks), many)
	return nil
}
