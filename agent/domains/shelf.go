package domains

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"multiroute/routes"
)

// Times of writing a list's addresses.
const (
	// againMin and againMax bound the wait after a failure; it doubles.
	againMin = time.Second
	againMax = time.Minute
	// cleared is how long the kernel may take to clear away an address whose time
	// is over. Until then it takes up room.
	cleared = 5 * time.Second
	// tidyEvery is how often a full shelf is looked through for what is over.
	tidyEvery = time.Second
	// fullFor is how long it is said that there was no room: by then every name has
	// been asked for again, if that can be.
	fullFor = time.Hour
)

// shelf is what is in the set of a list: as much of it as there is room for. Who
// has a place keeps it, so that what goes where does not change all the time.
type shelf struct {
	places map[routes.Family]map[netip.Addr]time.Time // until when
	full   map[routes.Family]time.Time                // when there was no room, the last time
	tidied time.Time
	err    error         // of the newest write
	again  time.Time     // when all is written again, and nothing before; zero: err is nil
	wait   time.Duration // after err
}

func newShelf() *shelf {
	return &shelf{full: map[routes.Family]time.Time{},
		places: map[routes.Family]map[netip.Addr]time.Time{routes.IPv4: {}, routes.IPv6: {}}}
}

// place notes until when an address is in the set, and reports whether that is to
// be written.
func (s *shelf) place(a netip.Addr, until, now time.Time, room int) bool {
	f := routes.FamilyOf(a)
	places := s.places[f]
	if _, ok := places[a]; !ok {
		if !until.After(now) {
			return false
		}
		if len(places) >= room && now.Sub(s.tidied) >= tidyEvery {
			s.tidy(now)
		}
		if len(places) >= room {
			s.full[f] = now
			return false
		}
	}
	places[a] = until
	return true
}

// until returns until when an address is in the set; zero: it is not.
func (s *shelf) until(a netip.Addr) time.Time { return s.places[routes.FamilyOf(a)][a] }

// taken returns what has a place.
func (s *shelf) taken(now time.Time) []netip.Addr {
	var all []netip.Addr
	for _, places := range s.places {
		for a, until := range places {
			if until.After(now) {
				all = append(all, a)
			}
		}
	}
	return all
}

// tidy makes room of what is over.
func (s *shelf) tidy(now time.Time) {
	s.tidied = now
	for _, places := range s.places {
		for a, until := range places {
			if now.Sub(until) > cleared {
				delete(places, a)
			}
		}
	}
}

// wrote notes how a write ended.
func (s *shelf) wrote(err error, now time.Time) {
	if s.err = err; err == nil {
		s.again, s.wait = time.Time{}, 0
		return
	}
	s.postpone(now)
}

// postpone has all written again later.
func (s *shelf) postpone(now time.Time) {
	s.wait = min(max(againMin, 2*s.wait), againMax)
	s.again = now.Add(s.wait)
}

// wrong says what a person should know, and do.
func (s *shelf) wrong(l List, now time.Time, room int) []string {
	var all []string
	if s.err == nil && len(s.full) == 0 {
		return nil
	}
	rules := `rule "` + strings.Join(l.Rules, `", rule "`) + `"`
	if s.err != nil {
		all = append(all, fmt.Sprintf("%s: addresses of its domains could not be written, it is tried again: %v", rules, s.err))
	}
	for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
		if at, ok := s.full[f]; ok && now.Sub(at) < fullFor {
			all = append(all, fmt.Sprintf("%s: its domains have more than the %d %s addresses that a list can hold: what goes to the others is left to the rules behind; divide the domains between several rules", rules, room, f.Name()))
		}
	}
	return all
}
