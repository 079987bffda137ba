package health

import "time"

// group is the judges of all legs. What one of them cannot know is decided
// here. Like a judge it has no clock.
type group []*judge

// settle carries out or puts off the verdict about condemned legs, and puts
// back legs without which nothing would be left.
func (g group) settle(now time.Time) {
	for _, j := range g {
		if j.suspicion.failed > 0 && !j.suspicion.asked {
			j.suspicion.asked = true
			for o := range g.others(j) {
				o.hurry(now)
			}
		}
		if !j.condemned() {
			continue
		}
		switch at, witness, lone := g.witness(j); {
		case witness && j.suspicion.spared() && at.After(j.suspicion.missed):
			j.suspect(now) // targets answer again elsewhere, maybe here, too
		case witness:
			j.condemn(now)
		case j.suspicion.spared():
		case lone:
			j.spare("nothing answers, and there is no other uplink to take over")
		default:
			j.spare("no target answers on any uplink: taken for the targets' fault")
		}
	}
	var back []*judge
	for _, j := range g {
		if j.state == Down && j.present && g.alone(j) {
			back = append(back, j)
		}
	}
	for _, j := range back {
		j.waive(now)
	}
}

// others yields the legs of j's family that have a path.
func (g group) others(j *judge) func(func(*judge) bool) {
	return func(yield func(*judge) bool) {
		for _, o := range g {
			if o != j && o.leg.Family == j.leg.Family && o.present && !yield(o) {
				return
			}
		}
	}
}

// witness reports whether targets answered another leg since j came under
// suspicion: then j is dead, and not what it asks. What they answered was sent
// at that time. A leg that is not probed cannot tell, but can take over. lone
// is true if there is no other leg.
func (g group) witness(j *judge) (at time.Time, witness, lone bool) {
	lone = true
	for o := range g.others(j) {
		lone = false
		if len(o.targets.list) == 0 && o.state != Down {
			return time.Time{}, true, false
		}
		if !o.answered.IsZero() && !o.answered.Before(j.suspicion.since) && (!witness || o.answered.Before(at)) {
			at, witness = o.answered, true
		}
	}
	return at, witness, lone
}

// alone reports whether no other leg of the family carries anything.
func (g group) alone(j *judge) bool {
	for o := range g.others(j) {
		if o.state != Down && !o.condemned() {
			return false
		}
	}
	return true
}
