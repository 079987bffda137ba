package conntrack

import (
	"fmt"
	"math/bits"
	"strings"
)

// Status is a set of bits that say what the kernel knows about a connection:
// enum ip_conntrack_status of include/uapi/linux/netfilter/nf_conntrack_common.h.
type Status uint32

// The bits of a Status.
const (
	// StatusExpected: another connection announced this one (IPS_EXPECTED), as FTP does.
	StatusExpected Status = 1 << iota

	// StatusSeenReply: packets went both ways (IPS_SEEN_REPLY).
	StatusSeenReply

	// StatusAssured: the connection is never dropped early to make room (IPS_ASSURED).
	StatusAssured

	// StatusConfirmed: the first packet has left the machine, the entry is in the table
	// (IPS_CONFIRMED).
	StatusConfirmed

	// StatusSrcNAT: the source of the original direction is changed (IPS_SRC_NAT).
	StatusSrcNAT

	// StatusDstNAT: the destination of the original direction is changed (IPS_DST_NAT).
	StatusDstNAT

	// StatusSeqAdjust: TCP sequence numbers are corrected (IPS_SEQ_ADJUST).
	StatusSeqAdjust

	// StatusSrcNATDone: it has been decided whether and how to change the source
	// (IPS_SRC_NAT_DONE). Without it no NAT rule has seen the connection yet.
	StatusSrcNATDone

	// StatusDstNATDone: as StatusSrcNATDone, for the destination (IPS_DST_NAT_DONE).
	StatusDstNATDone

	// StatusDying: the entry is being removed (IPS_DYING).
	StatusDying

	// StatusFixedTimeout: packets do not prolong the entry's life (IPS_FIXED_TIMEOUT).
	StatusFixedTimeout

	// StatusTemplate: the entry is a template, not a connection (IPS_TEMPLATE).
	StatusTemplate

	// StatusNATClash: the entry lost against one with the same tuple (IPS_NAT_CLASH,
	// IPS_UNTRACKED in old headers).
	StatusNATClash

	// StatusHelper: a helper was attached by a rule (IPS_HELPER).
	StatusHelper

	// StatusOffload: the connection is in a flowtable and passes by all rules (IPS_OFFLOAD).
	StatusOffload

	// StatusHWOffload: the network card forwards the connection (IPS_HW_OFFLOAD).
	StatusHWOffload
)

// StatusNAT holds the bits of which at least one is set where addresses are changed
// (IPS_NAT_MASK).
const StatusNAT = StatusSrcNAT | StatusDstNAT

// NATed reports whether the connection's source or destination is changed.
func (s Status) NATed() bool { return s&StatusNAT != 0 }

// String lists the names of the bits, separated by commas, as "seen-reply,assured".
// Unknown bits follow as a number; no bit at all is "0".
func (s Status) String() string {
	names := [...]string{
		"expected", "seen-reply", "assured", "confirmed", "snat", "dnat", "seq-adjust",
		"snat-done", "dnat-done", "dying", "fixed-timeout", "template", "nat-clash",
		"helper", "offload", "hw-offload",
	}
	if s == 0 {
		return "0"
	}
	out := make([]string, 0, bits.OnesCount32(uint32(s)))
	for i, name := range names {
		if s&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	if rest := s >> len(names) << len(names); rest != 0 {
		out = append(out, fmt.Sprintf("%#x", uint32(rest)))
	}
	return strings.Join(out, ",")
}
