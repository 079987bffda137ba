package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/sysctl"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// Purge takes everything multiroute owns out of the kernel, from any state,
// and nothing else: a running agent is stopped first, sysctls get the values
// that they had before the first start, and connections that only our rules
// kept NATed end. The table in the kernel tells where the agent is or was; where
// there is none, cfg does, and the folder that a service manager gives to the
// agent. Every step is tried, whatever happens to the others.
// It returns a sentence for each thing that it did.
func Purge(ctx context.Context, cfg *config.Config, folder string) (done []string, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	if sign, err := net.Listen("unix", purgeName); err == nil { // else another purge has it
		defer sign.Close()
	}
	state, err := k.table.Read()
	if err != nil {
		return nil, err
	}
	guard, stopped, err := takeOver(ctx, placesOf(state, configured(cfg, folder)))
	if err != nil {
		return nil, err
	}
	if guard != nil {
		defer guard.Close()
	}
	if stopped {
		done = append(done, "the agent was stopped")
	}
	began := time.Now()
	if state, err = k.table.Read(); err != nil {
		return done, err
	}
	// An agent that still serves such a socket is one of another network namespace.
	places := slices.DeleteFunc(placesOf(state, configured(cfg, folder)), func(p place) bool { return api.Served(p.socket) })
	have, unread := k.router.Read()
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
	restored := false
	for _, p := range places {
		if p.kept() {
			restored = true
			did(p.sysctls().Restore(), "sysctls have the values from before the first start again")
		}
	}
	if state.Exists || len(have.Rules) > 0 {
		what, err := forwarding(restored || !cfg.Router.ManageSysctls)
		did(err, what)
	}
	bound := marksOf(state, have, places, cfg.Router.MarkMask)
	// Rules on addresses stay to the last: what the router still answers to
	// connections that end here leaves by the right uplink.
	if state.Exists {
		did(k.table.Delete(), "nftables: table inet "+nat.TableName+" removed")
	}
	if len(bound) > 0 {
		ended, err := endConnections(k, bound)
		did(err, fmt.Sprintf("connections: %d ended, whose NAT has gone with the table", ended))
		select {
		case <-ctx.Done():
		case <-time.After(linger):
		}
	}
	err, what := unread, ""
	if err == nil {
		err = k.router.Apply(routes.Diff(have, routes.Spec{}))
	}
	if len(have.Rules)+len(have.Routes) > 0 {
		what = fmt.Sprintf("routing: %d rules and %d routes removed", len(have.Rules), len(have.Routes))
	}
	did(err, what)
	for _, p := range places {
		did(p.leave(place{}), "")
	}
	if stopped {
		did(startedAgain(guard, began.Add(respawn)), "")
	}
	if state, err := k.table.Read(); err == nil && state.Exists {
		did(errors.New("somebody has put the table inet "+nat.TableName+" back meanwhile: end that program and purge again"), "")
	}
	if len(done) == 0 && len(errs) == 0 {
		done = []string{"nothing of multiroute was there"}
	}
	return done, errors.Join(errs...)
}

// placesOf lists where an agent may have left something: where its table says,
// and, should the first values not be there, where the configuration says.
func placesOf(state nat.State, configured place) []place {
	at, ok := noted(state)
	switch {
	case !ok:
		return []place{configured}
	case at == configured, at.kept():
		return []place{at}
	}
	return []place{at, configured}
}

// linger is how long the rules on addresses outlive the connections: the far
// ends of those still send (retransmissions begin after 200 ms), and the resets
// that they get must leave by the uplink that they came in on.
const linger = 300 * time.Millisecond

// forwarding says what it means if the kernel forwards by now; known tells whether
// it is known to have done so without the agent.
func forwarding(known bool) (string, error) {
	on, err := sysctl.Store{Root: "/proc/sys"}.Check([]sysctl.Setting{{Key: "net/ipv4/ip_forward", Value: "0"}, {Key: "net/ipv6/conf/all/forwarding", Value: "0"}})
	switch {
	case err != nil || len(on) == 0:
		return "", err
	case known:
		return "forwarding is on, as it was without multiroute: what clients send leaves without NAT unless something else sees to that", nil
	}
	return "", errors.New("forwarding is on, and nobody knows the values from before the first start any more (there is no sysctl.json): " +
		"what clients send leaves without NAT unless something else sees to that; to end it: sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
}

// stopTime is how long an agent has to be gone before the next way of stopping it
// is tried.
const stopTime = 5 * time.Second

// takeOver stops a running agent: over its socket, by the signal that means the
// same, or by the one that a hung agent obeys, too. It reports whether there was
// one.
func takeOver(ctx context.Context, places []place) (guard net.Listener, stopped bool, err error) {
	signal := func(s unix.Signal) func(context.Context, int) error {
		return func(_ context.Context, pid int) error {
			if pid <= 0 {
				return errors.New("its process cannot be seen from here")
			}
			if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("%s: %w", unix.SignalName(s), err)
			}
			return nil
		}
	}
	ask := func(ctx context.Context, _ int) error { return api.Dial(places[0].socket).Stop(ctx) }
	var sockets []string
	for _, p := range places {
		sockets = append(sockets, p.socket)
	}
	ways := []func(context.Context, int) error{ask, signal(unix.SIGUSR1), signal(unix.SIGKILL)}
	var errs []error
	for pid, way, agents := 0, 0, 0; ; way++ {
		guard, _, err = lock(sockets...)
		var running runningError
		if !errors.As(err, &running) {
			return guard, agents > 0, err
		}
		if running.pid != pid {
			pid, way = running.pid, 0
			agents++
		}
		switch {
		case agents > maxAgents:
			return nil, false, errSupervised
		case way == len(ways):
			return nil, false, fmt.Errorf("%w; %w", err, errors.Join(errs...))
		}
		if guard, err = stopBy(ctx, ways[way], pid); guard != nil {
			return guard, true, nil
		}
		errs = append(errs, err)
	}
}

// maxAgents is how many agents, each started when the one before had ended, are
// stopped.
const maxAgents = 3

// stopBy stops an agent in one way and takes its lock when it is gone.
func stopBy(ctx context.Context, stop func(context.Context, int) error, pid int) (guard net.Listener, err error) {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if err := stop(ctx, pid); err != nil {
		return nil, fmt.Errorf("stopping it: %w", err)
	}
	for {
		guard, err := net.Listen("unix", lockName) // as lock does, but who asks the holder each time fills its queue
		if !errors.Is(err, unix.EADDRINUSE) {
			return guard, err
		}
		if pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return nil, errSupervised
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("it was told to stop and did not: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// errSupervised: a purge would be undone.
var errSupervised = errors.New("a supervisor starts the agent again, and it will put everything back: stop it there (systemctl stop multiroute), then purge again")

// respawn is how long a supervisor waits at most before it starts an agent again
// that has ended.
const respawn = 2 * time.Second

// startedAgain waits until then for new agents, which come to the lock that this
// process holds. One ends in a way that tells its supervisor to start none any
// more; if another comes all the same, more will.
func startedAgain(guard net.Listener, until time.Time) error {
	l, ok := guard.(*net.UnixListener)
	if !ok {
		return nil // somebody squats the lock's name
	}
	for range 2 {
		if err := l.SetDeadline(until); err != nil {
			return fmt.Errorf("waiting for a supervisor: %w", err)
		}
		c, err := l.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for a supervisor: %w", err)
		}
		_ = c.Close()
		until = time.Now().Add(respawn)
	}
	return errSupervised
}

// mark is what connections of one uplink have, under a mask.
type mark struct{ value, mask uint32 }

// marksOf returns the marks that connections may have: by the table, by our rules,
// whose mask may be another than the configuration's, and, should both be gone,
// by what the agent left. They are sorted.
func marksOf(state nat.State, have routes.Spec, places []place, configured uint32) []mark {
	mask := cmp.Or(maskOf(have), configured)
	marks := map[mark]bool{}
	of := func(id int) mark { return mark{uint32(id) * (mask & -mask), mask} }
	for _, u := range state.Uplinks() {
		marks[of(u.ID)] = true
	}
	for _, r := range have.Rules {
		if r.Goto == 0 && r.Mark != 0 && r.Mask != 0 {
			marks[mark{r.Mark, r.Mask}] = true
		}
	}
	for _, p := range places {
		if m, err := recall(p.memory()); err == nil {
			for _, id := range m.IDs.Uplinks {
				marks[of(id)] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(marks), func(a, b mark) int { return cmp.Or(cmp.Compare(a.mask, b.mask), cmp.Compare(a.value, b.value)) })
}

// endConnections deletes the entries with our marks: their NAT has gone with
// the rules. It returns how many there were.
func endConnections(k *kernel, marks []mark) (int, error) {
	ct, err := k.connections()
	if err != nil {
		return 0, err
	}
	counts := map[uint32]map[uint32]int{} // by mask and mark
	var errs []error
	ended := 0
	for _, m := range marks {
		if counts[m.mask] == nil {
			all, err := ct.CountByMark(m.mask)
			counts[m.mask], errs = all, append(errs, err)
		}
		ended += counts[m.mask][m.value]
		errs = append(errs, ct.DeleteByMark(m.value, m.mask, conntrack.FamilyAny))
	}
	return ended, errors.Join(errs...)
}
