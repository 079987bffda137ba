package doctor

import "strings"

// more is where messages are explained.
const more = "troubleshooting.md (agent(8) says where that is)"

// configuration passes on what the plan warns of: foreign marks, routes in our
// tables, defaults that nobody uses.
func configuration(f *Facts) []Finding {
	var all []Finding
	for _, w := range f.Plan.Warnings {
		s, remedy := Warning, "as it says; where it does not: "+more
		if strings.HasPrefix(w, "no uplink is usable") {
			s, remedy = Error, "see what is found for each uplink"
		}
		all = append(all, finding(s, "configuration", remedy, "%s", w))
	}
	return all
}
