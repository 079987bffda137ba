package nat

import "slices"

// Cache compiles as Compile does, and remembers what the last rules became:
// they stay the same while uplinks come and go, and a hundred thousand prefixes
// take longer to compile than a failover may. It is used by one goroutine at a
// time.
type Cache struct {
	rules    []PolicyRule
	policies []Policy
	chosen   chosen
}

// Compile turns a Spec into rules. It keeps s.Rules: nobody may write to them
// any more, nor to the Ruleset.
func (c *Cache) Compile(s Spec) Ruleset {
	return compile(s, func(rules []PolicyRule, policies []Policy) chosen {
		if c.rules == nil || !slices.Equal(policies, c.policies) || !slices.EqualFunc(rules, c.rules, PolicyRule.equal) {
			c.rules, c.policies, c.chosen = rules, policies, policyRules(rules, policies)
		}
		return c.chosen
	})
}

func (r PolicyRule) equal(o PolicyRule) bool {
	return r.Name == o.Name && r.Local == o.Local && r.Policy == o.Policy &&
		slices.Equal(r.From, o.From) && slices.Equal(r.To, o.To) && slices.Equal(r.ToLists, o.ToLists) && slices.Equal(r.Interfaces, o.Interfaces) && slices.Equal(r.MACs, o.MACs) &&
		slices.Equal(r.Protocols, o.Protocols) && slices.Equal(r.Ports, o.Ports) && slices.Equal(r.SourcePorts, o.SourcePorts) &&
		slices.Equal(r.DSCP, o.DSCP) && slices.Equal(r.UIDs, o.UIDs)
}
