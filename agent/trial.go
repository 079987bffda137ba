package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/keep"
)

// confirmed is what outlives the agent and the machine: the last configuration
// that somebody meant to keep, and the one that came after it on trial.
type confirmed struct {
	Config config.Written `json:"config"`
	Trial  *trial         `json:"trial,omitempty"`
}

// trial is a configuration that goes out of force by itself unless somebody
// confirms it in time. It stays written down when it has: should an agent start
// with these files, they are still not confirmed.
type trial struct {
	Config config.Written `json:"config"`
	Until  time.Time      `json:"until"`
	Length time.Duration  `json:"length"` // nanoseconds
	Boot   string         `json:"boot"`   // the machine's boot in which it began
}

// left is how much of the trial is left; a clock that was set does not make it
// longer, and no trial outlives its boot.
func (t *trial) left(now time.Time, boot string) time.Duration {
	if t.Boot != boot {
		return 0
	}
	return min(max(t.Until.Sub(now), 0), t.Length)
}

// left is how long these files are still on trial; 0: not, or not any more.
func (c confirmed) left(files config.Written, now time.Time, boot string) time.Duration {
	if !c.tried(files) {
		return 0
	}
	return c.Trial.left(now, boot)
}

// tried reports whether these files were put on trial and not confirmed since.
func (c confirmed) tried(files config.Written) bool {
	return c.Trial != nil && c.Trial.Config.Equal(files)
}

// others are the configurations, other than these files, of which one may have
// been in force when the last agent ended.
func (c confirmed) others(files config.Written) []*config.Config {
	all := []config.Written{c.Config}
	if c.Trial != nil {
		all = append(all, c.Trial.Config)
	}
	var others []*config.Config
	for _, w := range all {
		if w.Size() == 0 || w.Equal(files) {
			continue
		}
		if cfg, err := w.Parse(); err == nil {
			others = append(others, cfg)
		}
	}
	return others
}

// bootID names this boot of the machine (random(4)).
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// first chooses the configuration to start with: the files as they are, unless
// they are wrong or were on trial and nobody confirmed them; then the last one
// that was confirmed, if there is one. It says why in notConfirmed.
func first(files config.Written, kept confirmed, now time.Time, boot string) (cfg *config.Config, from config.Written, notConfirmed, wrong error) {
	cfg, wrong = files.Parse()
	if wrong == nil && (!kept.tried(files) || kept.left(files, now, boot) > 0) {
		return cfg, files, nil, nil
	}
	old, err := kept.Config.Parse()
	switch {
	case err == nil && wrong != nil:
		return old, kept.Config, fmt.Errorf("%w:\n%w\nthe last configuration that was right is in force", api.ErrConfig, wrong), nil
	case err == nil:
		return old, kept.Config, errNotConfirmed, nil
	case wrong != nil:
		return nil, files, nil, wrong
	}
	return cfg, files, nil, nil // the copy is damaged: better this one than none
}

var errNotConfirmed = errors.New(`the configuration in the files was not confirmed in time, so the last confirmed one is in force: ` +
	`mend the files, or write "agent reload" to use them as they are`)

// began notes what the agent started with.
func (d *daemon) began(files config.Written, notConfirmed error, now time.Time) {
	left := d.kept.left(files, now, d.boot)
	switch {
	case notConfirmed != nil:
		d.loadErr = notConfirmed
		d.Log.Error("starting with the last confirmed configuration", "err", notConfirmed)
	case left > 0:
		d.trialEnds = now.Add(left)
		d.Log.Warn("the configuration is still on trial", "confirm_by", d.trialEnds)
	default:
		d.keepConfirmed(files)
	}
}

// keepConfirmed writes down that the files in force are to stay.
func (d *daemon) keepConfirmed(files config.Written) {
	if d.kept.Trial == nil && d.kept.Config.Equal(files) {
		return
	}
	d.kept = confirmed{Config: files}
	if err := d.saveConfirmed(); err != nil {
		d.Log.Warn("a configuration that is wrong after a reboot would have no copy to replace it", "err", err)
	}
}

func (d *daemon) saveConfirmed() error {
	if d.confirmedFile == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(d.confirmedFile), 0o700); err != nil {
		return fmt.Errorf("keeping the confirmed configuration: %w", err)
	}
	return keep.Save(d.confirmedFile, d.kept)
}

// isConfirmed reports whether the files, which say cfg, mean what is confirmed.
func (d *daemon) isConfirmed(files config.Written, cfg *config.Config) bool {
	if d.kept.Config.Equal(files) {
		return true
	}
	kept, err := d.kept.Config.Parse()
	return err == nil && equal(kept, cfg)
}

// beginTrial writes down that the files are on trial, before they are in force.
func (d *daemon) beginTrial(files config.Written, length time.Duration, now time.Time) error {
	before := d.kept
	d.kept.Trial = &trial{Config: files, Until: now.Round(0).Add(length), Length: length, Boot: d.boot}
	if err := d.saveConfirmed(); err != nil {
		d.kept = before
		return fmt.Errorf("without a copy on disk the old configuration could not come back after a crash, so nothing was changed: %w", err)
	}
	return nil
}

// confirm ends the trial well, once that is written down.
func (d *daemon) confirm() (api.ReloadResult, error) {
	if d.trialEnds.IsZero() {
		return api.ReloadResult{}, fmt.Errorf("%w: no configuration waits to be confirmed", api.ErrNothing)
	}
	before := d.kept
	d.kept = confirmed{Config: before.Trial.Config}
	if err := d.saveConfirmed(); err != nil {
		d.kept = before
		return api.ReloadResult{}, fmt.Errorf("the configuration is still on trial, because the next agent would take it for one that nobody confirmed: %w", err)
	}
	d.trialEnds = time.Time{}
	d.Log.Info("configuration confirmed", "generation", d.generation)
	return api.ReloadResult{Generation: d.generation}, nil
}

// trialOver reports whether it is time to put the confirmed configuration back.
func (d *daemon) trialOver(now time.Time) bool {
	return !d.trialEnds.IsZero() && !now.Before(d.trialEnds)
}

// endTrial puts the confirmed configuration back in force.
func (d *daemon) endTrial(now time.Time) {
	d.trialEnds = time.Time{}
	cfg, err := d.kept.Config.Parse()
	if err == nil {
		cfg, err = withMask(cfg, d.ids, d.cfg.Router.MarkMask)
	}
	if err != nil {
		d.loadErr = fmt.Errorf("nobody confirmed the configuration, but the last one cannot come back, so it stays: %w", err)
		d.Log.Error("configuration not confirmed", "err", d.loadErr)
		return
	}
	d.kept.Trial.Length = 0 // whatever becomes of the clock
	if err := d.saveConfirmed(); err != nil {
		d.Log.Warn("the next agent may take the configuration for one on trial", "err", err)
	}
	d.accept(cfg)
	d.loadErr = errNotConfirmed
	d.Log.Warn("configuration not confirmed in time: the last confirmed one is in force again", "generation", d.generation)
	d.report(d.pass(now))
}
