package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"multiroute/agent/api"
	"multiroute/conntrack"
)

// lister lists connections. It has a socket of its own for each list: a list takes as long
// as its reader does, and must hold up neither a failover nor the counting.
type lister interface {
	Each(conntrack.Filter, func(conntrack.Entry) error) error
	Close() error
}

func dialLister() (lister, error) { return conntrack.Dial() }

// Flows implements api.Handler.
func (h *handler) Flows(ctx context.Context, uplink string, each func(api.Flow) error) error {
	return h.flows(ctx, dialLister, time.Now, uplink, each)
}

// flows asks the owner for the marks, and the kernel for the connections.
func (h *handler) flows(ctx context.Context, dial func() (lister, error), now func() time.Time, uplink string, each func(api.Flow) error) (err error) {
	names := map[uint32]string{}
	var filter conntrack.Filter
	var mask uint32
	if asked := h.ask(ctx, func() {
		mask = h.d.cfg.Router.MarkMask
		var known []string
		for _, u := range h.d.plan.Uplinks {
			known = append(known, u.Name)
			names[u.Mark] = u.Name
			if u.Name == uplink {
				filter = conntrack.Filter{Mark: u.Mark, Mask: mask}
			}
		}
		if uplink != "" && filter.Mask == 0 {
			err = api.UnknownUplink(uplink, known)
		}
	}); asked != nil {
		return asked
	}
	if err != nil {
		return err
	}
	l, err := dial()
	if err != nil {
		return err
	}
	err = l.Each(filter, func(e conntrack.Entry) error {
		mark := e.Mark & mask
		if mark == 0 {
			return nil // not ours
		}
		if h.ctx.Err() != nil {
			return api.ErrBusy // the agent ends, and waits for nobody
		}
		return each(flowOf(e, names[mark], now()))
	})
	return errors.Join(err, l.Close())
}

// flowOf describes a connection; uplink may be empty.
func flowOf(e conntrack.Entry, uplink string, now time.Time) api.Flow {
	f := api.Flow{
		Protocol:    conntrack.ProtocolName(e.Proto),
		Source:      source(e, e.Orig),
		Destination: destination(e, e.Orig),
		State:       flowState(e),
	}
	if uplink != "" {
		f.Uplink = &uplink
	}
	// The answers go to what the source was changed to, and come from what the destination
	// was changed to.
	answers := e.Reply
	answers.Src, answers.Dst, answers.SrcPort, answers.DstPort = answers.Dst, answers.Src, answers.DstPort, answers.SrcPort
	if e.Status&conntrack.StatusSrcNAT != 0 {
		nat := source(e, answers)
		f.NAT = &nat
	}
	if e.Status&conntrack.StatusDstNAT != 0 {
		to := destination(e, answers)
		f.Inbound = &to
	}
	if e.Counted {
		f.SentPackets, f.SentBytes = &e.Sent.Packets, &e.Sent.Bytes
		f.ReceivedPackets, f.ReceivedBytes = &e.Received.Packets, &e.Received.Bytes
	}
	if e.Start != 0 {
		// The clock may have been set back since.
		age := max(0, int64(now.Sub(time.Unix(0, int64(e.Start)))/time.Second))
		f.Age = &age
	}
	if e.Status&conntrack.StatusOffload == 0 {
		f.Timeout = &e.Timeout
	}
	return f
}

func source(e conntrack.Entry, t conntrack.Tuple) api.Endpoint {
	end := api.Endpoint{Address: t.Src}
	switch {
	case conntrack.IsICMP(e.Proto):
		end.ID = &t.ICMPID
	case portsKnown(e, t):
		end.Port = &t.SrcPort
	}
	return end
}

func destination(e conntrack.Entry, t conntrack.Tuple) api.Endpoint {
	end := api.Endpoint{Address: t.Dst}
	if portsKnown(e, t) {
		end.Port = &t.DstPort
	}
	return end
}

// portsKnown reports whether the kernel tells connections of this protocol apart by ports:
// where it has no tracker for one, such as DCCP in new kernels, it tells none.
func portsKnown(e conntrack.Entry, t conntrack.Tuple) bool {
	return conntrack.HasPorts(e.Proto) && (e.Proto == unix.IPPROTO_GRE || t.SrcPort != 0 || t.DstPort != 0)
}

// flowState puts the kernel's knowledge into one word.
func flowState(e conntrack.Entry) string {
	switch {
	case e.Status&conntrack.StatusSeenReply == 0:
		return "unreplied"
	case e.TCPState != conntrack.TCPNone:
		return e.TCPState.String()
	case e.Status&conntrack.StatusAssured != 0:
		return "assured"
	}
	return "replied"
}
