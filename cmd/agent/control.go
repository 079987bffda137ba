package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
)

// patience is how long a command waits for the daemon.
const patience = 60 * time.Second

// daemon connects to the daemon that the configuration names. Where the
// configuration cannot be read (a reader without access, a broken file) the
// default socket is tried: asking a running daemon must work then too.
func (c *call) daemon() (*api.Client, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	return api.Dial(config.Fallback(c.config).API.Socket), ctx, cancel
}

func (c *call) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}
