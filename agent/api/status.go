package api

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"
)

// A Handler does the work behind the control socket. Its methods are called by several
// goroutines at once.
//
// The context of Status, Plan and Show ends when the client goes away. That of Reload,
// Confirm, SetUplink and Stop does not: what was begun is carried out. All of them end after about a
// minute. An error's whole text is sent to the client; one that wraps ErrConfig, ErrBusy,
// ErrUnknown or ErrNothing is recognised there by errors.Is.
type Handler interface {
	// Status says how things stand. It must be quick and must not wait for the network.
	Status(ctx context.Context) (Status, error)

	// Reload reads the configuration again, applies it and says what came of it. A wrong
	// configuration changes nothing and is an error that wraps ErrConfig. With onTrial above
	// 0, the one before comes back after that time unless Confirm is called, also when the
	// agent or the machine dies meanwhile.
	Reload(ctx context.Context, onTrial time.Duration) (ReloadResult, error)

	// Confirm ends a trial: the configuration in force stays. Without one it is an error that
	// wraps ErrNothing.
	Confirm(ctx context.Context) (ReloadResult, error)

	// Plan says what Reload would change in the kernel, in the notation of nft and ip.
	// Nothing to change is the empty string.
	Plan(ctx context.Context) (string, error)

	// SetUplink takes an uplink out for maintenance (enabled is false), for the time d or, if
	// that is 0, until it is enabled again; or it ends that. An uplink that is disabled in the
	// configuration stays out. There being no such uplink is an UnknownUplink error.
	SetUplink(ctx context.Context, name string, enabled bool, d time.Duration) error

	// Flows calls each for the connections on an uplink, or ("") on all of them, as the
	// kernel lists them; it keeps none in memory. An error of each ends the list and is
	// returned. There being no such uplink is an UnknownUplink error.
	Flows(ctx context.Context, uplink string, each func(Flow) error) error

	// Explain says where the first packet of a connection goes, and why. It changes nothing
	// and sends nothing.
	Explain(ctx context.Context, r ExplainRequest) (Explanation, error)

	// Show returns the whole wanted state in the notation of nft (what is ShowNFT) or of
	// ip (what is ShowRoutes); what is never anything else.
	Show(ctx context.Context, what string) (string, error)

	// Stop makes the daemon end soon, and leaves the data plane as it is. It returns
	// without waiting for that, so that the answer can still be sent.
	Stop(ctx context.Context) error
}

// What Handler.Show and Client.Show can show.
const (
	ShowNFT    = "nft"
	ShowRoutes = "routes"
)

// State is what an uplink is good for.
type State string

// The states of an uplink.
const (
	// Up: the uplink carries connections.
	Up State = "up"

	// Degraded: it keeps the connections it has and gets no new ones, unless it is the
	// last one usable.
	Degraded State = "degraded"

	// Down: nothing answers through it.
	Down State = "down"

	// Disabled: taken out by the configuration or by hand.
	Disabled State = "disabled"
)

// Status is how the agent and its uplinks stand: the JSON of "agent status --json". Its
// keys never change their meaning. What is not known is nil here and null there; lists are
// never null. Times are RFC 3339.
type Status struct {
	// Version is the agent's own version.
	Version string `json:"version"`

	// PID is the process number of the daemon.
	PID int `json:"pid"`

	// Ready: the kernel was verified to hold the wanted state at least once since the start.
	Ready bool `json:"ready"`

	Config   ConfigStatus   `json:"config"`
	Uplinks  []UplinkStatus `json:"uplinks"`
	Policies []PolicyStatus `json:"policies"`

	// Warnings are sentences about what is wrong without keeping the agent from working.
	Warnings []string `json:"warnings"`

	Drift DriftStatus `json:"drift"`
}

// ConfigStatus is about the configuration in force.
type ConfigStatus struct {
	// Generation counts the configurations that were put in force since the start, from 1.
	Generation uint64 `json:"generation"`

	// LoadedAt is when this one was put in force.
	LoadedAt *time.Time `json:"loaded_at"`

	// Error is why the newest attempt to load another one failed; nil if it did not.
	Error *string `json:"error"`

	// ConfirmBy is when the one before comes back unless this one is confirmed; nil if it stays.
	ConfirmBy *time.Time `json:"confirm_by"`
}

// UplinkStatus is one uplink.
type UplinkStatus struct {
	Name string `json:"name"`
	ID   int    `json:"id"`

	State State `json:"state"`

	// Reason says in words why State is what it is.
	Reason *string `json:"reason"`

	// Since is when State became what it is.
	Since *time.Time `json:"since"`

	// Until is how long State lasts at least: the end of the time for which the uplink was
	// disabled by hand, or of the hold-down. It is nil where there is no such end.
	Until *time.Time `json:"until"`

	Interface string      `json:"interface"`
	Gateway   *netip.Addr `json:"gateway"`
	Gateway6  *netip.Addr `json:"gateway6"`

	// Addresses are the router's own addresses on this uplink, of both families.
	Addresses []netip.Addr `json:"addresses"`

	// Mark is the connection mark of the uplink, already shifted into the mask.
	Mark uint32 `json:"mark"`

	// Table is the number of the uplink's routing table.
	Table int `json:"table"`

	// RTT and Jitter are smoothed, in milliseconds; Loss is in percent of the probes of
	// the last 10 seconds.
	RTT    *float64 `json:"rtt_ms"`
	Jitter *float64 `json:"jitter_ms"`
	Loss   *float64 `json:"loss_percent"`

	// Connections is the number of conntrack entries that carry Mark. Where counting them
	// takes long it can be a few seconds old.
	Connections *int `json:"connections"`

	// RxBytes and TxBytes count what the uplink received and sent.
	RxBytes *uint64 `json:"rx_bytes"`
	TxBytes *uint64 `json:"tx_bytes"`

	// RxRate and TxRate are how fast these grow, in bits per second: over the last second
	// where somebody looks every second, over a few seconds else.
	RxRate *float64 `json:"rx_bits_per_second"`
	TxRate *float64 `json:"tx_bits_per_second"`
}

// PolicyStatus is one policy and what carries its new connections now.
type PolicyStatus struct {
	Name string `json:"name"`
	ID   int    `json:"id"`

	// Tier is the index, from 0, of the tier in use; nil when no member is usable.
	Tier *int `json:"tier"`

	Members []MemberStatus `json:"members"`
}

// MemberStatus is one uplink among those that carry a policy now.
type MemberStatus struct {
	Uplink string `json:"uplink"`

	// Weight is the share in force, relative to those of the other members.
	Weight int `json:"weight"`
}

// DriftStatus counts what the agent mended after others had changed it.
type DriftStatus struct {
	// Repairs is the number of repairs since the start.
	Repairs uint64 `json:"repairs"`

	// LastRepair is when the newest one was made; nil if there was none.
	LastRepair *time.Time `json:"last_repair"`
}

// MarshalJSON writes the status with [] for empty lists, never null.
func (s Status) MarshalJSON() ([]byte, error) {
	type plain Status
	p := plain(s)
	p.Uplinks = append([]UplinkStatus{}, s.Uplinks...)
	for i := range p.Uplinks {
		p.Uplinks[i].Addresses = append([]netip.Addr{}, p.Uplinks[i].Addresses...)
	}
	p.Policies = append([]PolicyStatus{}, s.Policies...)
	for i := range p.Policies {
		p.Policies[i].Members = append([]MemberStatus{}, p.Policies[i].Members...)
	}
	p.Warnings = append([]string{}, s.Warnings...)
	return json.Marshal(p)
}

// ReloadResult is what came of a reload.
type ReloadResult struct {
	// Generation is that of the configuration in force now.
	Generation uint64 `json:"generation"`

	// Changed: the configuration is another one than before.
	Changed bool `json:"changed"`

	// Changes says in sentences what was changed.
	Changes []string `json:"changes"`

	// Warnings are sentences about what is dubious in the configuration.
	Warnings []string `json:"warnings"`

	// ConfirmBy is as in ConfigStatus. It is nil, too, where a trial was asked for of what
	// means the same as what is confirmed.
	ConfirmBy *time.Time `json:"confirm_by"`
}

// MarshalJSON writes the result with [] for empty lists, never null.
func (r ReloadResult) MarshalJSON() ([]byte, error) {
	type plain ReloadResult
	p := plain(r)
	p.Changes = append([]string{}, r.Changes...)
	p.Warnings = append([]string{}, r.Warnings...)
	return json.Marshal(p)
}
