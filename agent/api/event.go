package api

import "time"

// Event is a change of an uplink's state, or of whether it can carry one of the IP versions.
// It is a value.
type Event struct {
	// ID counts the events since the start, from 1.
	ID uint64 `json:"id"`

	// Time is when the change was put in force.
	Time time.Time `json:"time"`

	Uplink string `json:"uplink"`

	// Family is ipv4 or ipv6 where the state stays what it was, because the other family
	// works, and that family is lost or back; else it is empty.
	Family string `json:"family"`

	// From is empty where the uplink was not there before.
	From State `json:"from"`
	To   State `json:"to"`

	// Reason says in words why To is what it is; it may be empty.
	Reason string `json:"reason"`

	// Cause is what made the change, in one word.
	Cause Cause `json:"cause"`

	// Noticed is when it began: when the first answer was missing, or when the kernel or a
	// person said it.
	Noticed time.Time `json:"noticed"`

	// Routed is when the routes led elsewhere; zero: they did not have to, or not yet.
	Routed time.Time `json:"routed"`
}

// Lost reports whether connections had to leave the uplink, and nobody wanted that.
func (e Event) Lost() bool {
	if e.Family != "" {
		return e.Cause != CauseRecovered
	}
	return e.To == Down && e.From != "" && e.From != Disabled
}

// Cause is what changes an uplink's state. There are only those below.
type Cause string

// The causes.
const (
	CauseStart         Cause = "start"         // the agent's first look, or the uplink is new
	CauseLink          Cause = "link"          // interface, cable, address or gateway came or went
	CauseGateway       Cause = "gateway"       // the gateway does not answer to ARP or neighbour discovery
	CauseProbes        Cause = "probes"        // nothing answered
	CauseLoss          Cause = "loss"          // too much is lost
	CauseLatency       Cause = "latency"       // answers take too long
	CauseMaintenance   Cause = "maintenance"   // taken out or put back by hand
	CauseConfiguration Cause = "configuration" // another configuration
	CauseRecovered     Cause = "recovered"     // it is well again
)

// Causes lists them.
func Causes() []Cause {
	return []Cause{CauseStart, CauseLink, CauseGateway, CauseProbes, CauseLoss, CauseLatency, CauseMaintenance, CauseConfiguration, CauseRecovered}
}

// States lists the states of an uplink.
func States() []State { return []State{Up, Degraded, Down, Disabled} }
