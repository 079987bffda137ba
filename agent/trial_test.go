package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/keep"
)

// onTrial makes a daemon whose configuration was confirmed and then replaced by
// onlyB for a minute.
func onTrial(t *testing.T) *rig {
	t.Helper()
	r := started(t, twoUplinks)
	r.confirmedFile, r.boot = filepath.Join(t.TempDir(), "state", "confirmed.json"), "this boot"
	r.began(config.Read(r.path), nil, r.now)
	r.write(onlyB)
	got, err := r.reload(time.Minute)
	if err != nil || got.ConfirmBy == nil || len(r.cfg.Uplinks) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if by := r.status().Config.ConfirmBy; by == nil || time.Until(*by) > time.Minute {
		t.Errorf("status says %v", by)
	}
	return r
}

// kept is what an agent that starts now finds.
func (r *rig) keptNow() confirmed {
	r.t.Helper()
	var kept confirmed
	if ok, err := keep.Load(r.confirmedFile, &kept); !ok || err != nil {
		r.t.Fatal("nothing was kept", err)
	}
	return kept
}

// A configuration that nobody confirms goes in time, and no sooner.
func TestTrialEnds(t *testing.T) {
	t.Parallel()
	r := onTrial(t)
	if now := r.trialEnds.Add(-time.Millisecond); r.trialOver(now) {
		t.Error("over too soon")
	}
	if !r.trialOver(r.trialEnds) {
		t.Error("not over")
	}
	r.endTrial(r.trialEnds)
	if len(r.cfg.Uplinks) != 2 || r.generation != 3 {
		t.Errorf("%d uplinks, generation %d", len(r.cfg.Uplinks), r.generation)
	}
	r.holds()
	if text := r.status().Config.Error; text == nil || !strings.Contains(*text, "not confirmed in time") {
		t.Errorf("status says %v", text)
	}
	if _, err := r.confirm(); !errors.Is(err, api.ErrNothing) {
		t.Errorf("confirmed too late: %v", err)
	}
	// The files are still those that nobody confirmed.
	cfg, _, why, err := first(config.Read(r.path), r.keptNow(), r.now, r.boot)
	if err != nil || why == nil || len(cfg.Uplinks) != 2 {
		t.Errorf("the next agent starts with %d uplinks: %v, %v", len(cfg.Uplinks), why, err)
	}
	// Somebody wants them all the same.
	if _, err := r.reload(0); err != nil || len(r.cfg.Uplinks) != 1 {
		t.Errorf("%d uplinks, %v", len(r.cfg.Uplinks), err)
	}
	if kept := r.keptNow(); kept.Trial != nil || !kept.Config.Equal(config.Read(r.path)) {
		t.Errorf("kept %+v", kept)
	}
}

func TestTrialConfirmed(t *testing.T) {
	t.Parallel()
	r := onTrial(t)
	file := r.confirmedFile
	r.confirmedFile = filepath.Join(r.path, "no-folder", "confirmed.json") // r.path is a file
	if _, err := r.confirm(); err == nil || r.trialEnds.IsZero() || r.kept.Trial == nil {
		t.Errorf("confirmed, but not written down: %v", err)
	}
	r.confirmedFile = file
	if got, err := r.confirm(); err != nil || got.Generation != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if r.trialOver(r.now.Add(time.Hour)) || r.status().Config.ConfirmBy != nil {
		t.Error("still on trial")
	}
	if kept := r.keptNow(); kept.Trial != nil || !kept.Config.Equal(config.Read(r.path)) {
		t.Errorf("kept %+v", kept)
	}
}

// Another [api] waits for the next start, and that is said until then.
func TestAPIWaits(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.write(twoUplinks + "[api]\nhttp = \"127.0.0.1:9\"\n")
	for range 2 {
		if got, err := r.reload(0); err != nil || !slices.Contains(got.Warnings, apiWaits) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if s := r.status(); !slices.Contains(s.Warnings, apiWaits) {
		t.Errorf("status: %q", s.Warnings)
	}
	r.write(twoUplinks)
	if got, err := r.reload(0); err != nil || len(got.Warnings)+len(r.status().Warnings) > 0 {
		t.Errorf("%+v, %q, %v", got, r.status().Warnings, err)
	}
}

// What means the same as what is confirmed is not put on trial: the same would
// come back. What is on trial already begins anew.
func TestTrialOfNothing(t *testing.T) {
	t.Parallel()
	r := onTrial(t)
	ends := r.trialEnds
	if got, err := r.reload(time.Hour); err != nil || got.Changed || got.ConfirmBy == nil || !r.trialEnds.After(ends) {
		t.Errorf("on trial for longer: %+v, %v", got, err)
	}
	for _, text := range []string{twoUplinks, "# not changed\n" + twoUplinks} {
		r.write(text)
		for range 2 {
			if got, err := r.reload(time.Minute); err != nil || got.ConfirmBy != nil || !r.trialEnds.IsZero() || len(r.cfg.Uplinks) != 2 {
				t.Errorf("%+v, %v, on trial until %s", got, err, r.trialEnds)
			}
		}
		if kept := r.keptNow(); kept.Trial != nil || !kept.Config.Equal(config.Read(r.path)) {
			t.Errorf("kept %+v", kept)
		}
	}
}

// A trial that cannot be written down does not begin; one that the kernel refuses
// leaves nothing behind.
func TestTrialRefused(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	r.confirmedFile = filepath.Join(r.path, "no-folder", "confirmed.json") // r.path is a file
	r.write(onlyB)
	if _, err := r.reload(time.Minute); err == nil || len(r.cfg.Uplinks) != 2 || !errors.Is(r.loadErr, err) {
		t.Errorf("%d uplinks, %v, status says %v", len(r.cfg.Uplinks), err, r.loadErr)
	}
	r.confirmedFile = filepath.Join(t.TempDir(), "confirmed.json")
	r.k.failWith = func(string) bool { return true }
	if _, err := r.reload(time.Minute); err == nil || len(r.cfg.Uplinks) != 2 || !r.trialEnds.IsZero() || r.kept.Trial != nil {
		t.Errorf("%d uplinks, %v", len(r.cfg.Uplinks), err)
	}
}

// What an agent starts with.
func TestFirst(t *testing.T) {
	t.Parallel()
	write := func(text string) config.Written {
		path := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return config.Read(path)
	}
	two, one, wrong, other := write(twoUplinks), write(onlyB), write("wrong"), write(onlyB+"\n")
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	tried := func(left time.Duration) *trial {
		return &trial{Config: one, Until: now.Add(left), Length: time.Minute, Boot: "b"}
	}
	for name, tt := range map[string]struct {
		files    config.Written
		kept     confirmed
		boot     string
		uplinks  int // 0: it does not start
		because  string
		fromKept bool
	}{
		"nothing kept":                        {files: one, boot: "b", uplinks: 1},
		"wrong, nothing kept":                 {files: wrong, boot: "b"},
		"wrong":                               {files: wrong, kept: confirmed{Config: two}, boot: "b", uplinks: 2, because: "the last configuration that was right", fromKept: true},
		"another than the confirmed one":      {files: one, kept: confirmed{Config: two}, boot: "b", uplinks: 1},
		"on trial, the agent crashed":         {files: one, kept: confirmed{Config: two, Trial: tried(time.Second)}, boot: "b", uplinks: 1},
		"on trial, too late":                  {files: one, kept: confirmed{Config: two, Trial: tried(-time.Second)}, boot: "b", uplinks: 2, because: "not confirmed in time", fromKept: true},
		"on trial, the machine was restarted": {files: one, kept: confirmed{Config: two, Trial: tried(time.Second)}, boot: "c", uplinks: 2, because: "not confirmed in time", fromKept: true},
		"on trial, changed since":             {files: other, kept: confirmed{Config: two, Trial: tried(-time.Second)}, boot: "b", uplinks: 1},
		"too late, but the copy is damaged":   {files: one, kept: confirmed{Config: wrong, Trial: tried(-time.Second)}, boot: "b", uplinks: 1},
		"wrong, and the copy is damaged":      {files: wrong, kept: confirmed{Config: wrong}, boot: "b"},
	} {
		cfg, from, why, err := first(tt.files, tt.kept, now, tt.boot)
		uplinks, because := 0, ""
		if cfg != nil {
			uplinks = len(cfg.Uplinks)
		}
		if why != nil {
			because = why.Error()
		}
		if uplinks != tt.uplinks || (err == nil) != (tt.uplinks > 0) || !strings.Contains(because, tt.because) || (because == "") != (tt.because == "") {
			t.Errorf("%s: %d uplinks, because %q, %v", name, uplinks, because, err)
		}
		if uplinks > 0 && tt.fromKept != from.Equal(tt.kept.Config) {
			t.Errorf("%s: from the copy: %t", name, !tt.fromKept)
		}
	}
	if left := tried(time.Hour).left(now, "b"); left != time.Minute { // the clock was set back
		t.Errorf("%s are left", left)
	}
}
