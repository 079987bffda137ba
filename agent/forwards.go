package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
)

// endForwards ends the connections by port forwards that have gone from the new
// plan, or lead elsewhere there, or not for those sources or uplinks. A
// connection remembers where it was led to, so it would go on for as long as it
// is used. Looking through all of them takes time in proportion to their
// number, and is done only when port forwards have changed.
func (d *daemon) endForwards(t tracker, gone []nat.PortForward, old, p plan.Plan) error {
	if len(gone) == 0 {
		return nil
	}
	before, now := byPort(gone), byPort(p.NAT.Forwards)
	var ended []conntrack.Entry
	err := t.Each(conntrack.Filter{}, func(e conntrack.Entry) error {
		if e.Status&conntrack.StatusDstNAT == 0 {
			return nil
		}
		uplink, client := askedBy(e, old.NAT)
		if before.lead(e, uplink, client) && !now.lead(e, uplink, client) {
			ended = append(ended, e)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for connections of port forwards that have gone: %w", err)
	}
	n, err := t.DeleteAll(ended)
	if n > 0 {
		d.Log.Info("ending the connections of port forwards that have gone or lead elsewhere now", "connections", n)
	}
	return err
}

// lacking returns the forwards of old that are not in new.
func lacking(old, new []nat.PortForward) []nat.PortForward {
	if slices.EqualFunc(old, new, nat.PortForward.Equal) {
		return nil
	}
	index := byPort(new)
	return slices.DeleteFunc(slices.Clone(old), func(f nat.PortForward) bool {
		return slices.ContainsFunc(index[port{f.Protocol, f.Port}], f.Equal)
	})
}

// port is what a forward is asked by.
type port struct {
	protocol uint8
	number   uint16
}

// forwards finds port forwards by each of their ports.
type forwards map[port][]nat.PortForward

func byPort(all []nat.PortForward) forwards {
	index := forwards{}
	for _, f := range all {
		for n := int(f.Port); n <= max(int(f.Port), int(f.Last)); n++ {
			p := port{f.Protocol, uint16(n)}
			index[p] = append(index[p], f)
		}
	}
	return index
}

// lead reports whether one of the forwards can have made a connection what it
// is.
func (fs forwards) lead(e conntrack.Entry, uplink int, client bool) bool {
	to := netip.AddrPortFrom(e.Reply.Src, e.Reply.SrcPort)
	return slices.ContainsFunc(fs[port{e.Proto, e.Orig.DstPort}], func(f nat.PortForward) bool {
		return f.Leads(e.Proto, e.Orig.Src, e.Orig.DstPort, uplink, client, to)
	})
}

// askedBy returns the ID of the uplink whose forwards a connection met, and
// whether a client of the LAN asked; 0: none.
func askedBy(e conntrack.Entry, s nat.Spec) (uplink int, client bool) {
	for _, u := range s.Uplinks {
		if u.Mark != 0 && u.Mark == e.Mark&s.Mask {
			return u.ID, false
		}
	}
	for _, u := range s.Uplinks {
		if slices.Contains(u.Public, e.Orig.Dst) {
			return u.ID, true
		}
	}
	return 0, true
}

// around reports whether a connection goes from inside to inside by an address
// of the router's: it is no uplink's.
func around(e conntrack.Entry, inside []netip.Prefix) bool {
	return e.Status&conntrack.StatusDstNAT != 0 && !leaves(e.Orig.Src, inside) && !leaves(e.Reply.Src, inside)
}
