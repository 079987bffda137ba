package agent

import (
	"fmt"
	"slices"

	"multiroute/agent/plan"
	"multiroute/conntrack"
	"multiroute/nat"
)

// endOf ends those of an uplink's connections that began behind the router and
// are certainly of policies in e: others stay there. It takes time in proportion
// to the number of connections.
func (d *daemon) endOf(t tracker, e plan.End, p plan.Plan) error {
	var ended []conntrack.Entry
	err := t.Each(conntrack.Filter{Mark: e.Mark, Mask: p.NAT.Mask}, func(c conntrack.Entry) error {
		outgoing := c.Status&conntrack.StatusSrcNAT != 0
		if outgoing && c.Family == uint8(e.Family) && !slices.ContainsFunc(policiesOf(c, p), func(id int) bool { return !e.Of.Has(id) }) {
			ended = append(ended, c)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for connections that move to a better uplink: %w", err)
	}
	_, err = t.DeleteAll(ended)
	return err
}

// policiesOf returns the IDs of the policies to which the rules may have sent a
// connection: several where they ask for what conntrack does not know.
func policiesOf(c conntrack.Entry, p plan.Plan) []int {
	packet := nat.Packet{In: "?", Source: c.Orig.Src, Destination: c.Orig.Dst, Protocol: c.Proto, SourcePort: c.Orig.SrcPort, DestPort: c.Orig.DstPort}
	if p.Own(c.Orig.Src) {
		packet.In = ""
	}
	var ids []int
	for _, r := range p.NAT.Rules {
		known := r
		known.Interfaces, known.MACs, known.DSCP, known.UIDs, known.ToLists = nil, nil, nil, nil, nil
		if !known.Matches(packet, nil) {
			continue
		}
		ids = append(ids, int(r.Policy/(p.NAT.Mask&-p.NAT.Mask)))
		if len(r.Interfaces)+len(r.MACs)+len(r.DSCP)+len(r.UIDs)+len(r.ToLists) == 0 {
			return ids
		}
	}
	return append(ids, p.Policies[0].ID)
}
