package doctor

import (
	"slices"

	"multiroute/nat"
)

// bindPriority is where we choose the address that a connection leaves with
// (nft: mangle).
const bindPriority = -150

// InOurWay looks at what other programs' rules do to packets of ours, in the
// Tables; it needs no other facts than Config, Plan and Kernel's links.
func InOurWay(f *Facts) []Finding {
	if f.Tables == nil {
		return nil
	}
	var all []Finding
	for i := range f.Tables.Chains {
		c := &f.Tables.Chains[i]
		if c.Type == "" || c.Hook == "" {
			continue
		}
		var effects []nat.Effect
		for _, v6 := range families(f, c) {
			for _, w := range f.crossing(c.Hook, v6) {
				for _, e := range f.Tables.Walk(c, w).Effects {
					if !slices.Contains(effects, e) {
						effects = append(effects, e)
					}
				}
			}
		}
		all = append(all, disturbing(f, c, effects)...)
	}
	return all
}

// crossing are the packets of ours that a hook sees.
func (f *Facts) crossing(hook nat.Hook, v6 bool) []nat.Sight {
	var all []nat.Sight
	for _, w := range f.ways(v6) {
		s := w.sight
		switch hook {
		case nat.Prerouting, nat.Input:
			s.Out, s.OutIndex = "", 0
		case nat.Postrouting, nat.Forward:
		default:
			continue
		}
		all = append(all, s)
	}
	for _, up := range f.interfaces() {
		switch hook {
		case nat.Output, nat.Postrouting:
			all = append(all, f.sight("", up, v6))
		case nat.Prerouting, nat.Input:
			s := f.sight(up, "", v6)
			s.Reply = true
			all = append(all, s)
		}
	}
	return all
}

func disturbing(f *Facts, c *nat.ForeignChain, effects []nat.Effect) []Finding {
	mask := f.Config.Router.MarkMask
	subject := "chain " + c.String()
	var bits, connBits uint32
	var all []Finding
	for _, e := range effects {
		switch e.Kind {
		case nat.EffectMark:
			bits |= e.Bits & mask
		case nat.EffectConnMark:
			connBits |= e.Bits & mask
		case nat.EffectSNAT, nat.EffectMasquerade:
			if c.Hook == nat.Postrouting && c.Priority <= bindPriority {
				all = append(all, finding(Warning, subject, "give the chain priority srcnat (100)", "it changes sources before we do (priority %d): connections may leave with an address of another uplink", c.Priority))
			}
		case nat.EffectNotrack:
			all = append(all, finding(Warning, subject, "except the LAN's and the uplinks' interfaces from its notrack", "it keeps packets from conntrack: they are neither NATed nor kept on an uplink"))
		case nat.EffectOffload:
			all = append(all, finding(Warning, subject, "take the flow offload out, or keep the uplinks out of its flowtable", "it moves connections into a flowtable: they pass all rules by, and stay on a dead uplink for a second or longer"))
		}
	}
	const remedy = "have it write under a mask that leaves ours out, or choose another mark_mask (agent purge first)"
	if bits != 0 {
		all = append(all, finding(Warning, subject, remedy, "it may write bits %#08x of the packet's mark, which are ours (mark_mask %#08x): packets can leave by the wrong uplink", bits, mask))
	}
	if connBits != 0 {
		all = append(all, finding(Warning, subject, remedy, "it may write bits %#08x of the connection's mark, which are ours (mark_mask %#08x): connections can change their uplink", connBits, mask))
	}
	return all
}
