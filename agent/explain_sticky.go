package agent

import "multiroute/agent/plan"

// remembered tells that the client stays on the uplink that it was put on by a
// policy.
func (e *explainer) remembered(p *plan.Policy, u *plan.Uplink) {
	y := e.plan.Sticky(p)
	if y == nil {
		e.differs("The compiled rules gave it the mark of uplink %s all the same.", u.Name)
		return
	}
	e.stays = p
	what := "this client"
	if y.Pairs {
		what = "this client with this destination"
	}
	e.say("Policy %s keeps %s on uplink %s, where it was last: it began a connection there within %s.", p.Name, what, u.Name, y.Timeout)
}
