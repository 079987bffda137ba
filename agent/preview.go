package agent

import (
	"fmt"
	"strings"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/agent/sysctl"
	"multiroute/nat"
	"multiroute/routes"
)

// preview is what a pass would do with the configuration files as they are.
type preview struct {
	plan  plan.Plan
	rules nat.Ruleset
	state nat.State
	ops   []routes.Op
	wrong []sysctl.Deviation
}

// look reads files and kernel and writes nothing. In known is what the daemon
// knows, where there is one; look adds the rest.
func look(path string, k router, t table, s sysctl.Store, known plan.Input) (preview, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return preview{}, fmt.Errorf("%w:\n%w", api.ErrConfig, err)
	}
	known.Config, known.IDs, known.Now = cfg, plan.Assign(known.IDs, cfg), time.Now()
	if known.Facts, err = k.Facts(); err != nil {
		return preview{}, err
	}
	known.Ports, known.PortsUnread = s.Ports()
	have, err := k.Read()
	if err != nil {
		return preview{}, err
	}
	if mask := maskOf(have); mask != 0 && mask != cfg.Router.MarkMask {
		return preview{}, fmt.Errorf("%w:\n%w", api.ErrConfig, maskError(mask, cfg.Router.MarkMask))
	}
	var p preview
	if p.state, err = t.Read(); err != nil {
		return preview{}, err
	}
	p.plan = plan.Make(known)
	if weights := foresee(known, p.plan); len(weights)+len(known.Balance) > 0 {
		known.Balance = weights
		p.plan = plan.Make(known)
	}
	p.rules = nat.Compile(p.plan.NAT)
	p.ops = routes.Diff(have, p.plan.Routes)
	if p.wrong, err = s.Check(p.plan.Sysctls); err != nil {
		return preview{}, err
	}
	if !cfg.Router.ManageSysctls {
		p.wrong = nil
	}
	return p, nil
}

// commands prints the difference as nft, ip and sysctl would make it; empty if
// there is none.
func (p preview) commands() string {
	var b strings.Builder
	for _, c := range p.state.Commands(p.rules) {
		fmt.Fprintf(&b, "nft %s\n", c)
	}
	for _, op := range p.ops {
		fmt.Fprintln(&b, op)
	}
	for _, w := range p.wrong {
		fmt.Fprintf(&b, "sysctl -w %s=%s\n", strings.ReplaceAll(w.Key, "/", "."), w.Value)
	}
	return b.String()
}

// Preview computes, without a daemon, what a start with the configuration at
// path would do: the commands, and the whole state in nft's and ip's notation.
// It changes nothing. It needs CAP_NET_ADMIN to read nftables.
func Preview(path string) (commands, nft, ip string, err error) {
	cfg, err := config.Load(path)
	if err != nil { // also for those who may not look at the kernel
		return "", "", "", fmt.Errorf("%w:\n%w", api.ErrConfig, err)
	}
	k, err := openKernel()
	if err != nil {
		return "", "", "", err
	}
	defer k.Close()
	state, err := k.table.Read()
	if err != nil {
		return "", "", "", err
	}
	notes := state.Notes() // nobody but the service manager knows all of them
	if at, ok := noted(state); !ok || at.socket != cfg.API.Socket {
		notes = configured(cfg, "").notes()
	}
	p, err := look(path, k.router, k.table, sysctl.Store{Root: "/proc/sys"}, plan.Input{IDs: idsFrom(state), Notes: notes})
	if err != nil {
		return "", "", "", err
	}
	return p.commands(), p.rules.String(), p.plan.Routes.String(), nil
}
