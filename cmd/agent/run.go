package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"multiroute/agent"
	"multiroute/agent/notify"
)

func runDaemon(c *call) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1) // agent purge sends it where the socket does not answer
	defer signal.Stop(usr1)
	go func() {
		select {
		case <-usr1:
			stop(agent.ErrStopped)
		case <-ctx.Done():
		}
	}()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log := logger(c)
	service, err := notify.FromEnvironment(os.Getenv, os.Getpid())
	if err != nil {
		log.Warn("the service manager cannot be told how the agent is", "err", err)
	}
	// A crash ends by a signal, not with exit status 2, which is for a wrong
	// configuration: that is not started again, a crash is.
	debug.SetTraceback("crash")
	// What the agent does takes turns anyway. A second processor would be woken
	// for each of them, only to find nothing to do, and a flood of questions could
	// take both from the packets.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	o := agent.Options{Config: c.config, Version: versionText(), State: os.Getenv("STATE_DIRECTORY"), Log: log, Reload: hup, Service: service}
	if os.Getenv("GOGC") == "" { // else the user knows better
		o.Garbage = func(percent int) { debug.SetGCPercent(percent) }
	}
	return agent.Run(ctx, o)
}

// logger writes text; the journal knows the time itself. AGENT_LOG=debug shows
// every kernel operation.
func logger(c *call) *slog.Logger {
	o := &slog.HandlerOptions{}
	if os.Getenv("AGENT_LOG") == "debug" {
		o.Level = slog.LevelDebug
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	if c.json {
		return slog.New(slog.NewJSONHandler(c.err, o))
	}
	return slog.New(slog.NewTextHandler(c.err, o))
}
