package probe

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/config"
	"multiroute/agent/health"
	"multiroute/routes"
)

// Options are what all probers share.
type Options struct {
	Log    *slog.Logger   // nil: none
	Random io.Reader      // such as crypto/rand.Reader; read by several goroutines at once
	Roots  *x509.CertPool // of HTTPS targets; nil: the system's

	// enter runs a function that opens a socket, where the socket shall be: in
	// tests, in another network namespace. nil: here.
	enter func(func() error) error
}

// Opener returns the function that opens the probers of legs. It needs
// CAP_NET_ADMIN and CAP_NET_RAW in its network namespace. It fails if a right or
// the address is not there, or a target is not of the leg's family; an interface
// that is gone may show with the first probe only.
func Opener(o Options) health.Open {
	if o.enter == nil {
		o.enter = func(f func() error) error { return f() }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return func(leg health.Leg, path health.Path, targets []config.Target, result func(health.Result)) (health.Prober, error) {
		p, err := open(o, leg, path, targets, result)
		if err != nil {
			hint := ""
			if errors.Is(err, unix.EPERM) {
				hint = " (it needs root, or CAP_NET_RAW and CAP_NET_ADMIN)"
			}
			return nil, fmt.Errorf("opening the probes of uplink %s (%s): %w%s", leg.Uplink, leg.Family, err, hint)
		}
		return p, nil
	}
}

// prober implements health.Prober.
type prober struct {
	Options
	leg     health.Leg
	path    health.Path
	result  func(health.Result)
	targets []*target

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	outstanding outstanding
	ignored     atomic.Uint64

	id       uint16        // of our echo requests
	echoes   *socket       // nil: no target needs it
	heard    atomic.Bool   // an echo was answered since one was sent
	gateways *socket       // hears the gateway: ARP or neighbour discovery; nil: the same
	link     *socket       // knows the interface's hardware address; may be gateways
	server   atomic.Uint32 // of path.DNS, the next to be asked
}

var _ health.Prober = &prober{}

// target is one of a prober's targets.
type target struct {
	config.Target
	name *name    // resolves Host; nil: Addr is known
	url  *url.URL // of HTTP and HTTPS
	send func(*target, uint64, time.Duration)
}

// open opens the prober of a leg.
func open(o Options, leg health.Leg, path health.Path, targets []config.Target, result func(health.Result)) (*prober, error) {
	path.Source, path.Gateway = path.Source.Unmap().WithZone(""), path.Gateway.Unmap().WithZone("")
	if !path.Source.IsValid() || routes.FamilyOf(path.Source) != leg.Family {
		return nil, fmt.Errorf("its address %s is not of that family", path.Source)
	}
	var random [4]byte
	if _, err := io.ReadFull(o.Random, random[:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	p := &prober{Options: o, leg: leg, path: path, result: result, id: binary.BigEndian.Uint16(random[:])}
	p.outstanding.next = binary.BigEndian.Uint16(random[2:])
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, t := range targets {
		if err := p.add(t); err != nil {
			p.Close()
			return nil, fmt.Errorf("target %s: %w", t.Text, err)
		}
	}
	return p, nil
}

// add prepares a target, and the sockets it needs.
func (p *prober) add(c config.Target) (err error) {
	t := &target{Target: c}
	t.Addr = t.Addr.Unmap().WithZone("")
	if t.Addr.IsValid() && routes.FamilyOf(t.Addr) != p.leg.Family {
		return fmt.Errorf("%s is not of the family of %s", t.Addr, p.path.Source)
	}
	if !t.Addr.IsValid() && t.Scheme != config.GatewayTarget {
		if t.Host == "" {
			return errors.New("neither an address nor a name")
		}
		t.name = &name{host: t.Host, resolve: p.resolve}
	}
	switch t.Scheme {
	case config.ICMP:
		t.send = p.sendEcho
		if p.echoes == nil {
			p.echoes, err = p.openEchoes()
		}
	case config.TCP:
		t.send = p.inBackground(p.connect)
	case config.DNS:
		t.send = p.inBackground(p.query)
	case config.HTTP, config.HTTPS:
		t.send = p.inBackground(p.get)
		t.url, err = parseURL(c)
	case config.GatewayTarget:
		t.send = p.sendGateway
		if p.gateways == nil && p.path.Gateway.IsValid() {
			err = p.openGateways()
		}
	default:
		err = fmt.Errorf("unknown scheme %d", t.Scheme)
	}
	p.targets = append(p.targets, t)
	return err
}

// Send implements health.Prober.
func (p *prober) Send(i int, token uint64, timeout time.Duration) {
	if i < 0 || i >= len(p.targets) || p.ctx.Err() != nil {
		return
	}
	t := p.targets[i]
	t.send(t, token, timeout)
}

// Collect implements health.Prober.
func (p *prober) Collect() {
	p.echoes.collect(p.heardEcho)
	p.gateways.collect(p.heardGateway)
}

// Close implements health.Prober.
func (p *prober) Close() {
	p.cancel()
	p.echoes.close()
	p.gateways.close()
	p.link.close()
}

// Ignored returns how many answers were not believed: forged, repeated or late.
func (p *prober) Ignored() uint64 { return p.ignored.Load() }

// report tells what came of a probe.
func (p *prober) report(s sent, rtt time.Duration, err error) {
	if p.ctx.Err() != nil {
		return
	}
	if err == nil {
		if s.target.name != nil {
			s.target.name.answered()
		}
	} else {
		rtt, err = 0, fmt.Errorf("%s: %w", s.target.Text, err)
	}
	p.result(health.Result{Token: s.token, RTT: rtt, Err: err})
}

// fail reports what a probe came to without having been sent, but not before
// Send has returned.
func (p *prober) fail(t *target, token uint64, err error) {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
		return // lost on the way, in our own queue: nothing is certain
	}
	go p.report(sent{target: t, token: token}, 0, err)
}

// inBackground makes a Send of a probe that has a goroutine for itself. The
// probe says how long the target took to answer.
func (p *prober) inBackground(probe func(context.Context, *target, netip.Addr) (time.Duration, error)) func(*target, uint64, time.Duration) {
	return func(t *target, token uint64, timeout time.Duration) {
		ctx, cancel := context.WithTimeout(p.ctx, timeout)
		number := p.outstanding.add(sent{target: t, token: token, cancel: cancel})
		go func() {
			defer cancel()
			addr, err := p.address(ctx, t)
			var rtt time.Duration
			if err == nil {
				rtt, err = probe(ctx, t, addr)
			}
			s, ok := p.outstanding.take(number, func(s *sent) bool { return s.token == token })
			if !ok || ctx.Err() != nil || err != nil && timedOut(err) {
				return
			}
			p.report(s, rtt, plain(err))
		}()
	}
}

// timedOut says whether err means that nobody answered.
func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// maxError is how many bytes of an error are kept: some quote what others wrote.
const maxError = 240

// plain leaves out of a network error the addresses, which the target's text
// has already, and what would be too long.
func plain(err error) error {
	var e *net.OpError
	if errors.As(err, &e) && e.Err != nil {
		err = e.Err
	}
	if err == nil || len(err.Error()) <= maxError {
		return err
	}
	return errors.New(strings.ToValidUTF8(err.Error()[:maxError], "") + "...")
}
