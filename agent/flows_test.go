package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/agent/api"
	"multiroute/conntrack"
)

// fakeLister is a connection to a fake kernel for one list.
type fakeLister struct {
	*fake
	closed *int
}

func (l fakeLister) Close() error { *l.closed++; return nil }

// asked makes a handler whose owner answers while the test runs.
func asked(t *testing.T, r *rig) (*handler, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	h := &handler{d: r.daemon, ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case f := <-r.calls:
				f()
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return h, cancel
}

func TestFlows(t *testing.T) {
	t.Parallel()
	r := started(t, twoUplinks)
	h, stop := asked(t, r)
	closed := 0
	dial := func() (lister, error) { return fakeLister{r.k, &closed}, nil }
	a := entry("192.168.0.5", "9.9.9.9", "192.0.2.9", conntrack.StatusSrcNAT, markA|0x123)
	b := entry("192.168.0.6", "9.9.9.9", "198.51.100.9", conntrack.StatusSrcNAT, markB)
	gone := entry("192.168.0.7", "9.9.9.9", "198.51.100.9", conntrack.StatusSrcNAT, 0x77000000)
	foreign := entry("192.168.0.8", "192.168.0.1", "192.168.0.8", 0, 0x123)
	r.k.entries = []conntrack.Entry{a, foreign, b, gone}

	list := func(uplink string) (got []string, err error) {
		err = h.flows(t.Context(), dial, time.Now, uplink, func(f api.Flow) error {
			name := "-"
			if f.Uplink != nil {
				name = *f.Uplink
			}
			got = append(got, name+" "+f.Source.Address.String())
			return nil
		})
		return got, err
	}
	for uplink, want := range map[string][]string{
		"":  {"a 192.168.0.5", "b 192.168.0.6", "- 192.168.0.7"},
		"a": {"a 192.168.0.5"},
		"b": {"b 192.168.0.6"},
	} {
		if got, err := list(uplink); err != nil || !slices.Equal(got, want) {
			t.Errorf("uplink %q: %q, %v; want %q", uplink, got, err, want)
		}
	}
	if got, err := list("c"); !errors.Is(err, api.ErrUnknown) || !strings.Contains(err.Error(), "known are a, b") || got != nil {
		t.Errorf("unknown uplink: %q, %v", got, err)
	}
	if closed != 3 {
		t.Errorf("%d sockets were closed, want 3", closed)
	}

	// The kernel chooses.
	asksFor := func(text string) bool {
		return slices.ContainsFunc(r.k.calls, func(c string) bool { return strings.Contains(c, text) })
	}
	if !asksFor("list connections 0x1000000/0xff000000,") {
		t.Errorf("asked the kernel for: %q", r.k.calls)
	}

	enough := errors.New("enough")
	if err := h.flows(t.Context(), dial, time.Now, "", func(api.Flow) error { return enough }); !errors.Is(err, enough) || closed != 4 {
		t.Errorf("a reader that has had enough: %v, %d sockets were closed", err, closed)
	}
	// An agent that ends waits for no reader.
	n := 0
	err := h.flows(t.Context(), dial, time.Now, "", func(api.Flow) error { n++; stop(); return nil })
	if !errors.Is(err, api.ErrBusy) || n != 1 {
		t.Errorf("an agent that ends: %v after %d connections", err, n)
	}
}

func TestFlowOf(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	const began = 1_795_000_000
	now := time.Unix(began+90, 999)
	tests := map[string]struct {
		e    conntrack.Entry
		want string
	}{
		"TCP with NAT": {
			conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 6,
				Orig:   conntrack.Tuple{Src: addr("192.168.0.5"), Dst: addr("9.9.9.9"), SrcPort: 4000, DstPort: 443},
				Reply:  conntrack.Tuple{Src: addr("9.9.9.9"), Dst: addr("192.0.2.9"), SrcPort: 443, DstPort: 4001},
				Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusSrcNAT, TCPState: conntrack.TCPEstablished, Timeout: 300,
				Counted: true, Sent: conntrack.Counters{Packets: 2, Bytes: 100}, Received: conntrack.Counters{Packets: 3, Bytes: 4000}, Start: began * 1e9},
			`{"uplink":"a","protocol":"tcp","source":{"address":"192.168.0.5","port":4000,"id":null},"destination":{"address":"9.9.9.9","port":443,"id":null},` +
				`"nat":{"address":"192.0.2.9","port":4001,"id":null},"inbound":null,"state":"established",` +
				`"sent_packets":2,"sent_bytes":100,"received_packets":3,"received_bytes":4000,"age_seconds":90,"timeout_seconds":300}`,
		},
		"port forward, in a flowtable": {
			conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 6,
				Orig:   conntrack.Tuple{Src: addr("9.9.9.9"), Dst: addr("192.0.2.9"), SrcPort: 4000, DstPort: 80},
				Reply:  conntrack.Tuple{Src: addr("192.168.0.5"), Dst: addr("9.9.9.9"), SrcPort: 8080, DstPort: 4000},
				Status: conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusDstNAT | conntrack.StatusOffload},
			`{"uplink":"a","protocol":"tcp","source":{"address":"9.9.9.9","port":4000,"id":null},"destination":{"address":"192.0.2.9","port":80,"id":null},` +
				`"nat":null,"inbound":{"address":"192.168.0.5","port":8080,"id":null},"state":"assured",` +
				`"sent_packets":null,"sent_bytes":null,"received_packets":null,"received_bytes":null,"age_seconds":null,"timeout_seconds":null}`,
		},
		"one-way UDP6, clock set back": {
			conntrack.Entry{Family: conntrack.FamilyIPv6, Proto: 17,
				Orig:    conntrack.Tuple{Src: addr("fd00::5"), Dst: addr("2001:db8::9"), SrcPort: 4000, DstPort: 53},
				Reply:   conntrack.Tuple{Src: addr("2001:db8::9"), Dst: addr("2001:db8:a::9"), SrcPort: 53, DstPort: 4000},
				Status:  conntrack.StatusSrcNAT,
				Counted: true, Start: (began + 1000) * 1e9, Timeout: 30},
			`{"uplink":"a","protocol":"udp","source":{"address":"fd00::5","port":4000,"id":null},"destination":{"address":"2001:db8::9","port":53,"id":null},` +
				`"nat":{"address":"2001:db8:a::9","port":4000,"id":null},"inbound":null,"state":"unreplied",` +
				`"sent_packets":0,"sent_bytes":0,"received_packets":0,"received_bytes":0,"age_seconds":0,"timeout_seconds":30}`,
		},
		"echo whose id was changed": {
			conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 1,
				Orig:   conntrack.Tuple{Src: addr("192.168.0.5"), Dst: addr("9.9.9.9"), ICMPID: 7, ICMPType: 8},
				Reply:  conntrack.Tuple{Src: addr("9.9.9.9"), Dst: addr("192.0.2.9"), ICMPID: 8},
				Status: conntrack.StatusSeenReply | conntrack.StatusSrcNAT, Timeout: 30},
			`{"uplink":"a","protocol":"icmp","source":{"address":"192.168.0.5","port":null,"id":7},"destination":{"address":"9.9.9.9","port":null,"id":null},` +
				`"nat":{"address":"192.0.2.9","port":null,"id":8},"inbound":null,"state":"replied",` +
				`"sent_packets":null,"sent_bytes":null,"received_packets":null,"received_bytes":null,"age_seconds":null,"timeout_seconds":30}`,
		},
		"DCCP that the kernel does not know": {
			conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 33,
				Orig:    conntrack.Tuple{Src: addr("192.168.0.5"), Dst: addr("9.9.9.9")},
				Reply:   conntrack.Tuple{Src: addr("9.9.9.9"), Dst: addr("192.0.2.9")},
				Status:  conntrack.StatusSrcNAT,
				Timeout: 600},
			`{"uplink":"a","protocol":"dccp","source":{"address":"192.168.0.5","port":null,"id":null},"destination":{"address":"9.9.9.9","port":null,"id":null},` +
				`"nat":{"address":"192.0.2.9","port":null,"id":null},"inbound":null,"state":"unreplied",` +
				`"sent_packets":null,"sent_bytes":null,"received_packets":null,"received_bytes":null,"age_seconds":null,"timeout_seconds":600}`,
		},
		"ESP without NAT": {
			conntrack.Entry{Family: conntrack.FamilyIPv4, Proto: 50,
				Orig:    conntrack.Tuple{Src: addr("203.0.113.5"), Dst: addr("9.9.9.9")},
				Reply:   conntrack.Tuple{Src: addr("9.9.9.9"), Dst: addr("203.0.113.5")},
				Timeout: 600},
			`{"uplink":"a","protocol":"proto-50","source":{"address":"203.0.113.5","port":null,"id":null},"destination":{"address":"9.9.9.9","port":null,"id":null},` +
				`"nat":null,"inbound":null,"state":"unreplied",` +
				`"sent_packets":null,"sent_bytes":null,"received_packets":null,"received_bytes":null,"age_seconds":null,"timeout_seconds":600}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := json.Marshal(flowOf(tt.e, "a", now))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
