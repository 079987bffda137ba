//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// connectionOn opens connections until one is on an uplink.
func (h *house) connectionOn(ctx context.Context, u *lab.Uplink, v6 bool) *lab.Conn {
	h.t.Helper()
	for range 200 {
		c, err := lab.Connect(ctx, h.Client(), lab.Socket{}, netip.AddrPortFrom(internet(v6).Addr(), lab.PortTCP))
		must(h.t, err)
		if c.Seen.Addr() == addressOf(u, v6) {
			h.t.Cleanup(func() { c.Close() })
			return c
		}
		c.Close()
	}
	h.t.Fatalf("none of 200 connections is on %s", u.Name)
	return nil
}

// TestReset: a client whose connection was lost with its uplink learns it from
// the router with its next packet, even if nobody beyond the router answers.
func TestReset(t *testing.T) {
	for name, o := range map[string]struct {
		build   func(lab.Options) (*lab.Topology, error)
		options lab.Options
	}{
		"one NIC per uplink":             {build: lab.NewRouter},
		"one NIC":                        {build: lab.NewSingleNIC},
		"one NIC, clients there as well": {lab.NewSingleNIC, lab.Options{LANOnNIC: true}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, o.build, o.options)
			h.start(ctx, rig.Config(h.Topology, nil))
			gone := h.Uplinks[1]
			lost := []*lab.Conn{h.connectionOn(ctx, gone, false), h.connectionOn(ctx, gone, true)}
			kept := []*lab.Conn{h.connectionOn(ctx, h.Uplinks[0], false), h.connectionOn(ctx, h.Uplinks[0], true)}
			table := fmt.Sprintf("[uplink.%s]\n", gone.Name)
			must(t, h.Reconfigure(ctx, strings.Replace(rig.Config(h.Topology, nil), table, table+"enabled = false\n", 1)))
			others := slices.DeleteFunc(slices.Clone(h.Uplinks), func(u *lab.Uplink) bool { return u == gone })
			h.spread(ctx, "one gone", others, others)
			for _, c := range kept {
				if err := c.Ping(time.Second); err != nil {
					t.Errorf("a connection of another uplink: %v", err)
				}
			}
			for _, u := range h.Uplinks { // from here on, only the router can answer
				must(t, u.Provider.Blackhole(true))
			}
			for _, c := range lost {
				begin := time.Now()
				if err := c.Ping(time.Second); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("a connection to %s of the uplink that is gone: %v, wanted a reset", c.RemoteAddr(), err)
				}
				t.Logf("%s: after %.1f ms", c.RemoteAddr(), ms(time.Since(begin)))
			}
		})
	}
}

// TestInvalidStays: what conntrack calls invalid does not leave; nor is it
// answered, because it may be a stray of a connection that is well.
func TestInvalidStays(t *testing.T) {
	ctx := deadline(t, time.Minute)
	h := newHouse(t, lab.NewRouter, lab.Options{})
	must(t, h.Topology.Router.Sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")) // the middle of an unknown connection is invalid
	h.start(ctx, rig.Config(h.Topology, nil))
	gone := h.Uplinks[1]
	lost := []*lab.Conn{h.connectionOn(ctx, gone, false), h.connectionOn(ctx, gone, true)}
	table := fmt.Sprintf("[uplink.%s]\n", gone.Name)
	must(t, h.Reconfigure(ctx, strings.Replace(rig.Config(h.Topology, nil), table, table+"enabled = false\n", 1)))
	for _, c := range lost {
		if err := c.Ping(300 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection to %s that the router does not know: %v, wanted no answer", c.RemoteAddr(), err)
		}
	}
}
