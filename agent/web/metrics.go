package web

import (
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"multiroute/agent/api"
)

// Metric describes one of our metrics: what docs/metrics.md must say.
type Metric struct {
	Name   string
	Type   string // gauge, counter or histogram
	Help   string
	Labels []string
}

const prefix = "multiroute_"

// The metrics. Each stands in the table of newMetrics.
const (
	buildInfo         = prefix + "build_info"
	ready             = prefix + "ready"
	warnings          = prefix + "warnings"
	configGeneration  = prefix + "config_generation"
	configSuccess     = prefix + "config_last_reload_successful"
	configTime        = prefix + "config_last_reload_success_timestamp_seconds"
	reloads           = prefix + "reloads_total"
	kernelWrites      = prefix + "kernel_writes_total"
	repairs           = prefix + "repairs_total"
	uplinkInfo        = prefix + "uplink_info"
	uplinkState       = prefix + "uplink_state"
	uplinkUp          = prefix + "uplink_up"
	uplinkFamily      = prefix + "uplink_family_up"
	uplinkChanged     = prefix + "uplink_last_change_timestamp_seconds"
	uplinkTransitions = prefix + "uplink_transitions_total"
	uplinkRTT         = prefix + "uplink_rtt_seconds"
	uplinkJitter      = prefix + "uplink_jitter_seconds"
	uplinkLoss        = prefix + "uplink_loss_ratio"
	probesSent        = prefix + "uplink_probes_sent_total"
	probesAnswered    = prefix + "uplink_probes_answered_total"
	probesIgnored     = prefix + "uplink_probe_answers_ignored_total"
	receiveBytes      = prefix + "uplink_receive_bytes_total"
	transmitBytes     = prefix + "uplink_transmit_bytes_total"
	receivePackets    = prefix + "uplink_receive_packets_total"
	transmitPackets   = prefix + "uplink_transmit_packets_total"
	connections       = prefix + "uplink_connections"
	policyUsable      = prefix + "policy_usable"
	policyTier        = prefix + "policy_tier"
	policyWeight      = prefix + "policy_member_weight"
	failoverDuration  = prefix + "failover_duration_seconds"
	conntrackEntries  = prefix + "conntrack_entries"
	conntrackLimit    = prefix + "conntrack_entries_limit"
	conntrackDropped  = prefix + "conntrack_drops_total"
	conntrackEarly    = prefix + "conntrack_early_drops_total"
	conntrackFailed   = prefix + "conntrack_insert_failures_total"
)

// Metrics lists what is exported besides the process's and Go's own metrics.
func Metrics() []Metric {
	const gauge, counter, histogram = "gauge", "counter", "histogram"
	uplink, family := []string{"uplink"}, []string{"uplink", "family"}
	return []Metric{
		{buildInfo, gauge, "Always 1; the labels tell what runs.", []string{"version", "goversion"}},
		{ready, gauge, "Whether the kernel was verified to hold the wanted state since the start.", nil},
		{warnings, gauge, "How many warnings agent status shows.", nil},
		{configGeneration, gauge, "Configurations put in force since the start.", nil},
		{configSuccess, gauge, "Whether the newest attempt to load the configuration succeeded.", nil},
		{configTime, gauge, "When the configuration in force was loaded.", nil},
		{reloads, counter, "Reloads by result: applied, invalid (the configuration is wrong) or refused (by the kernel, or by a disk that takes no copy for a trial).", []string{"result"}},
		{kernelWrites, counter, "What was written to the kernel: routes and rules, nftables transactions, sysctls.", []string{"part"}},
		{repairs, counter, "How often something of ours was missing in the kernel and was put back.", nil},
		{uplinkInfo, gauge, "Always 1; the labels tell what the uplink is.", []string{"uplink", "interface", "id"}},
		{uplinkState, gauge, "1 for the state that the uplink is in, 0 for the others.", []string{"uplink", "state"}},
		{uplinkUp, gauge, "Whether connections can use the uplink: it is up or degraded.", uplink},
		{uplinkFamily, gauge, "Whether probes of the uplink are answered in this family; absent if nothing is probed.", family},
		{uplinkChanged, gauge, "When the uplink's state changed.", uplink},
		{uplinkTransitions, counter, "Changes of the uplink's state, by the new state and by what caused it.", []string{"uplink", "state", "cause"}},
		{uplinkRTT, gauge, "Smoothed round trip time of the probes.", family},
		{uplinkJitter, gauge, "Smoothed difference of the round trip times from their mean.", family},
		{uplinkLoss, gauge, "Share of the probes of the last 10 seconds that were lost, 0 to 1.", family},
		{probesSent, counter, "Probes sent.", family},
		{probesAnswered, counter, "Probes answered.", family},
		{probesIgnored, counter, "Answers that were not believed: late, repeated or unknown.", family},
		{receiveBytes, counter, "Bytes received by the uplink: by its interface, or by its connections where it shares one.", uplink},
		{transmitBytes, counter, "Bytes sent by the uplink: by its interface, or by its connections where it shares one.", uplink},
		{receivePackets, counter, "Packets received by the uplink: by its interface, or by its connections where it shares one.", uplink},
		{transmitPackets, counter, "Packets sent by the uplink: by its interface, or by its connections where it shares one.", uplink},
		{connections, gauge, "Connections on the uplink, counted every 10 seconds.", uplink},
		{policyUsable, gauge, "Whether any member of the policy can carry connections.", []string{"policy"}},
		{policyTier, gauge, "The policy's tier in use, from 0; absent if no member is usable.", []string{"policy"}},
		{policyWeight, gauge, "Weight in force of an uplink that carries the policy now.", []string{"policy", "uplink"}},
		{failoverDuration, histogram, "From the first missing answer, or the kernel's message, until the routes lead elsewhere.", nil},
		{conntrackEntries, gauge, "Entries in the kernel's table of connections.", nil},
		{conntrackLimit, gauge, "How many it may have.", nil},
		{conntrackDropped, counter, "Packets dropped because the table was full.", nil},
		{conntrackEarly, counter, "Entries that had to make room for others.", nil},
		{conntrackFailed, counter, "Entries that could not be inserted.", nil},
	}
}

// collector makes metrics of the newest snapshot.
type collector struct {
	latest  *atomic.Pointer[Snapshot]
	version string
	descs   map[string]*prometheus.Desc
	types   map[string]prometheus.ValueType
}

var _ prometheus.Collector = &collector{}

func newCollector(version string, latest *atomic.Pointer[Snapshot]) *collector {
	c := &collector{latest: latest, version: version, descs: map[string]*prometheus.Desc{}, types: map[string]prometheus.ValueType{}}
	for _, m := range Metrics() {
		c.descs[m.Name] = prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
		c.types[m.Name] = prometheus.GaugeValue
		if m.Type == "counter" {
			c.types[m.Name] = prometheus.CounterValue
		}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	put := func(name string, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(c.descs[name], c.types[name], v, labels...)
	}
	put(buildInfo, 1, c.version, runtime.Version())
	s := c.latest.Load()
	if s == nil {
		put(ready, 0)
		return
	}
	put(ready, boolean(s.Status.Ready))
	put(warnings, float64(len(s.Status.Warnings)))
	put(configGeneration, float64(s.Status.Config.Generation))
	put(configSuccess, boolean(s.Status.Config.Error == nil))
	if t := s.Status.Config.LoadedAt; t != nil {
		put(configTime, seconds(*t))
	}
	put(reloads, float64(s.Reloads.Applied), "applied")
	put(reloads, float64(s.Reloads.Invalid), "invalid")
	put(reloads, float64(s.Reloads.Refused), "refused")
	put(kernelWrites, float64(s.Writes.Routes), "routes")
	put(kernelWrites, float64(s.Writes.NFTables), "nftables")
	put(kernelWrites, float64(s.Writes.Sysctls), "sysctls")
	put(repairs, float64(s.Status.Drift.Repairs))
	for i := range s.Status.Uplinks {
		putUplink(put, s, &s.Status.Uplinks[i])
	}
	for _, l := range s.Legs {
		if l.Sent == 0 {
			continue
		}
		if l.RTT > 0 {
			put(uplinkRTT, l.RTT.Seconds(), l.Uplink, l.Family)
			put(uplinkJitter, l.Jitter.Seconds(), l.Uplink, l.Family)
		}
		put(uplinkFamily, boolean(l.Up), l.Uplink, l.Family)
		put(uplinkLoss, l.Loss/100, l.Uplink, l.Family)
		put(probesSent, float64(l.Sent), l.Uplink, l.Family)
		put(probesAnswered, float64(l.Answers), l.Uplink, l.Family)
		put(probesIgnored, float64(l.Ignored), l.Uplink, l.Family)
	}
	for t, n := range s.Transitions {
		put(uplinkTransitions, float64(n), t.Uplink, string(t.To), string(t.Cause))
	}
	for _, p := range s.Status.Policies {
		put(policyUsable, boolean(p.Tier != nil), p.Name)
		if p.Tier != nil {
			put(policyTier, float64(*p.Tier), p.Name)
		}
		for i, m := range p.Members {
			// A member may be there once per family, with another weight.
			if !slices.ContainsFunc(p.Members[:i], func(o api.MemberStatus) bool { return o.Uplink == m.Uplink }) {
				put(policyWeight, float64(m.Weight), p.Name, m.Uplink)
			}
		}
	}
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range s.Failovers.Counts {
		total += n
		if i < len(bounds) {
			buckets[float64(bounds[i])/1000] = total
		}
	}
	out <- prometheus.MustNewConstHistogram(c.descs[failoverDuration], total, s.Failovers.Sum.Seconds(), buckets)
	if t := s.Conntrack; t != nil {
		put(conntrackEntries, float64(t.Entries))
		if t.Limit > 0 {
			put(conntrackLimit, float64(t.Limit))
		}
		put(conntrackDropped, float64(t.Dropped))
		put(conntrackEarly, float64(t.EarlyDropped))
		put(conntrackFailed, float64(t.InsertFailed))
	}
}

func putUplink(put func(string, float64, ...string), s *Snapshot, u *api.UplinkStatus) {
	put(uplinkInfo, 1, u.Name, u.Interface, strconv.Itoa(u.ID))
	for _, state := range api.States() {
		put(uplinkState, boolean(u.State == state), u.Name, string(state))
	}
	put(uplinkUp, boolean(u.State == api.Up || u.State == api.Degraded), u.Name)
	if u.Since != nil {
		put(uplinkChanged, seconds(*u.Since), u.Name)
	}
	if t, ok := s.Traffic[u.Name]; ok {
		put(receiveBytes, float64(t.InBytes), u.Name)
		put(transmitBytes, float64(t.OutBytes), u.Name)
		put(receivePackets, float64(t.InPackets), u.Name)
		put(transmitPackets, float64(t.OutPackets), u.Name)
	}
	if n, ok := s.Connections[u.Name]; ok {
		put(connections, float64(n), u.Name)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return math.Round(float64(t.UnixMilli())) / 1000 }

// metricsHandler serves a registry of its own.
func metricsHandler(version string, latest *atomic.Pointer[Snapshot]) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(version, latest), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Compressing costs more than it brings on a loopback interface.
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true})
}
