package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"multiroute/agent/api"
)

// someFlows are of every kind.
func someFlows() []api.Flow {
	at := func(a string, port uint16) api.Endpoint {
		return api.Endpoint{Address: netip.MustParseAddr(a), Port: new(port)}
	}
	echo := func(a string, id uint16) api.Endpoint {
		return api.Endpoint{Address: netip.MustParseAddr(a), ID: new(id)}
	}
	plain := func(a string) api.Endpoint { return api.Endpoint{Address: netip.MustParseAddr(a)} }
	return []api.Flow{
		{Uplink: new("dsl"), Protocol: "tcp", Source: at("192.168.0.10", 40000), Destination: at("203.0.113.9", 443), NAT: new(at("198.51.100.7", 40001)), State: "established",
			SentPackets: new(uint64(12)), SentBytes: new(uint64(1536)), ReceivedPackets: new(uint64(20)), ReceivedBytes: new(uint64(3 << 20)),
			Age: new(int64(3725)), Timeout: new(uint32(431999))},
		{Uplink: new("lte"), Protocol: "udp", Source: at("2001:db8::7", 5000), Destination: at("2001:db8:1::1", 53), State: "unreplied", Timeout: new(uint32(29))},
		{Uplink: new("dsl"), Protocol: "icmp", Source: echo("192.168.0.10", 77), Destination: plain("203.0.113.9"), NAT: new(echo("198.51.100.7", 78)), State: "replied", Timeout: new(uint32(30))},
		{Uplink: new("dsl"), Protocol: "tcp", Source: at("203.0.113.5", 1234), Destination: at("198.51.100.7", 80), Inbound: new(at("192.168.0.20", 8080)), State: "time-wait", Timeout: new(uint32(100))},
		{Protocol: "proto-50", Source: plain("192.168.0.11"), Destination: plain("203.0.113.9"), State: "assured"},
	}
}

// Flows implements api.Handler.
func (*fakeAgent) Flows(_ context.Context, uplink string, each func(api.Flow) error) error {
	if uplink != "" && uplink != "dsl" && uplink != "lte" {
		return api.UnknownUplink(uplink, []string{"dsl", "lte"})
	}
	for _, f := range someFlows() {
		if uplink != "" && (f.Uplink == nil || *f.Uplink != uplink) {
			continue
		}
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// TestKept: what is said of columns in which nothing is known.
func TestKept(t *testing.T) {
	t.Parallel()
	aged := api.Flow{Age: new(int64(0))}
	counted := api.Flow{SentBytes: new(uint64(0)), ReceivedBytes: new(uint64(0))}
	const acct, timestamp = "net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_timestamp=1"
	for _, c := range []struct {
		name             string
		flows            []api.Flow
		columns, sysctls string // "": nothing is said
	}{
		{"no connection", nil, "", ""},
		{"neither", []api.Flow{{}, {}}, "AGE, SENT and RECEIVED", acct + " " + timestamp},
		{"no bytes", []api.Flow{{}, aged}, "SENT and RECEIVED", acct},
		{"no age", []api.Flow{counted, {}}, "AGE", timestamp},
		{"both, of different ones", []api.Flow{counted, {}, aged, {}}, "", ""},
	} {
		var k kept
		for _, f := range c.flows {
			k.note(f)
		}
		want := ""
		if c.columns != "" {
			want = fmt.Sprintf("nothing is known for %s: the kernel keeps that of connections which begin after \"sysctl -w %s\"", c.columns, c.sysctls)
		}
		if got := k.hint(); got != want {
			t.Errorf("%s: got %q, want %q", c.name, got, want)
		}
	}
}

// TestTable: rows are printed as they come, with columns that only grow.
func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	tab := newTable(&b, "A", "LONG", "C")
	for i := range sample - 1 {
		if err := tab.row("xyz", fmt.Sprint(i), "-"); err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() > 0 {
		t.Error("printed before the columns were known")
	}
	for _, c := range []string{"ä", "ä", "much longer", "a"} {
		if err := tab.row(c, "1", "-"); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(b.String(), "\n"); lines < sample {
		t.Errorf("%d lines are there while the list goes on", lines)
	}
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(b.String(), "\n")
	got := strings.Join(lines[:2], "") + strings.Join(lines[sample:], "")
	const want = "A    LONG  C\nxyz  0     -\nä    1     -\nä    1     -\nmuch longer  1     -\na            1     -\n"
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
