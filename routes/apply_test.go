package routes

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestAttempt: what is written when the kernel refuses something, and how much
// of the rest.
func TestAttempt(t *testing.T) {
	t.Parallel()
	lte := hop("198.18.3.1", "eth3", 13, 1)
	last := Route{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}
	all := Rule{Family: IPv4, Priority: 32765, Table: 20009}
	two := Spec{
		Rules:  []Rule{fwmark(10200, 1<<24, 20001), fwmark(10200, 2<<24, 20002), all},
		Routes: []Route{defaultVia(20001, dsl), defaultVia(20002, cable), defaultVia(20009, dsl, cable), last},
	}
	three := Spec{
		Rules:  append(slices.Clone(two.Rules), fwmark(10200, 3<<24, 20003)),
		Routes: []Route{defaultVia(20001, dsl), defaultVia(20002, cable), defaultVia(20003, lte), defaultVia(20009, dsl, cable, lte), last},
	}
	moved := hop("198.18.1.254", "eth1", 11, 1)
	for _, c := range []struct {
		name       string
		have, want Spec
		refuse     string // every operation with this in it
		with       unix.Errno
		written    []string // without the "ip -4"
		errors     []string
		staged     []string // written, if that is something else in stages
	}{
		{"a new uplink: the others are used, it is not", two, three, "via 198.18.3.1", unix.ENETUNREACH, []string{
			"route replace default table 20009 proto 77 nexthop via 198.18.1.1 dev eth1 weight 1 nexthop via 198.18.2.1 dev eth2 weight 1",
		}, []string{
			"ip -4 route replace default via 198.18.3.1 dev eth3 table 20003 proto 77: network is unreachable (the gateway is in no subnet",
			"not tried after an earlier error: ip -4 rule add pref 10200 fwmark 0x3000000/0xff000000 lookup 20003 proto 77",
		}, nil},
		{"all new", Spec{}, two, "via 198.18.1.1", unix.ENETUNREACH, []string{
			"route replace default via 198.18.2.1 dev eth2 table 20002 proto 77",
			"route replace default via 198.18.2.1 dev eth2 table 20009 proto 77",
			"route replace unreachable default table 20009 metric 4278198272 proto 77",
			"rule add pref 10200 fwmark 0x2000000/0xff000000 lookup 20002 proto 77",
			"rule add pref 32765 lookup 20009 proto 77",
		}, []string{"198.18.1.1", "not tried"}, nil},
		{"a failover while another's new gateway is refused", three,
			Spec{
				Rules:  []Rule{fwmark(10200, 1<<24, 20001), all, fwmark(10200, 3<<24, 20003)},
				Routes: []Route{defaultVia(20001, moved), defaultVia(20002, cable), defaultVia(20003, lte), defaultVia(20009, moved, lte), last},
			}, "via 198.18.1.254", unix.ENETUNREACH, []string{
				"route replace default via 198.18.3.1 dev eth3 table 20009 proto 77",
				"rule del pref 10200 fwmark 0x2000000/0xff000000 lookup 20002 proto 77",
			}, []string{"198.18.1.254"}, nil},
		{"nobody is left for a policy: it stays as it was", two,
			Spec{Rules: two.Rules, Routes: []Route{defaultVia(20001, moved), defaultVia(20002, cable), defaultVia(20009, moved), last}},
			"via 198.18.1.254", unix.EINVAL, nil, []string{"198.18.1.254", "not tried after an earlier error: ip -4 route replace default via 198.18.1.254 dev eth1 table 20009"}, nil},
		{"a table moves: without the new one the old one stays", two,
			Spec{Rules: []Rule{fwmark(10200, 1<<24, 20011), two.Rules[1], all}, Routes: append([]Route{defaultVia(20011, moved)}, two.Routes[1:]...)},
			"table 20011", unix.EINVAL, nil, []string{"table 20011", "rule add pref 10200 fwmark 0x1000000/0xff000000 lookup 20011 proto 77, ip -4 rule del pref 10200 fwmark 0x1000000/0xff000000 lookup 20001 proto 77, ip -4 route del default via 198.18.1.1 dev eth1 table 20001"}, nil},
		{"a rule that stays keeps its table", two, Spec{Rules: two.Rules[1:], Routes: two.Routes[1:]}, "rule del", unix.EINVAL, nil,
			[]string{"rule del pref 10200 fwmark 0x1000000", "not tried after an earlier error: ip -4 route del default via 198.18.1.1"}, nil},
		{"a last resort that is refused: what it replaces stays", Spec{Rules: two.Rules, Routes: two.Routes[:3]},
			Spec{Rules: two.Rules, Routes: append(slices.Clone(two.Routes[:2]), last)}, "unreachable", unix.EINVAL, nil,
			[]string{"unreachable default table 20009", "not tried after an earlier error: ip -4 route del default table 20009"}, nil},
		{"no privilege: one attempt is enough", Spec{}, two, " ", unix.EPERM, nil, []string{"needs root", "not tried after an earlier error: ip -4 route replace default via 198.18.2.1 dev eth2 table 20002"}, nil},
		{"the kernel takes no rules: routes alone are of no use", Spec{}, two, "rule", unix.EOPNOTSUPP, []string{
			"route replace default via 198.18.1.1 dev eth1 table 20001 proto 77",
			"route replace default via 198.18.2.1 dev eth2 table 20002 proto 77",
			"route replace default table 20009 proto 77 nexthop via 198.18.1.1 dev eth1 weight 1 nexthop via 198.18.2.1 dev eth2 weight 1",
			"route replace unreachable default table 20009 metric 4278198272 proto 77",
		}, []string{"rule add pref 10200 fwmark 0x1000000", "rule add pref 10200 fwmark 0x2000000/0xff000000 lookup 20002 proto 77, ip -4 rule add pref 32765"}, []string{
			"route replace default via 198.18.1.1 dev eth1 table 20001 proto 77",
			"route replace default via 198.18.2.1 dev eth2 table 20002 proto 77",
		}},
	} {
		for _, stages := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				ops := Diff(c.have, c.want)
				parts := [][]Op{ops}
				if s := Stage(ops, c.want); stages {
					parts = [][]Op{s.Before, s.After, s.Last}
				}
				a := newAttempt()
				var written []string
				var errs []error
				for _, part := range parts {
					errs = append(errs, a.apply(part, func(op Op) error {
						if strings.Contains(op.String(), c.refuse) {
							return c.with
						}
						written = append(written, strings.TrimPrefix(op.String(), "ip -4 "))
						return nil
					}))
				}
				err := errors.Join(errs...)
				if !errors.Is(err, c.with) {
					t.Fatalf("error %v, want %v in it", err, c.with)
				}
				wanted := slices.Clone(c.written)
				if stages { // another order; the errors say it a stage at a time
					if c.staged != nil {
						wanted = slices.Clone(c.staged)
					}
					slices.Sort(written)
					slices.Sort(wanted)
				} else {
					for _, want := range c.errors {
						if !strings.Contains(err.Error(), want) {
							t.Errorf("no %q in the error\n%v", want, err)
						}
					}
				}
				if diff := cmp.Diff(wanted, written); diff != "" {
					t.Errorf("stages %t: written (-want +got):\n%s", stages, diff)
				}
			})
		}
	}
}

// TestAttemptFamilies: what one family refuses does not hold the other up.
func TestAttemptFamilies(t *testing.T) {
	t.Parallel()
	tunnel := Nexthop{Interface: "ppp0", Index: 9, Weight: 1}
	four := defaultVia(20001, tunnel)
	six := Route{Family: IPv6, Table: 20001, Dst: IPv6.Default(), Metric: Metric6, Nexthops: []Nexthop{tunnel}}
	rule6 := fwmark(10200, 1<<24, 20001)
	rule6.Family = IPv6
	var written []string
	err := newAttempt().apply(Diff(Spec{}, Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001), rule6}, Routes: []Route{four, six}}), func(op Op) error {
		if op.Route != nil && op.Route.Family == IPv4 {
			return unix.ENETDOWN
		}
		written = append(written, op.String())
		return nil
	})
	want := []string{"ip -6 route replace default dev ppp0 table 20001 metric 1024 proto 77", "ip -6 rule add pref 10200 fwmark 0x1000000/0xff000000 lookup 20001 proto 77"}
	if diff := cmp.Diff(want, written); diff != "" || !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("error %v, written (-want +got):\n%s", err, diff)
	}
}

func TestBrief(t *testing.T) {
	t.Parallel()
	rule := fwmark(1, 0, 2)
	op := Op{Verb: Add, Rule: &rule}
	if got := brief(slices.Repeat([]Op{op}, 8)); !strings.HasSuffix(got, " and 3 more") || strings.Count(got, op.String()) != 5 {
		t.Errorf("%s", got)
	}
}

// TestAttemptLastResort: a rule may lead to a table where what was refused has a
// last resort behind it.
func TestAttemptLastResort(t *testing.T) {
	t.Parallel()
	last := Route{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}
	all := Rule{Family: IPv4, Priority: 32765, Table: 20009}
	for _, order := range [][]Route{{defaultVia(20009, dsl), last}, {last, defaultVia(20009, dsl)}} {
		var written []string
		err := newAttempt().apply(Diff(Spec{}, Spec{Rules: []Rule{all}, Routes: order}), func(op Op) error {
			if strings.Contains(op.String(), "via") {
				return unix.ENETDOWN
			}
			written = append(written, op.String())
			return nil
		})
		want := []string{"ip -4 route replace unreachable default table 20009 metric 4278198272 proto 77", "ip -4 rule add pref 32765 lookup 20009 proto 77"}
		if diff := cmp.Diff(want, written); diff != "" || !Refused(err) {
			t.Errorf("error %v, written (-want +got):\n%s", err, diff)
		}
	}
}

// TestRefused: which errors are about single uplinks, and which about all we do.
func TestRefused(t *testing.T) {
	t.Parallel()
	spec := Spec{Rules: []Rule{fwmark(10200, 1<<24, 20001)}, Routes: []Route{defaultVia(20001, dsl), defaultVia(20009, dsl, cable),
		{Family: IPv4, Table: 20009, Dst: IPv4.Default(), Metric: MetricLast, Unreachable: true}}}
	for _, c := range []struct {
		refuse string
		with   unix.Errno
		want   bool
	}{
		{"table 20001 proto", unix.EINVAL, true},
		{"table 20001 proto", unix.EPERM, false},
		{"dev eth", unix.ENETDOWN, true},
		{"nexthop", unix.ENODEV, true},
		{"nexthop", unix.EINVAL, false}, // perhaps there is no multipath
		{"unreachable", unix.EINVAL, false},
		{"rule add", unix.EINVAL, false},
	} {
		err := newAttempt().apply(Diff(Spec{}, spec), func(op Op) error {
			if strings.Contains(op.String(), c.refuse) {
				return c.with
			}
			return nil
		})
		for _, err := range []error{err, errors.Join(nil, err), errors.Join(err, errors.Join(err))} {
			if !errors.Is(err, c.with) || Refused(err) != c.want {
				t.Errorf("%q with %v: %t: %v", c.refuse, c.with, Refused(err), err)
			}
		}
		if Refused(errors.Join(err, errors.ErrUnsupported)) {
			t.Errorf("%q with %v and something else", c.refuse, c.with)
		}
	}
	if Refused(nil) {
		t.Error("nothing")
	}
}
