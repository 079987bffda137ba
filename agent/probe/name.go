package probe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	freshFor    = time.Minute     // how long the address of a name serves before it is asked for again
	lookTimeout = 5 * time.Second // for one look-up, however long its probe waits
	lookAgain   = 5 * time.Second // not sooner, although the address does not answer
	failAgain   = time.Second     // not sooner after a look-up that failed
	suspicious  = 3               // probes in a row without an answer, for another address to be tried
)

// name is a target's host name and the address it has for now. A name that
// cannot be resolved any more keeps its last address: the target may live all the
// same. Its methods may be called by several goroutines at once.
type name struct {
	host    string
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	mu         sync.Mutex
	addr       netip.Addr    // invalid: not known yet
	looked     time.Time     // when the last look-up ended
	err        error         // of the last look-up
	unanswered int           // probes in a row
	looking    chan struct{} // closed when the running look-up ends; nil: none runs
}

// known returns the address for one more probe, if there is one, and looks it up
// again in the background if it is old or does not answer.
func (n *name) known(ctx context.Context) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.addr.IsValid() {
		return netip.Addr{}, false
	}
	age := time.Since(n.looked)
	if age > freshFor || n.unanswered >= suspicious && age > lookAgain {
		n.look(ctx)
	}
	n.unanswered++
	return n.addr, true
}

// answered says that the address is a good one.
func (n *name) answered() {
	n.mu.Lock()
	n.unanswered = 0
	n.mu.Unlock()
}

// wait returns the address for one more probe; it waits for the first look-up
// until wait ends. Look-ups end with life.
func (n *name) wait(life, wait context.Context) (netip.Addr, error) {
	if addr, ok := n.known(life); ok {
		return addr, nil
	}
	n.mu.Lock()
	if n.looking == nil && n.err != nil && time.Since(n.looked) < failAgain {
		defer n.mu.Unlock()
		return netip.Addr{}, n.err
	}
	looking := n.look(life)
	n.mu.Unlock()
	select {
	case <-looking:
	case <-wait.Done():
		return netip.Addr{}, wait.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addr.IsValid() {
		n.unanswered++
		return n.addr, nil
	}
	return netip.Addr{}, n.err
}

// look starts a look-up unless one is running. The caller holds the lock.
func (n *name) look(ctx context.Context) <-chan struct{} {
	if n.looking != nil {
		return n.looking
	}
	done := make(chan struct{})
	n.looking = done
	go func() {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		addrs, err := n.resolve(ctx, n.host)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.learn(addrs, err)
		n.looked, n.looking = time.Now(), nil
		close(done)
	}()
	return done
}

// learn takes what a look-up found. An address that answers stays, if it is
// still among them; otherwise the next one has its turn.
func (n *name) learn(addrs []netip.Addr, err error) {
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("resolving %s: it has no address of this family", n.host)
	}
	if n.err = err; err != nil {
		return
	}
	at := slices.Index(addrs, n.addr)
	if at >= 0 && n.unanswered < suspicious {
		return
	}
	n.addr = addrs[(at+1)%len(addrs)]
	n.unanswered = 0
}
