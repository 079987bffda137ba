package agent

import (
	"multiroute/conntrack"
	"multiroute/nat"
	"multiroute/routes"
)

// kernel is the three parts of the kernel that we write to.
type kernel struct {
	router *routes.Kernel
	table  *nat.Table
	conns  *conntrack.Conn // nil until connections asks for it
}

// openKernel opens routing and nftables in the network namespace of the
// calling thread. The caller must Close what it returns.
func openKernel() (*kernel, error) {
	k := &kernel{}
	var err error
	if k.router, err = routes.Open(); err != nil {
		return nil, err
	}
	if k.table, err = nat.Open(); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// connections opens the table of connections when it is first asked for: to
// look at the rest, and to take it away, a kernel without ctnetlink will do.
func (k *kernel) connections() (*conntrack.Conn, error) {
	var err error
	if k.conns == nil {
		k.conns, err = conntrack.Dial()
	}
	return k.conns, err
}

// Close frees the sockets. What was written stays.
func (k *kernel) Close() {
	k.router.Close()
	if k.table != nil {
		k.table.Close()
	}
	if k.conns != nil {
		_ = k.conns.Close() // nothing was left to write
	}
}
