//go:build linux

package integration

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// flows runs agent flows --json.
func (h *house) flows(args ...string) []api.Flow {
	h.t.Helper()
	out, errOut, code, err := h.Command(append([]string{"flows", "--json"}, args...)...)
	if err != nil || code != 0 || errOut != "" {
		h.t.Fatalf("agent flows %q: code %d, %v: %s", args, code, err, errOut)
	}
	var all []api.Flow
	for line := range strings.Lines(out) {
		var f api.Flow
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			h.t.Fatalf("%q: %v", line, err)
		}
		all = append(all, f)
	}
	return all
}

// on returns the flows that are said to be on an uplink and to end at an address.
func on(all []api.Flow, u *lab.Uplink, protocol string, to netip.Addr) []api.Flow {
	return slices.DeleteFunc(slices.Clone(all), func(f api.Flow) bool {
		return f.Uplink == nil || *f.Uplink != u.Name || f.Protocol != protocol || f.Destination.Address != to
	})
}

// TestFlows compares what agent flows says with what the server and the providers see.
func TestFlows(t *testing.T) {
	ctx := deadline(t, 40*time.Second)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	for _, key := range []string{"acct", "timestamp"} {
		must(t, h.Topology.Router.Sysctl("net/netfilter/nf_conntrack_"+key, "1"))
	}
	h.start(ctx, h.forwarding())
	client, client6 := lab.ClientAddress(0)
	one, two := h.Uplinks[0], h.Uplinks[1]

	streams := []flow{h.flowOn(ctx, one, false), h.flowOn(ctx, two, false), h.flowOn(ctx, two, true)}
	answers := h.forwarded(ctx, one, 5555)
	tcp, err := lab.StartStreams(ctx, h.Client(), 1, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)), lab.StreamOptions{Interval: 20 * time.Millisecond})
	must(t, err)
	_, err = lab.Ping(ctx, h.Client(), lab.Socket{}, lab.InternetAddress6)
	must(t, err)

	all := h.flows()
	for _, s := range streams {
		from, to := client, lab.InternetAddress
		if s.v6 {
			from, to = client6, lab.InternetAddress6
		}
		// Of the streams that were ended on the way here, entries are left.
		seen := h.Server.Flow(s.Flow)
		i := slices.IndexFunc(on(all, s.on, "udp", to), func(f api.Flow) bool {
			return f.NAT != nil && f.NAT.Port != nil && seen.Sources[netip.AddrPortFrom(f.NAT.Address, *f.NAT.Port)] > 0
		})
		if i < 0 {
			t.Errorf("the stream on %s that the server gets from %v is not there:\n%s", s.on.Name, seen.Sources, written(all))
			continue
		}
		f := on(all, s.on, "udp", to)[i]
		if f.Source.Address != from || f.State != "unreplied" || f.Inbound != nil || f.Age == nil || *f.Age > 40 || f.Timeout == nil || *f.Timeout == 0 {
			t.Errorf("one-way stream: %s", written([]api.Flow{f}))
		}
		if f.SentPackets == nil || *f.SentPackets == 0 || *f.SentBytes < 28**f.SentPackets || *f.ReceivedPackets != 0 {
			t.Errorf("one-way stream: wrong counters: %s", written([]api.Flow{f}))
		}
	}

	forwards := on(all, one, "udp", one.Address.Addr())
	if len(forwards) != 1 || forwards[0].Source.String() != fmt.Sprintf("%s:5555", lab.InternetAddress) || forwards[0].NAT != nil ||
		forwards[0].Inbound == nil || forwards[0].Inbound.String() != fmt.Sprintf("%s:9999", client) || *forwards[0].ReceivedPackets == 0 {
		t.Errorf("port forward:\n%s", written(forwards))
	}
	web := slices.Concat(on(all, one, "tcp", lab.InternetAddress), on(all, two, "tcp", lab.InternetAddress))
	if len(web) != 1 || web[0].State != "established" || *web[0].ReceivedBytes == 0 {
		t.Errorf("TCP connection:\n%s", written(web))
	}
	echo := slices.Concat(on(all, one, "icmpv6", lab.InternetAddress6), on(all, two, "icmpv6", lab.InternetAddress6))
	if len(echo) != 1 || echo[0].State != "replied" || echo[0].Source.ID == nil || echo[0].Source.Port != nil || echo[0].NAT == nil {
		t.Errorf("echo:\n%s", written(echo))
	}

	// One uplink's are all on it, and the table has a row for each connection.
	for _, f := range h.flows(two.Name) {
		if f.Uplink == nil || *f.Uplink != two.Name {
			t.Errorf("not on %s: %s", two.Name, written([]api.Flow{f}))
		}
	}
	out, errOut, code, err := h.Command("flows", two.Name)
	if err != nil || code != 0 || !strings.Contains(out, lab.InternetAddress6.String()) || strings.Contains(out, "\n"+one.Name+" ") {
		t.Errorf("agent flows %s: code %d, %v: %s\n%s", two.Name, code, err, errOut, out)
	}
	if _, errOut, code, err = h.Command("flows", "nobody"); err != nil || code != 2 || !strings.Contains(errOut, `unknown uplink "nobody": known are `+one.Name) {
		t.Errorf("agent flows nobody: code %d, %v: %s", code, err, errOut)
	}
	answers.Stop()
	tcp.Stop()
	for _, s := range streams {
		s.Stop()
	}
}

func written(all []api.Flow) string {
	var lines []string
	for _, f := range all {
		b, err := json.Marshal(f)
		lines = append(lines, fmt.Sprintf("%s %v", b, err))
	}
	return strings.Join(lines, "\n")
}

// TestFlowsOfMany: the daemon's memory does not grow with the number of connections.
func TestFlowsOfMany(t *testing.T) {
	const n = 100_000
	ctx := deadline(t, 60*time.Second)
	h := newHouse(t, lab.NewRouter, lab.Options{NoIPv6: true})
	h.start(ctx, rig.Config(h.Topology, nil))
	s, err := h.Status(ctx)
	must(t, err)
	u := s.Uplinks[0]
	must(t, h.Topology.Router.Do(func() error { return insertConnections(n, u.Mark, u.Addresses[0]) }))

	count := func() int {
		t.Helper()
		seen := 0
		if err := api.Dial(h.Socket()).Flows(ctx, u.Name, func(api.Flow) error { seen++; return nil }); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	before := memory(t, h.PID(), "VmRSS")
	start := time.Now()
	if seen := count(); seen != n {
		t.Errorf("%d of %d connections were listed", seen, n)
	}
	took := time.Since(start)
	most := memory(t, h.PID(), "VmHWM")
	t.Logf("%d connections in %v; the daemon needed %d KiB before and %d KiB at most", n, took, before, most)
	if most > before+16<<10 {
		t.Errorf("the daemon needed %d KiB before and %d KiB at most: that is memory per connection", before, most)
	}
}

// memory reads a number of KiB out of /proc/PID/status.
func memory(t *testing.T, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s in:\n%s", key, text)
	return 0
}

// insertConnections makes UDP connections from a client to the internet as if they had been seen:
// in the namespace of the calling thread, with a mark, answered to an address.
func insertConnections(n int, mark uint32, nat netip.Addr) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	const (
		create = 1 << 8 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
		batch  = 200
	)
	tuple := func(src, dst netip.Addr, from, to uint16) func(*netlink.AttributeEncoder) error {
		return func(e *netlink.AttributeEncoder) error {
			e.Nested(1, func(e *netlink.AttributeEncoder) error {
				e.Bytes(1, src.AsSlice())
				e.Bytes(2, dst.AsSlice())
				return nil
			})
			e.Nested(2, func(e *netlink.AttributeEncoder) error {
				e.Uint8(1, unix.IPPROTO_UDP)
				e.Uint16(2, from)
				e.Uint16(3, to)
				return nil
			})
			return nil
		}
	}
	client, _ := lab.ClientAddress(0)
	var messages []netlink.Message
	for i := range n {
		from, to := uint16(i), uint16(443+i>>16)
		e := netlink.NewAttributeEncoder()
		e.ByteOrder = binary.BigEndian
		e.Nested(1, tuple(client, lab.InternetAddress, from, to)) // CTA_TUPLE_ORIG
		e.Nested(2, tuple(lab.InternetAddress, nat, to, from))    // CTA_TUPLE_REPLY
		e.Uint32(3, 1<<3)                                         // CTA_STATUS: IPS_CONFIRMED
		e.Uint32(7, 600)                                          // CTA_TIMEOUT
		e.Uint32(8, mark)                                         // CTA_MARK
		body, err := e.Encode()
		if err != nil {
			return err
		}
		m := netlink.Message{Data: append([]byte{unix.AF_INET, 0, 0, 0}, body...)}
		m.Header.Type, m.Header.Flags = create, netlink.Request|netlink.Create
		if messages = append(messages, m); len(messages) < batch && i < n-1 {
			continue
		}
		messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
		if _, err := c.SendMessages(messages); err != nil {
			return err
		}
		if _, err := c.Receive(); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		messages = messages[:0]
	}
	return nil
}
