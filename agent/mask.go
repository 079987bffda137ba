package agent

import (
	"fmt"

	"multiroute/agent/api"
	"multiroute/agent/config"
	"multiroute/agent/plan"
	"multiroute/routes"
)

// maskOf is the mark_mask that our rules in the kernel have; 0: there are none.
// The rules that only lead to others may compare a part of it.
func maskOf(have routes.Spec) uint32 {
	for _, r := range have.Rules {
		if r.Mask != 0 && r.Goto == 0 {
			return r.Mask
		}
	}
	return 0
}

// maskError says why the mask stays what it is, and how it changes.
func maskError(have, wanted uint32) error {
	return fmt.Errorf("router.mark_mask cannot change from 0x%08x to 0x%08x while connections carry the old marks: run \"agent purge\" and start the agent again", have, wanted)
}

// withMask returns a configuration with the mask that the kernel's rules and
// connections have: under another one those would be taken for another uplink's.
func withMask(cfg *config.Config, ids plan.IDs, mask uint32) (*config.Config, error) {
	c := *cfg
	c.Router.MarkMask = mask
	got, need := plan.Assign(ids, &c), plan.Assign(ids, cfg)
	if len(got.Uplinks) < len(need.Uplinks) || len(got.Policies) < len(need.Policies) {
		return nil, fmt.Errorf("%w:\n%w; the present one has no room for all uplinks and policies", api.ErrConfig, maskError(mask, cfg.Router.MarkMask))
	}
	return &c, nil
}
