package agent

import (
	"context"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/health"
	"multiroute/agent/plan"
)

// handler answers the control socket: it has the owner do what is asked.
type handler struct {
	d   *daemon
	ctx context.Context // the daemon's

	connections tally
}

var _ api.Handler = &handler{}

// ask runs f in the owner's goroutine.
func (h *handler) ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case h.d.calls <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return ctx.Err()
	case <-h.ctx.Done():
		return api.ErrBusy
	}
	<-done // the owner never leaves a call half done
	return nil
}

// Status implements api.Handler. Counting connections takes time in proportion
// to their number, so it is not done by the owner.
func (h *handler) Status(ctx context.Context) (api.Status, error) {
	var s api.Status
	var mask uint32
	err := h.ask(ctx, func() { s, mask = h.d.status(), h.d.cfg.Router.MarkMask })
	if err != nil {
		return api.Status{}, err
	}
	counts, err := h.connections.count(ctx, h.d.counter, mask)
	if err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	for i := range s.Uplinks {
		if counts != nil {
			n := counts[s.Uplinks[i].Mark]
			s.Uplinks[i].Connections = &n
		}
	}
	return s, nil
}

// Reload implements api.Handler.
func (h *handler) Reload(ctx context.Context, onTrial time.Duration) (result api.ReloadResult, err error) {
	if asked := h.ask(ctx, func() { result, err = h.d.reload(onTrial) }); asked != nil {
		return api.ReloadResult{}, asked
	}
	return result, err
}

// Confirm implements api.Handler.
func (h *handler) Confirm(ctx context.Context) (result api.ReloadResult, err error) {
	if asked := h.ask(ctx, func() { result, err = h.d.confirm() }); asked != nil {
		return api.ReloadResult{}, asked
	}
	return result, err
}

// Plan implements api.Handler.
func (h *handler) Plan(ctx context.Context) (text string, err error) {
	if asked := h.ask(ctx, func() {
		var p preview
		if p, err = look(h.d.Config, h.d.router, h.d.table, h.d.sysctl, plan.Input{IDs: h.d.ids, Notes: h.d.notes, Health: h.d.monitor.Verdicts(), Disabled: h.d.disabled.reasons(), Balance: h.d.balancer.Weights()}); err == nil {
			text = p.commands()
		}
	}); asked != nil {
		return "", asked
	}
	return text, err
}

// Show implements api.Handler.
func (h *handler) Show(ctx context.Context, what string) (text string, err error) {
	if asked := h.ask(ctx, func() {
		if what == api.ShowNFT {
			text = h.d.ruleset.String()
		} else {
			text = h.d.plan.Routes.String()
		}
	}); asked != nil {
		return "", asked
	}
	return text, nil
}

// Stop implements api.Handler.
func (h *handler) Stop(context.Context) error {
	h.d.Log.Info("asked to stop")
	h.d.stop()
	return nil
}

// SetUplink implements api.Handler.
func (h *handler) SetUplink(ctx context.Context, name string, enabled bool, d time.Duration) (err error) {
	if asked := h.ask(ctx, func() { err = h.d.setUplink(name, enabled, d) }); asked != nil {
		return asked
	}
	return err
}

// status is what the owner knows, and what the kernel says now.
func (d *daemon) status() api.Status {
	facts, err := d.router.Facts()
	traffic := d.carried(facts.Links)
	if err == nil {
		d.rates.see(time.Now(), traffic)
	}
	s := d.describe(traffic)
	if err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	return s
}

// describe is what the owner knows, and what the uplinks carried.
func (d *daemon) describe(traffic map[string]carried) api.Status {
	s := api.Status{Version: d.Version, PID: os.Getpid(), Ready: d.ready,
		Config:   api.ConfigStatus{Generation: d.generation, LoadedAt: timeOrNil(d.loadedAt)},
		Warnings: slices.Concat(d.warnings, d.others, d.plan.Warnings),
		Drift:    api.DriftStatus{Repairs: d.drift.repairs, LastRepair: timeOrNil(d.drift.last)}}
	if !d.trialEnds.IsZero() {
		s.Config.ConfirmBy = timeOrNil(d.trialEnds)
	}
	if d.loadErr != nil {
		text := d.loadErr.Error()
		s.Config.Error = &text
	}
	if d.failing != "" {
		s.Warnings = append(s.Warnings, d.failing)
	}
	if d.cfg.API != d.serving {
		s.Warnings = append(s.Warnings, apiWaits)
	}
	if shut := d.shut.Load(); shut != nil {
		s.Warnings = append(s.Warnings, *shut)
	}
	s.Warnings = append(s.Warnings, d.names.Warnings()...)
	if d.unwanted != "" {
		s.Warnings = append(s.Warnings, unwantedFiles+": "+d.unwanted)
	}
	verdicts := d.monitor.Verdicts()
	for _, u := range d.plan.Uplinks {
		status := d.uplinkStatus(u, traffic)
		measured(&status, u, verdicts)
		if until, ok := d.disabled[u.Name]; ok {
			status.Until = timeOrNil(until)
		}
		s.Uplinks = append(s.Uplinks, status)
	}
	for _, p := range d.plan.Policies {
		if p.Implied {
			continue
		}
		status := api.PolicyStatus{Name: p.Name, ID: p.ID}
		carriers := p.Either()
		if carriers.Tier != plan.NoTier {
			status.Tier = &carriers.Tier
		}
		for _, m := range carriers.Members {
			status.Members = append(status.Members, api.MemberStatus{Uplink: m.Uplink, Weight: m.Weight})
		}
		s.Policies = append(s.Policies, status)
	}
	return s
}

func (d *daemon) uplinkStatus(u plan.Uplink, traffic map[string]carried) api.UplinkStatus {
	s := api.UplinkStatus{Name: u.Name, ID: u.ID, State: api.State(u.State), Interface: u.Interface,
		Gateway: addrOrNil(u.V4.Nexthop.Gateway), Gateway6: addrOrNil(u.V6.Nexthop.Gateway),
		Addresses: slices.Concat(u.V4.Addresses, u.V6.Addresses), Mark: u.Mark, Table: u.Table,
		Since: timeOrNil(d.states[u.Name].since)}
	if u.Reason != "" {
		s.Reason = &u.Reason
	}
	if c, ok := traffic[u.Name]; ok {
		s.RxBytes, s.TxBytes = &c.InBytes, &c.OutBytes
		if r, ok := d.rates.newest[u.Name]; ok {
			s.RxRate, s.TxRate = &r.rx, &r.tx
		}
	}
	return s
}

// measured adds what the probes measured: by IPv4 where that is probed, else by
// IPv6.
func measured(s *api.UplinkStatus, u plan.Uplink, verdicts map[health.Leg]health.Verdict) {
	for _, f := range families {
		v, ok := verdicts[health.Leg{Uplink: u.Name, Family: f}]
		if !ok || v.Probes == 0 {
			continue
		}
		if s.State == api.Down && !v.Until.IsZero() {
			s.Until = timeOrNil(v.Until)
		}
		s.Loss = &v.Loss
		if v.RTT > 0 {
			s.RTT, s.Jitter = milliseconds(v.RTT), milliseconds(v.Jitter)
		}
		return
	}
}

func milliseconds(d time.Duration) *float64 {
	ms := math.Round(float64(d)/float64(time.Microsecond)) / 1000
	return &ms
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.Round(0) // the wall clock only
	return &t
}

func addrOrNil(a netip.Addr) *netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return &a
}
