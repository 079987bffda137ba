//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// Clients who stay on one uplink.

// stickyHouse is a house whose client has many addresses: as many clients.
type stickyHouse struct {
	*house
	t   *testing.T
	ctx context.Context
}

// Eight of them do all that a test wants; the others are for when chance has put
// all so far on one uplink.
const stickyClients, stickyBusy = 40, 8

func newStickyHouse(t *testing.T, topology func(lab.Options) (*lab.Topology, error)) *stickyHouse {
	t.Helper()
	return &stickyHouse{newHouse(t, topology, lab.Options{Uplinks: 3, ClientAddresses: stickyClients}), t, deadline(t, 2*time.Minute)}
}

// who is a client, in one of its families.
type who struct {
	client int
	v6     bool
}

func (w who) String() string { return fmt.Sprintf("client %d (IPv6 %v)", w.client, w.v6) }

func (w who) address() netip.Addr {
	four, six := lab.ClientAddress(w.client)
	if w.v6 {
		return six
	}
	return four
}

// everybody are these clients in both families.
func everybody(clients ...int) []who {
	var all []who
	for _, c := range clients {
		all = append(all, who{c, false}, who{c, true})
	}
	return all
}

// uses opens n connections of a client, to n servers, and returns the uplinks
// that they left by, sorted.
func (h *stickyHouse) uses(w who, n int) []string {
	h.t.Helper()
	target := lab.Target(lab.Everywhere)
	if w.v6 {
		target = lab.Everywhere6
	}
	return h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), n, target.From(w.address())))
}

func (h *stickyHouse) uplinksOf(w who, r lab.SpreadReport) []string {
	h.t.Helper()
	if r.Errors > 0 {
		h.t.Errorf("%s: %s", w, r)
	}
	var names []string
	for _, u := range h.Uplinks {
		if r.Sources[addressOf(u, w.v6)] > 0 {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names
}

// first opens one connection of a client and returns its uplink.
func (h *stickyHouse) first(w who) string {
	h.t.Helper()
	return strings.Join(h.uses(w, 1), "+")
}

// stay asserts that clients are where they were.
func (h *stickyHouse) stay(what string, n int, at map[who]string) {
	h.t.Helper()
	for w, want := range at {
		if got := h.uses(w, n); !slices.Equal(got, []string{want}) {
			h.t.Errorf("%s: %s was on %s, and is now on %v", what, w, want, got)
		}
	}
}

// remembered reports whether explain says that the client stays where it is.
func (h *stickyHouse) remembered(w who) (string, bool) {
	h.t.Helper()
	e, err := api.Dial(h.Socket()).Explain(h.ctx, api.ExplainRequest{From: w.address(), To: internet(w.v6).Addr(), Protocol: 6, ToPort: 80})
	must(h.t, err)
	if !e.Agrees {
		h.t.Errorf("%s: the kernel does not agree: %q", w, e.Why)
	}
	stays := slices.ContainsFunc(e.Why, func(s string) bool { return strings.Contains(s, " keeps this client ") })
	if e.Uplink == nil {
		return "", stays
	}
	return *e.Uplink, stays
}

func spreadOver(at map[who]string) map[string]int {
	n := map[string]int{}
	for _, u := range at {
		n[u]++
	}
	return n
}

// TestStickySource: all that a client does is on one uplink, through reload,
// restart, and the death of others; clients are on different ones.
func TestStickySource(t *testing.T) {
	for name, topology := range topologies {
		t.Run(name, func(t *testing.T) {
			h := newStickyHouse(t, topology)
			policy := "\n[policy.default]\nsticky = \"source\"\nsticky_timeout = \"1h\"\n"
			h.start(h.ctx, rig.Config(h.Topology, nil, policy))
			at := map[who]string{}
			for _, w := range everybody(0, 1, 2, 3, 4, 5, 6, 7) {
				if w.client > 5 && w.v6 {
					continue
				}
				if _, stays := h.remembered(w); stays {
					t.Errorf("%s is remembered before it did anything", w)
				}
				at[w] = h.first(w)
				if u, stays := h.remembered(w); !stays || u != at[w] {
					t.Errorf("%s is on %s, explained as %q, remembered %v", w, at[w], u, stays)
				}
			}
			h.stay("fifty servers", 50, at)
			for c := stickyBusy; c < stickyClients && len(spreadOver(at)) < 2; c++ {
				at[who{c, false}] = h.first(who{c, false})
			}
			t.Logf("clients: %v", spreadOver(at))
			if len(spreadOver(at)) < 2 {
				t.Errorf("all clients are on one uplink: %v", at)
			}
			must(t, h.Reconfigure(h.ctx, rig.Config(h.Topology, []int{1, 9, 3}, policy)))
			h.stay("other weights", 3, at)
			must(t, h.Reconfigure(h.ctx, strings.Replace(rig.Config(h.Topology, nil, policy), `"1h"`, `"2h"`, 1)))
			h.stay("another time", 3, at)
			must(t, h.End(syscall.SIGKILL))
			must(t, h.Run(h.ctx))
			h.stay("started again", 3, at)
			h.unchanged()

			// An uplink goes: only who was there moves, and stays on the new one.
			gone := h.Uplinks[1]
			h.do("uplink", "disable", gone.Name)
			moved := map[who]string{}
			for w, was := range at {
				now := h.first(w)
				if was != gone.Name && now != was || now == gone.Name {
					t.Errorf("%s disabled: %s moved from %s to %s", gone.Name, w, was, now)
				}
				moved[w] = now
			}
			h.stay("on the new uplink", 10, moved)
			h.do("uplink", "enable", gone.Name)
			h.stay("the old one is back", 10, moved)

			// One is removed from the configuration and added again.
			removed, without := h.Uplinks[2], *h.Topology
			without.Uplinks = without.Uplinks[:2]
			must(t, h.Reconfigure(h.ctx, rig.Config(&without, nil, policy)))
			for w, was := range moved {
				now := h.first(w)
				if was != removed.Name && now != was || now == removed.Name {
					t.Errorf("%s removed: %s moved from %s to %s", removed.Name, w, was, now)
				}
				moved[w] = now
			}
			must(t, h.Reconfigure(h.ctx, rig.Config(h.Topology, nil, policy)))
			h.stay("added again", 3, moved)
		})
	}
}

// TestStickyPairs: what a client does with one server is on one uplink, here for
// who a rule sends to such a policy.
func TestStickyPairs(t *testing.T) {
	h := newStickyHouse(t, lab.NewRouter)
	text := rig.Config(h.Topology, nil, `
[policy.pairs]
sticky = "source-destination"
[[rule]]
from = ["192.168.0.10", "fd00:1::a"]
policy = "pairs"
[[rule]]
from = ["192.168.0.12"]
policy = "keeps"
[policy.keeps]
sticky = "source"
`)
	h.start(h.ctx, text)
	for _, w := range everybody(0) {
		used := map[string]int{}
		for i := range 30 {
			_, to := lab.Everywhere(i)
			if w.v6 {
				_, to = lab.Everywhere6(i)
			}
			one := lab.To(to).From(w.address())
			first := h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), 1, one))
			if got := h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), 10, one)); len(got) != 1 || !slices.Equal(got, first) {
				t.Errorf("%s to %s: %v first, then %v", w, to, first, got)
			}
			used[strings.Join(first, "+")]++
		}
		t.Logf("%s: %v", w, used)
		if len(used) < 2 {
			t.Errorf("%s: all servers by one uplink", w)
		}
	}
	if got := h.uses(who{1, false}, 60); len(got) < 2 {
		t.Errorf("no rule: all by %v", got)
	}
	at := map[who]string{{2, false}: h.first(who{2, false})}
	h.stay("by a rule", 30, at)
}

// TestStickyTimeout: who does nothing for a while is forgotten; who begins
// connections is not.
func TestStickyTimeout(t *testing.T) {
	h := newStickyHouse(t, lab.NewRouter)
	h.start(h.ctx, rig.Config(h.Topology, nil, "\n[policy.default]\nsticky = \"source\"\nsticky_timeout = \"2s\"\n"))
	idle, busy := who{0, false}, who{1, true}
	h.first(idle)
	at := map[who]string{busy: h.first(busy)}
	begin := time.Now()
	h.until(20*time.Second, "the idle client is forgotten", func() bool {
		h.stay("busy", 1, at)
		_, stays := h.remembered(idle)
		return !stays
	})
	t.Logf("forgotten after %v", time.Since(begin))
	if time.Since(begin) < time.Second {
		t.Errorf("forgotten after %v", time.Since(begin))
	}
	h.stay("busy", 5, at)
}

// TestStickyTiers: when the better tier dies its clients move at once, and when
// it is back they move back, also in a rule's policy.
func TestStickyTiers(t *testing.T) {
	h := newStickyHouse(t, lab.NewRouter)
	better, worse, never := h.Uplinks[0], h.Uplinks[1], h.Uplinks[2]
	tier := fmt.Sprintf("tiers = [[%q], [%q, %q]]\nsticky = \"source\"\n", better.Name, worse.Name, never.Name)
	h.start(h.ctx, rig.Probing(h.Topology, nil, "[health]\nhold_down = \"1s\"\n[policy.default]\n"+tier+"[policy.other]\n"+tier,
		"[[rule]]\nfrom = [\"192.168.0.11\", \"fd00:1::b\"]\npolicy = \"other\"\n"))
	h.carry(h.ctx, []*lab.Uplink{better}, 5*time.Second)
	all := everybody(0, 1, 2, 3)
	at := map[who]string{}
	for _, w := range all {
		at[w] = better.Name
	}
	h.stay("better tier", 3, at)
	must(t, better.Provider.Blackhole(true))
	h.carry(h.ctx, []*lab.Uplink{worse, never}, 5*time.Second)
	h.until(2*time.Second, "the better tier's clients are forgotten", func() bool {
		return !slices.ContainsFunc(all, func(w who) bool { u, stays := h.remembered(w); return stays && u == better.Name })
	})
	for _, w := range all {
		at[w] = h.first(w)
	}
	h.stay("lower tier", 10, at)
	must(t, better.Provider.Blackhole(false))
	h.carry(h.ctx, []*lab.Uplink{better}, 15*time.Second)
	for _, w := range all {
		at[w] = better.Name
	}
	h.until(2*time.Second, "the lower tier's clients are forgotten", func() bool {
		return !slices.ContainsFunc(all, func(w who) bool { u, stays := h.remembered(w); return stays && u != better.Name })
	})
	h.stay("better tier again", 10, at)
}

// TestStickyPins: destinations that belong to one uplink stay with it, wherever
// their clients are, and move nobody.
func TestStickyPins(t *testing.T) {
	h := newStickyHouse(t, lab.NewRouter)
	_, pinned := lab.Everywhere(0)
	owner := h.Uplinks[0]
	text := rig.Config(h.Topology, nil, "\n[policy.default]\nsticky = \"source\"\n")
	h.start(h.ctx, strings.Replace(text, "[uplink."+owner.Name+"]\n", fmt.Sprintf("[uplink.%s]\ndestinations = [%q]\n", owner.Name, netip.PrefixFrom(pinned.Addr(), 32)), 1))
	toPin := func(w who) []string {
		return h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), 3, lab.To(pinned).From(w.address())))
	}
	elsewhere := func(int) (lab.Socket, netip.AddrPort) { return lab.Everywhere(7) }
	others := 0
	for c := range stickyClients {
		if c >= stickyBusy && others > 0 {
			break
		}
		w := who{c, false}
		if got := toPin(w); !slices.Equal(got, []string{owner.Name}) {
			t.Errorf("%s: to the destination of %s by %v", w, owner.Name, got)
		}
		if _, stays := h.remembered(w); stays {
			t.Errorf("%s is remembered where it had no choice", w)
		}
		first := h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), 1, lab.Target(elsewhere).From(w.address())))
		if !slices.Equal(first, []string{owner.Name}) {
			others++
		}
		if got := toPin(w); !slices.Equal(got, []string{owner.Name}) {
			t.Errorf("%s stays on %v: to the destination of %s by %v", w, first, owner.Name, got)
		}
		if got := h.uplinksOf(w, lab.Spread(h.ctx, h.Client(), 3, lab.Target(elsewhere).From(w.address()))); !slices.Equal(got, first) {
			t.Errorf("%s moved from %v to %v", w, first, got)
		}
	}
	if others == 0 {
		t.Error("all clients are on the uplink with the destination")
	}
}
