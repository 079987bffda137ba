package doctor

import "strings"

// configuration passes on what the plan warns of: foreign marks, routes in our
// tables, defaults that nobody uses.
func configuration(f *Facts) []Finding {
	var all []Finding
	for _, w := range f.Plan.Warnings {
		s := Warning
		if strings.HasPrefix(w, "no uplink is usable") {
			s = Error
		}
		all = append(all, finding(s, "configuration", "", "%s", w))
	}
	return all
}
