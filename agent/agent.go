package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"multiroute/agent/alarm"
	"multiroute/agent/api"
	"multiroute/agent/balance"
	"multiroute/agent/config"
	"multiroute/agent/hooks"
	"multiroute/agent/keep"
	"multiroute/agent/notify"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/agent/web"
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// Options is what a daemon is started with.
type Options struct {
	Config  string // path of the main configuration file
	Version string
	State   string // folder for what outlives a reboot; "": the usual one
	Log     *slog.Logger
	Reload  <-chan os.Signal // each signal reloads
	Service *notify.Socket   // the service manager; nil: nobody
	Garbage func(int)        // sets how much garbage there may be, in percent of what is in use; nil: not the agent's business
}

// The kernel, as the owner's loop needs it. Tests put failures in between.
type (
	router interface {
		Facts() (routes.Facts, error)
		Read() (routes.Spec, error)
		Apply([]routes.Op) error
		MainPrefixes() ([]netip.Prefix, error)
	}
	table interface {
		Read() (nat.State, error)
		Write(nat.State, nat.Ruleset) error
		Counters() (map[string]nat.Count, error)
		ForeignUpTo(rules uint32) (*nat.Foreign, error)
	}
	counter interface {
		CountByMark(mask uint32) (map[uint32]int, error)
	}
	tracker interface {
		counter
		DeleteByMark(mark, mask uint32, family uint8) error
		DeleteOutgoing(mark, mask uint32, family uint8) error
		Each(conntrack.Filter, func(conntrack.Entry) error) error
		SetMarks([]conntrack.MarkUpdate) (int, error)
		DeleteAll([]conntrack.Entry) (int, error)
	}
)

// Intervals of the loop.
const (
	// resync is how often the kernel is read without a reason: it tells of what
	// changes.
	resync = 30 * time.Second
	// glance is how often it is looked for what nobody tells of, such as the hour.
	glance = time.Second
	// reread is how often the sysctls are read: of these it does not tell.
	reread = 3 * time.Second
	// patience is how long the loop waits before it undoes what another program
	// did to rules: that program may be in the middle of something.
	patience = 100 * time.Millisecond
	// gap is the shortest time between two passes, so that a storm of events
	// costs a bounded part of a CPU.
	gap = 10 * time.Millisecond
	// Repairs of what other programs changed: repairBurst at once, then one
	// each repairEvery.
	repairEvery = 2 * time.Second
	repairBurst = 10
	// retryMin and retryMax bound the wait after a failed pass; it doubles.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// daemon is the owner's state. Only the owner's goroutine (Run's loop) touches
// it; others send functions to calls.
type daemon struct {
	Options
	router   router
	table    table
	tracker  tracker
	counter  counter  // a connection of its own: counting must not hold up a failover
	errands  *errands // nil: the owner does everything itself
	sysctl   sysctl.Store
	monitor  watcher
	calls    chan func()
	dirty    chan struct{} // capacity 1: "look at the kernel"
	news     chan struct{} // capacity 1: "something happened to an uplink"; nil: nobody shows it
	stop     func()
	gateways *watched

	cfg        *config.Config
	serving    config.API // in force since the start
	generation uint64
	loadedAt   time.Time
	loadErr    error // of the newest attempt to load another configuration

	kept          confirmed
	confirmedFile string // where kept is; "": nowhere
	boot          string
	trialEnds     time.Time // when the configuration in force goes unless somebody confirms it; zero: it stays

	warnings []string
	others   []string // warnings about other programs' rules, as seen last

	ids      plan.IDs
	ports    sysctl.Ports // of the router's own programs, as read last
	plan     plan.Plan    // the newest
	ruleset  nat.Ruleset  // compiled from plan
	compiler nat.Cache
	settled  plan.Plan // the newest whose connections were dealt with
	// predecessors are configurations of which one may have been in force before
	// the first; nil once settled has what is left of them.
	predecessors []*config.Config
	owing        bool // the kernel refused something of the newest plan, or it waits for the worker: what is missing is nobody's doing
	trying       bool // this pass will be undone if the kernel refuses something, so it stops there
	fresh        bool // our table, or part of it, was not there, and connections of that time are not dealt with
	applied      bool // plan and ruleset were once written or found in the kernel
	ready        bool
	refused      []routes.Op // all there was to do when the kernel refused some of it because of single uplinks; nil: it did not
	served       bool        // there is nothing else to do than refused
	states       map[string]uplinkState
	rulesChange  time.Time    // when another set of rules is in force; zero: never
	swept        []ownAddress // the router's addresses when connections were last looked through for others

	balancer  balance.Balancer
	links     interfaces // what it counts
	uncounted bool       // that failed the last time
	events    events
	announced uint64                    // the number of the newest event that announce told of
	hooks     *hooks.Runner             // tells others
	heard     atomic.Pointer[time.Time] // when changed was called, and no pass has begun since
	noticed   time.Time                 // when what this pass is about began
	seen      []routes.Link             // interfaces, as the newest pass saw them
	rates     rates                     // of interfaces, as seen now and then
	writes    web.Writes
	reloads   web.Reloads
	shut      atomic.Pointer[string] // why there are no metrics and no status page although they are wanted; nil: there are

	notes      []string // left in the table for whoever comes next
	disabled   disabled
	memoryFile string             // where the next agent finds what it should know; "": nowhere
	remembered memory             // what is in it
	inherited  map[string]lasting // the uplinks as a predecessor left them

	names    namer
	refill   bool   // sets of addresses may have been made anew since names were last told
	folder   string // where dnsmasq and resolvers find our files; "": nowhere
	include  include
	unwanted string // the last reason why one of these was not written, so that it is logged once
	service  manager
	told     told

	drift   drift
	retry   time.Duration
	failing string // the last pass's error, so that it is logged once
}

type uplinkState struct {
	state  plan.State
	reason string
	since  time.Time
	byHand bool                // somebody took it out
	usable [len(families)]bool // what it can carry
}

// ErrStopped is what Run returns when the daemon was asked to stop, or did not
// start, because it is purged: who starts it again would undo that.
var ErrStopped = errors.New("asked to stop")

// Run is the daemon. It returns nil when ctx ends, and ErrStopped when that
// was the cause or a purge is at work; the data plane stays as it is.
func Run(ctx context.Context, o Options) error {
	var kept confirmed
	files := config.Read(o.Config)
	o.spare(files)
	keptAt := configured(config.Fallback(o.Config), o.State).confirmed()
	if ok, err := keep.Load(keptAt, &kept); err != nil {
		o.Log.Warn("the confirmed configuration cannot be read", "err", err)
	} else if !ok {
		kept = confirmed{} // not the half of it
	}
	cfg, from, notConfirmed, err := first(files, kept, time.Now(), bootID())
	if err != nil {
		return fmt.Errorf("%w:\n%w", api.ErrConfig, err)
	}
	guard, squatted, err := lock(cfg.API.Socket)
	if errors.Is(err, ErrRunning) && purging() {
		o.Log.Info("not started: agent purge is at work")
		return ErrStopped
	}
	if err != nil {
		return err
	}
	if guard != nil {
		defer guard.Close()
	}
	listener, err := api.Listen(cfg.API.Socket, cfg.API.Group)
	if err != nil {
		return err
	}
	defer listener.Close()

	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	at := configured(cfg, o.State)
	before, moved, err := predecessor(k.table, at)
	if err != nil {
		return err
	}
	if moved {
		if err := at.inherit(before); err != nil {
			o.Log.Warn("what the last agent left is not complete: agent purge may not be able to put all kernel parameters back", "left_in", before.folder(), "err", err)
		}
	}
	ct, err := k.connections()
	if err != nil {
		return err
	}
	counter, err := conntrack.Dial()
	if err != nil {
		return err
	}
	defer counter.Close()
	worker, err := conntrack.Dial()
	if err != nil {
		return err
	}
	defer worker.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	store := at.sysctls()
	store.Files = &sysctl.Files{} // they are looked at every second
	defer store.Files.Close()
	d := newDaemon(o, k.router, k.table, ct, store)
	d.counter = counter
	d.stop = func() { cancel(ErrStopped) }
	d.notes = at.notes()
	filled, err := nat.Open() // a connection of its own: names are resolved beside the owner
	if err != nil {
		return err
	}
	defer filled.Close()
	resolver := d.resolver(cfg, filled)
	counters, err := routes.OpenCounters()
	if err != nil {
		return err
	}
	defer counters.Close()
	beats, err := alarm.Open()
	if err != nil {
		return err
	}
	defer beats.Close()
	monitor, err := d.watch(at.memory(), beats, counters)
	if err != nil {
		return err
	}
	links, err := routes.OpenCounters() // the probes have theirs
	if err != nil {
		return err
	}
	defer links.Close()
	d.links = links
	d.warnings = listener.Warnings
	if squatted != nil {
		d.warnings = append(d.warnings, squatted.Error())
	}
	if open := openWarning(cfg.API.HTTP); open != "" {
		d.warnings = append(d.warnings, open)
	}
	for _, w := range d.warnings {
		o.Log.Warn(w)
	}
	d.kept, d.confirmedFile, d.boot = kept, keptAt, bootID()
	d.predecessors = kept.others(from)
	d.retell(cfg)
	if err := d.start(cfg); err != nil {
		return err
	}
	d.began(from, notConfirmed, time.Now())
	if moved {
		if err := before.leave(at); err != nil {
			o.Log.Warn("something of the last agent is left", "err", err)
		}
	}
	traffic, err := routes.OpenCounters() // the probes read theirs at other times
	if err != nil {
		return err
	}
	defer traffic.Close()

	rules, err := nat.Open() // likewise
	if err != nil {
		return err
	}
	defer rules.Close()

	tasks, ctx := errgroup.WithContext(ctx)
	h := &handler{d: d, ctx: ctx}
	windows, err := d.show(ctx, h, traffic.Read, rules.Counters, counter.Stats)
	if err != nil {
		return err
	}
	tasks.Go(func() error { return routes.Watch(ctx, d.gateways.has, k.router.NeighbourFailed, d.changed) })
	tasks.Go(func() error { return nat.Watch(ctx, d.changed, resolver.Filled) })
	tasks.Go(func() error { return monitor.Run(ctx) })
	tasks.Go(func() error { return resolver.Run(ctx) })
	for _, task := range windows {
		tasks.Go(task)
	}
	server := api.NewServer(h, listener.GID, o.Log)
	tasks.Go(func() error { return server.Serve(ctx, listener) })
	d.errands = newErrands()
	tasks.Go(func() error { d.errands.run(worker); return nil })
	tasks.Go(func() error { return d.hooks.Run(ctx) })
	tasks.Go(func() error { return d.loop(ctx) })
	err = tasks.Wait()
	d.remember() // what hooks were told since, and what not
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	o.Log.Info("stopped; the data plane goes on without the agent")
	if errors.Is(context.Cause(ctx), ErrStopped) {
		return ErrStopped
	}
	return nil
}

func newDaemon(o Options, r router, t table, c tracker, s sysctl.Store) *daemon {
	return &daemon{Options: o, service: o.Service, router: r, table: t, tracker: c, counter: c, sysctl: s, stop: func() {},
		calls: make(chan func()), dirty: make(chan struct{}, 1), gateways: &watched{}, states: map[string]uplinkState{}, monitor: nobody{}, names: nobody{}, links: nothing{}, disabled: disabled{},
		hooks: hooks.New(o.Log), drift: drift{limiter: rate.NewLimiter(rate.Every(repairEvery), repairBurst)}}
}

// changed tells the owner to look at the kernel. It never blocks.
func (d *daemon) changed() {
	if d.heard.Load() == nil {
		now := time.Now()
		d.heard.CompareAndSwap(nil, &now)
	}
	select {
	case d.dirty <- struct{}{}:
	default: // it will look anyway
	}
}

// start puts the configuration in force for the first time. What the kernel
// refuses because of single uplinks is left for the loop to try again.
func (d *daemon) start(cfg *config.Config) error {
	state, err := d.table.Read()
	if err != nil {
		return err
	}
	have, err := d.router.Read()
	if err != nil {
		return err
	}
	d.ids = idsFrom(state)
	if !state.Exists { // somebody took the table away, but connections may still have its marks
		d.ids = d.remembered.IDs
	}
	d.serving = cfg.API
	wanted := cfg.Router.MarkMask
	if mask := maskOf(have); mask != 0 && mask != wanted {
		if cfg, err = withMask(cfg, d.ids, mask); err != nil {
			return err
		}
	}
	d.accept(cfg)
	if cfg.Router.MarkMask != wanted {
		d.loadErr = maskError(cfg.Router.MarkMask, wanted)
		d.Log.Error("all of the configuration is in force but the mask", "err", d.loadErr)
	}
	d.settled = settledBy(state, have, cfg.Router.MarkMask)
	for _, c := range d.predecessors {
		d.settled.NAT.Forwards = append(d.settled.NAT.Forwards, plan.Forwards(c, d.ids)...)
	}
	d.predecessors = nil
	d.Log.Info("starting", "version", d.Version, "config", d.Config, "uplinks", len(cfg.Uplinks))
	err = d.pass(time.Now())
	if err != nil && !routes.Refused(err) {
		return fmt.Errorf("putting the configuration into the kernel: %w", err)
	}
	d.report(err)
	d.lookAtOthers()
	return nil
}

// idsFrom learns the ids that a predecessor gave out.
func idsFrom(s nat.State) plan.IDs {
	ids := plan.IDs{Uplinks: map[string]int{}, Policies: map[string]int{}}
	for _, u := range s.Uplinks() {
		ids.Uplinks[u.Name] = u.ID
	}
	for _, p := range s.Policies() {
		ids.Policies[p.Name] = p.ID
	}
	return ids
}

// accept makes cfg the configuration in force.
func (d *daemon) accept(cfg *config.Config) {
	d.cfg = cfg
	d.ids = plan.Assign(d.ids, cfg)
	d.generation++
	d.loadedAt = time.Now()
	d.loadErr = nil
}

// loop owns the state until ctx ends.
func (d *daemon) loop(ctx context.Context) error {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	sysctls := time.NewTicker(reread)
	defer sysctls.Stop()
	next := time.NewTimer(gap)
	defer next.Stop()
	var last time.Time
	armed := time.Now().Add(gap)
	arm := func(at time.Time) {
		if armed.IsZero() || at.Before(armed) {
			armed = at
			next.Reset(max(0, time.Until(at)))
		}
	}
	rearm := func() {
		if d.drift.pending || d.retry > 0 {
			arm(time.Now().Add(max(d.retry, patience)))
		}
	}
	rearm() // what start left to do
	var feed <-chan time.Time
	if every := d.service.Every(); every > 0 {
		feeder := time.NewTicker(every / 2)
		defer feeder.Stop()
		feed = feeder.C
	}
	d.tell()
	var results <-chan error
	if d.errands != nil {
		results = d.errands.results
		defer close(d.errands.jobs)
	}
	asked := false // since the newest pass
	for {
		calls := d.calls
		if asked && d.heard.Load() != nil {
			calls = nil // what happens to uplinks comes before questions; but one is answered whatever happens
		}
		select {
		case <-ctx.Done():
			d.say(notify.Stopping)
			return nil
		case call := <-calls:
			asked = true
			call()
			d.tell()
			rearm()
			continue
		case <-feed:
			d.say(notify.Watchdog)
			continue
		case _, ok := <-d.Reload:
			if !ok {
				d.Reload = nil
				continue
			}
			if _, err := d.reload(0); err != nil {
				d.Log.Error("reload failed; the old configuration stays in force", "err", err)
			}
			rearm()
			continue
		case <-d.dirty:
			arm(last.Add(gap))
			continue
		case <-d.hooks.Told():
			d.remember()
			continue
		case err := <-results:
			if err = d.finished(err); err != nil {
				d.report(err)
				d.tell()
			}
			arm(time.Now().Add(d.retry))
			continue
		case now := <-tick.C:
			if d.trialOver(now) {
				d.endTrial(now)
				rearm()
			}
			if d.rebalance(now) || now.Sub(last) >= resync || d.disabled.expire(now, d.cfg) || d.hourStrikes(now) {
				arm(now)
			}
			continue
		case now := <-sysctls.C:
			if d.sysctlsChanged() {
				arm(now)
			}
			continue
		case <-next.C:
			armed = time.Time{}
		}
		last, asked = time.Now(), false
		err := d.pass(last)
		if err != nil || !d.busy() { // else it is not known yet
			d.report(err)
		}
		d.tell()
		switch {
		case err != nil:
			arm(time.Now().Add(d.retry))
		case d.drift.pending:
			arm(d.drift.due)
		}
	}
}

// hourStrikes reports whether other rules are in force from now on.
func (d *daemon) hourStrikes(now time.Time) bool {
	return !d.rulesChange.IsZero() && !now.Before(d.rulesChange)
}

// sysctlsChanged reports whether somebody changed a sysctl of ours, or the ports
// of the router's own programs.
func (d *daemon) sysctlsChanged() bool {
	if ports, err := d.sysctl.Ports(); err == nil && !reflect.DeepEqual(ports, d.ports) {
		return true
	}
	if !d.cfg.Router.ManageSysctls {
		return false
	}
	wrong, err := d.sysctl.Check(d.plan.Sysctls)
	return err == nil && len(wrong) > 0
}

// report logs a failed pass once, and doubles the wait before the next.
func (d *daemon) report(err error) {
	if err == nil {
		if d.failing != "" {
			d.Log.Info("the kernel holds the wanted state again")
		}
		d.failing, d.retry = "", 0
		return
	}
	d.retry = min(max(retryMin, 2*d.retry), retryMax)
	if err.Error() != d.failing {
		d.failing = err.Error()
		d.Log.Error("bringing the kernel to the wanted state", "err", err, "again_in", d.retry)
	}
}

// reload reads the configuration again and puts it in force, on trial if that
// is above 0. If the kernel refuses the new one, the old one is put back.
func (d *daemon) reload(onTrial time.Duration) (api.ReloadResult, error) {
	defer d.tellReload()()
	result, err := d.load(onTrial)
	switch {
	case errors.Is(err, api.ErrConfig):
		d.reloads.Invalid++
	case err != nil:
		d.reloads.Refused++
	default:
		d.reloads.Applied++
	}
	return result, err
}

// noMoreRefused reports whether the kernel refuses no other uplink's routes now than
// before. A route over several next hops lacks those that are refused by
// themselves, too.
func noMoreRefused(before, now []routes.Op) bool {
	return !slices.ContainsFunc(now, func(op routes.Op) bool {
		several := op.Route != nil && len(op.Route.Nexthops) > 1
		return !several && !slices.ContainsFunc(before, func(o routes.Op) bool { return o.String() == op.String() })
	})
}

// apiWaits is the warning while the configuration has another [api] than the agent.
const apiWaits = "[api] is not what the agent began with: it takes effect when the agent is started again"

func (d *daemon) load(onTrial time.Duration) (api.ReloadResult, error) {
	files := config.Read(d.Config)
	d.spare(files)
	cfg, err := files.Parse()
	if err != nil {
		d.loadErr = err
		return api.ReloadResult{}, fmt.Errorf("%w:\n%w", api.ErrConfig, err)
	}
	if cfg.Router.MarkMask != d.cfg.Router.MarkMask {
		d.loadErr = maskError(d.cfg.Router.MarkMask, cfg.Router.MarkMask)
		return api.ReloadResult{}, fmt.Errorf("%w:\n%w", api.ErrConfig, d.loadErr)
	}
	result := api.ReloadResult{Changed: !equal(cfg, d.cfg)}
	if cfg.API != d.serving {
		result.Warnings = append(result.Warnings, apiWaits)
	}
	now, keptBefore := time.Now(), d.kept
	if onTrial != 0 && d.isConfirmed(files, cfg) {
		onTrial = 0 // what would come back is the same
	}
	if onTrial != 0 {
		if err := d.beginTrial(files, onTrial, now); err != nil {
			d.loadErr = err
			return api.ReloadResult{}, err
		}
	}
	rules, included := d.ruleset, d.include.text
	before, old, oldIDs, oldAt, oldGeneration, oldOut := d.plan, d.cfg, d.ids, d.loadedAt, d.generation, maps.Clone(d.disabled)
	d.accept(cfg)
	if !result.Changed {
		d.generation = oldGeneration
	}
	refused, put := d.refused, d.try
	if refused != nil { // that is not this configuration's fault
		put = d.pass
	}
	err = put(now)
	if err != nil && !(refused != nil && routes.Refused(err) && noMoreRefused(refused, d.refused)) {
		if onTrial != 0 {
			d.kept = keptBefore
			err = errors.Join(err, d.saveConfirmed())
		}
		d.cfg, d.ids, d.loadedAt, d.generation, d.loadErr, d.disabled = old, oldIDs, oldAt, oldGeneration, err, oldOut
		d.report(d.pass(time.Now()))
		return api.ReloadResult{}, fmt.Errorf("the kernel refused the new configuration, the old one is in force again: %w", err)
	}
	d.report(err)
	if err != nil {
		result.Warnings = append(result.Warnings, "the kernel refuses what leads to single uplinks, as before; the others are served: "+err.Error())
	}
	if onTrial != 0 {
		d.trialEnds = now.Add(onTrial)
		until := d.kept.Trial.Until
		result.ConfirmBy = &until
	} else {
		d.trialEnds = time.Time{}
		d.keepConfirmed(files)
	}
	result.Generation = d.generation
	result.Changes = changes(before, d.plan, !sameRuleset(rules, d.ruleset))
	d.lookAtOthers()
	result.Warnings = slices.Concat(result.Warnings, d.dnsmasqWaits(included), d.others, d.plan.Warnings)
	d.Log.Info("configuration loaded", "generation", d.generation, "changed", result.Changed, "changes", result.Changes)
	return result, nil
}
