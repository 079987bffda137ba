//go:build !linux

package api

import (
	"errors"
	"net"
)

// A Listener exists on Linux only.
type Listener struct {
	*net.UnixListener
	GID      int
	Warnings []string
}

// Listen returns errors.ErrUnsupported.
func Listen(path, group string) (*Listener, error) { return nil, errors.ErrUnsupported }

func credentials(net.Conn) (Peer, error) { return Peer{}, errors.ErrUnsupported }
