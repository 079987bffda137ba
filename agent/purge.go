package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// Purge takes everything multiroute owns out of the kernel, from any state,
// and nothing else: a running agent is stopped first, sysctls get the values
// that they had before the first start, and connections that only our rules
// kept NATed end. It needs nothing but the kernel and the saved sysctls; cfg
// says where those are. Every step is tried, whatever happens to the others.
// It returns a sentence for each thing that it did.
func Purge(ctx context.Context, cfg *config.Config) (done []string, err error) {
	guard, stopped, err := takeOver(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if guard != nil {
		defer guard.Close()
	}
	if stopped {
		done = append(done, "the agent was stopped")
	}
	k, err := openKernel()
	if err != nil {
		return done, err
	}
	defer k.Close()
	state, err := k.table.Read()
	if err != nil {
		return done, err
	}
	var errs []error
	// did notes what a step has done, or why it has not.
	did := func(err error, what string) {
		if err != nil {
			errs = append(errs, err)
		} else if what != "" {
			done = append(done, what)
		}
	}
	// Forwarding first: from here on nothing can leave un-NATed, if it was the
	// agent that switched it on.
	text := ""
	store := sysctlStore(cfg)
	if _, err := os.Stat(store.Saved); err == nil {
		text = "sysctls have the values from before the first start again"
	}
	did(store.Restore(), text)
	// Rules on addresses stay to the last: what the router still answers to
	// connections that end here leaves by the right uplink.
	if state.Exists {
		did(k.table.Delete(), "nftables: table inet "+nat.TableName+" removed")
		ended, err := endConnections(k, state, cfg.Router.MarkMask)
		did(err, fmt.Sprintf("connections: %d ended, whose NAT has gone with the table", ended))
		select {
		case <-ctx.Done():
		case <-time.After(linger):
		}
	}
	have, err := k.router.Read()
	if err == nil {
		err = k.router.Apply(routes.Diff(have, routes.Spec{}))
	}
	text = ""
	if len(have.Rules)+len(have.Routes) > 0 {
		text = fmt.Sprintf("routing: %d rules and %d routes removed", len(have.Rules), len(have.Routes))
	}
	did(err, text)
	for _, file := range []string{cfg.API.Socket, memoryFile(cfg), confirmedFile(cfg, "")} {
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			did(err, "")
		}
	}
	for _, name := range []string{dnsmasqFile, resolvFile} {
		path := filepath.Join(filepath.Dir(cfg.API.Socket), name)
		if old, err := readOwn(path); err == nil && old != nil { // what is not ours is nobody's business here
			did(os.Remove(path), "")
		}
	}
	if len(done) == 0 && len(errs) == 0 {
		done = []string{"nothing of multiroute was there"}
	}
	return done, errors.Join(errs...)
}

// linger is how long the rules on addresses outlive the connections: the far
// ends of those still send (retransmissions begin after 200 ms), and the resets
// that they get must leave by the uplink that they came in on.
const linger = 300 * time.Millisecond

// takeOver stops a running agent and waits until it is gone. It reports whether
// there was one.
func takeOver(ctx context.Context, cfg *config.Config) (guard net.Listener, stopped bool, err error) {
	for {
		guard, _, err := lock(cfg.API.Socket)
		if !errors.Is(err, ErrRunning) {
			return guard, stopped, err
		}
		if !stopped {
			if stopErr := stopAgent(ctx, cfg, err); stopErr != nil {
				return nil, false, fmt.Errorf("%w; asking it to stop: %w", err, stopErr)
			}
			stopped = true
		}
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("%w; it was asked to stop and did not: %w", err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stopAgent asks over the socket; where the configuration does not lead to the
// right one, by a signal.
func stopAgent(ctx context.Context, cfg *config.Config, running error) error {
	err := api.Dial(cfg.API.Socket).Stop(ctx)
	var other runningError
	if err == nil || !errors.As(running, &other) || other.pid <= 0 {
		return err
	}
	return unix.Kill(other.pid, unix.SIGTERM)
}

// endConnections deletes the entries with our marks: their NAT has gone with
// the rules. It returns how many there were.
func endConnections(k *kernel, state nat.State, mask uint32) (int, error) {
	ct, err := k.connections()
	if err != nil {
		return 0, err
	}
	counts, err := ct.CountByMark(mask)
	errs := []error{err}
	ended := 0
	for _, u := range state.Uplinks() {
		mark := uint32(u.ID) * (mask & -mask)
		ended += counts[mark]
		errs = append(errs, ct.DeleteByMark(mark, mask, conntrack.FamilyAny))
	}
	return ended, errors.Join(errs...)
}
