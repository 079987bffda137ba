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
		if !j.suspicion.on {
			continue
		}
		if !j.suspicion.shared && !j.suspicion.alarm {
			j.share(now)
		}
		lone := g.witness(j)
		switch s := &j.suspicion; {
		case !j.condemned():
		case s.witness != nil && s.witnessed.After(s.missed):
			j.suspect(now) // targets answer again elsewhere, maybe here, too
		case s.witness != nil && g.heir(j):
			j.condemn(now)
		case s.spared():
		case s.witness != nil:
			j.spare("nothing answers, and no other uplink can take over")
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

// witness takes down the first leg that targets answered since j came under
// suspicion: then j is dead, and not what it asks. One that is not probed cannot
// tell, but can take over. One that has gone is none any more. It reports
// whether there is no other leg.
func (g group) witness(j *judge) (lone bool) {
	lone = true
	s := &j.suspicion
	var first *judge
	for o := range g.others(j) {
		lone = false
		unprobed := len(o.targets.list) == 0 && o.state != Down
		switch {
		case o == s.witness:
			return false
		case first == nil && (unprobed || !o.answered.IsZero() && !o.answered.Before(s.since)):
			first = o
		}
	}
	if s.witness = first; first != nil {
		s.witnessed = first.answered
	}
	return lone
}

// heir reports whether another leg of the family carries something, or would
// be put back for j (waive).
func (g group) heir(j *judge) bool {
	for o := range g.others(j) {
		if o.carries() || o.hopeful() {
			return true
		}
	}
	return false
}

// alone reports whether no other leg of the family carries anything.
func (g group) alone(j *judge) bool {
	for o := range g.others(j) {
		if o.carries() {
			return false
		}
	}
	return true
}
