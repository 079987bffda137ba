package config

import (
	"time"
)

// Health is how one uplink is probed: its profile, [health] and
// [uplink.NAME.health] together.
type Health struct {
	Targets  []Target // IPv4; none: the family is not probed, its state is what link, address and route say
	Targets6 []Target // IPv6

	Interval        time.Duration // between probes, one target in turn, while all is well
	Timeout         time.Duration // the longest wait for an answer
	Floor           time.Duration // the shortest wait for an answer, of the profile; at most Timeout
	SuspectInterval time.Duration // between rounds of all targets at once, after a miss
	DownAfter       int           // failed rounds in a row until the uplink is down
	UpAfter         int           // good probes in a row until it is up again
	HoldDown        time.Duration // not up again before that; doubles per flap
	DegradedLoss    int           // percent; 0: off
	DegradedLatency time.Duration // smoothed round trip; 0: off
}
