package config

import (
	"net/netip"
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

// Target is one thing to probe. Targets can be compared with ==.
type Target struct {
	Text   string // as written, for messages
	Scheme Scheme
	Addr   netip.Addr // what was written as an address; invalid: resolve Host through the uplink, or ask the gateway
	Host   string     // as written, an address without brackets; empty only for GatewayTarget
	Port   uint16     // 0: none (ICMP, GatewayTarget)
	Name   string     // DNS: what is asked for
	Path   string     // HTTP, HTTPS: path and query, never empty
	Status int        // HTTP, HTTPS: the status expected; 0: any of 200 to 299
	Body   string     // HTTP, HTTPS: text that the first 4 KiB of the body must contain; "": any
}

// Scheme is the way to probe a target.
type Scheme int

// The ways to probe.
const (
	ICMP          Scheme = iota // echo request
	TCP                         // connect
	DNS                         // a query over UDP
	HTTP                        // GET
	HTTPS                       // GET, with a certificate that is valid for the host
	GatewayTarget               // echo request to the uplink's gateway
)

// Failback says what moves when a better tier returns.
type Failback int

// The ways to move back.
const (
	FailbackNew Failback = iota // new connections
	FailbackAll                 // the others too
)
