package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/plan"
)

const shifted = "[router]\nmark_mask = \"0x7f800000\""

// An agent whose predecessor had another mask keeps that: under the new one its
// connections would be another uplink's.
func TestMaskOfPredecessor(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	before := r.k.have
	r.write(strings.Replace(twoUplinks, "[router]", shifted, 1) + "weight = 2\n")
	if err := r.start(r.load()); err != nil {
		t.Fatal(err)
	}
	r.holds()
	if r.cfg.Router.MarkMask != 0xff000000 || len(r.k.have.Rules) != len(before.Rules) || r.cfg.Uplinks[1].Weight != 2 {
		t.Errorf("mask %#x, rules %v", r.cfg.Router.MarkMask, r.k.have.Rules)
	}
	if s := r.status(); s.Config.Error == nil || !strings.Contains(*s.Config.Error, "agent purge") {
		t.Errorf("status says %v", s.Config.Error)
	}
	if _, err := r.reload(0); !errors.Is(err, api.ErrConfig) {
		t.Errorf("reload: %v", err)
	}
	_, err := look(r.path, r.router, r.table, r.sysctl, plan.Input{IDs: r.ids})
	if !errors.Is(err, api.ErrConfig) || !strings.Contains(err.Error(), "from 0xff000000 to 0x7f800000") {
		t.Errorf("plan: %v", err)
	}

	// The files are confirmed all the same. A trial that ends brings them back, but not their mask.
	r.keepConfirmed(config.Read(r.path))
	r.write(onlyB)
	if _, err := r.reload(time.Minute); err != nil {
		t.Fatal(err)
	}
	r.endTrial(r.now)
	r.holds()
	if r.cfg.Router.MarkMask != 0xff000000 || len(r.cfg.Uplinks) != 2 {
		t.Errorf("after the trial: mask %#x, %d uplinks", r.cfg.Router.MarkMask, len(r.cfg.Uplinks))
	}
}

// Where the mask in force has no room for what is configured, nothing begins.
func TestMaskWithoutRoom(t *testing.T) {
	t.Parallel()
	r := started(t, strings.Replace(twoUplinks, "[router]", "[router]\nmark_mask = \"0x3\"", 1))
	r.write(twoUplinks + "[uplink.c]\ninterface = \"eth1\"\ngateway = \"192.0.2.3\"\ngateway6 = \"off\"\n")
	if err := r.start(r.load()); !errors.Is(err, api.ErrConfig) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	r.wrote()
}
