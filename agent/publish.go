package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"multiroute/agent/config"
	"multiroute/agent/domains"
	"multiroute/nat"
)

// namer keeps the addresses of rules' domains.
type namer interface {
	Update(w domains.Wanted, refill bool)
	Warnings() []string
}

// resolver prepares what resolves names, and writes their addresses to t, which
// is its own.
func (d *daemon) resolver(cfg *config.Config, t *nat.Table) *domains.Resolver {
	ask := domains.Asker{Random: rand.Reader, System: "/etc/resolv.conf"}
	r := domains.NewResolver(domains.Options{
		Ask: ask.Ask,
		Add: func(elements []domains.Element) error {
			all := make([]nat.Listed, len(elements))
			for i, e := range elements {
				all[i] = nat.Listed{List: e.Set, Addr: e.Addr, Timeout: e.Timeout}
				if e.Timeout == domains.Forever {
					all[i].Timeout = nat.Forever
				}
			}
			return t.Fill(all)
		},
		Empty: t.Empty,
		Holds: t.Addresses,
		Room:  nat.MaxListed,
		Rand:  mathrand.Float64,
		Log:   d.Log,
	})
	d.names, d.folder = r, filepath.Dir(cfg.API.Socket)
	return r
}

// The files that others read.
const (
	dnsmasqFile = "dnsmasq.conf"
	resolvFile  = "resolv.conf"
)

// publish tells what the plan in force means for names: whoever resolves those
// of rules, dnsmasq, and who asks DNS servers.
func (d *daemon) publish() {
	if d.folder == "" || d.cfg == nil {
		return
	}
	d.names.Update(domains.Wanted{Lists: d.plan.Domains, Servers: d.plan.DNS}, d.refill)
	d.refill = false
	d.include.make(d.plan.Domains)
	err := errors.Join(d.include.err, writeOwn(filepath.Join(d.folder, dnsmasqFile), d.include.text))
	if slices.ContainsFunc(d.cfg.Uplinks, func(u config.Uplink) bool { return len(u.DNS) > 0 }) {
		err = errors.Join(err, writeOwn(filepath.Join(d.folder, resolvFile), domains.ResolvConf(d.plan.DNS)))
	} else {
		err = errors.Join(err, removeOwn(filepath.Join(d.folder, resolvFile)))
	}
	wrong := ""
	if err != nil {
		wrong = err.Error()
	}
	if wrong != "" && wrong != d.unwanted {
		d.Log.Warn(unwantedFiles, "err", err)
	}
	d.unwanted = wrong
}

// include is what dnsmasq reads. It is long where lists are, and made when they
// change.
type include struct {
	lists []domains.List
	text  string
	err   error
}

func (i *include) make(lists []domains.List) {
	if i.text != "" && slices.EqualFunc(i.lists, lists, func(x, y domains.List) bool { return x.ID == y.ID }) {
		return
	}
	set := func(v6 bool) func(string) string {
		return func(list string) string { return nat.ListSet(list, v6) }
	}
	i.lists = lists
	i.text, i.err = domains.Dnsmasq(lists, "inet "+nat.TableName, set(false), set(true))
}

// dnsmasqWaits warns if dnsmasq works with what it read before.
func (d *daemon) dnsmasqWaits(before string) []string {
	if before == "" || before == d.include.text {
		return nil
	}
	return []string{"the domains of rules have changed: if dnsmasq fills their sets, restart it, for it reads " + filepath.Join(d.folder, dnsmasqFile) + " only then"}
}

const unwantedFiles = "files for dnsmasq and resolvers are not as they should be"

// writeOwn writes one of our files, for all to read, if it says something else. A
// reader finds the old text or the new one. What somebody else put there stays.
func writeOwn(path, text string) error {
	old, err := readOwn(path)
	if err != nil || old != nil && string(old) == text {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := errors.Join(os.Chmod(tmp, 0o644), os.Rename(tmp, path)); err != nil { // whatever the umask is
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// removeOwn removes one of our files, if it is there.
func removeOwn(path string) error {
	if old, err := readOwn(path); err != nil || old == nil {
		return err
	}
	return os.Remove(path)
}

// readOwn reads one of our files; nil: there is none.
func readOwn(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is there and not ours: move it away", path)
	}
	old, err := os.ReadFile(path)
	if err == nil && !bytes.HasPrefix(old, []byte(domains.Header)) {
		return nil, fmt.Errorf("%s is there and not ours: move it away", path)
	}
	return old, err
}
