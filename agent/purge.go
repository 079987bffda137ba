package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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
func Purge(ctx context.Context, cfg *config.Config) error {
	guard, err := takeOver(ctx, cfg)
	if err != nil {
		return err
	}
	if guard != nil {
		defer guard.Close()
	}
	k, err := routes.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	t, err := nat.Open()
	if err != nil {
		return err
	}
	defer t.Close()

	state, err := t.Read()
	if err != nil {
		return err
	}
	// Forwarding first: from here on nothing can leave un-NATed, if it was the
	// agent that switched it on.
	errs := []error{sysctlStore(cfg).Restore()}
	// Rules on addresses stay to the last: what the router still answers to
	// connections that end here leaves by the right uplink.
	if state.Exists {
		errs = append(errs, t.Delete(), endConnections(state, cfg.Router.MarkMask))
		select {
		case <-ctx.Done():
		case <-time.After(linger):
		}
	}
	have, err := k.Read()
	if err == nil {
		err = k.Apply(routes.Diff(have, routes.Spec{}))
	}
	errs = append(errs, err)
	if err := os.Remove(cfg.API.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// linger is how long the rules on addresses outlive the connections: the far
// ends of those still send (retransmissions begin after 200 ms), and the resets
// that they get must leave by the uplink that they came in on.
const linger = 300 * time.Millisecond

// takeOver stops a running agent and waits until it is gone.
func takeOver(ctx context.Context, cfg *config.Config) (net.Listener, error) {
	asked := false
	for {
		guard, _, err := lock()
		if !errors.Is(err, ErrRunning) {
			return guard, err
		}
		if !asked {
			if stopErr := stopAgent(ctx, cfg, err); stopErr != nil {
				return nil, fmt.Errorf("%w; asking it to stop: %w", err, stopErr)
			}
			asked = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; it was asked to stop and did not: %w", err, ctx.Err())
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
// the rules.
func endConnections(state nat.State, mask uint32) error {
	ct, err := conntrack.Dial()
	if err != nil {
		return err
	}
	defer ct.Close()
	var errs []error
	for _, u := range state.Uplinks() {
		errs = append(errs, ct.DeleteByMark(uint32(u.ID)*(mask&-mask), mask, conntrack.FamilyAny))
	}
	return errors.Join(errs...)
}
