package api

import (
	"context"
	"fmt"
	"slices"
)

// A Peer is the process at the other end of a connection, as the kernel knew it when it
// connected.
type Peer struct {
	PID    int
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary groups
}

// String is for logs.
func (p Peer) String() string { return fmt.Sprintf("uid %d, pid %d", p.UID, p.PID) }

// in reports whether the peer is a member of the group; gid < 0 is no group at all.
func (p Peer) in(gid int) bool {
	return gid >= 0 && (int64(p.GID) == int64(gid) || slices.ContainsFunc(p.Groups, func(g uint32) bool {
		return int64(g) == int64(gid)
	}))
}

type peerKey struct{}

// PeerFrom returns the peer whose request led to this call of a Handler's method, for logs.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
