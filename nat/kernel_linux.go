package nat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is our table in the kernel, in the network namespace it was opened in.
// It is used by one goroutine at a time.
type Table struct {
	write    *nftables.Conn
	writeRaw *netlink.Conn // write's socket, for deadlines
	read     *netlink.Conn
}

// timeout bounds every exchange with the kernel: no netlink call without one.
const timeout = 5 * time.Second

// buffer holds the acknowledgements and echoes of a whole transaction, about
// 1 KiB a rule.
const buffer = 4 << 20

// Open connects to the kernel's nftables. It needs CAP_NET_ADMIN from the
// first read on.
func Open() (*Table, error) {
	t := &Table{}
	if err := t.dial(); err != nil {
		t.Close()
		return nil, fmt.Errorf("opening an nftables socket: %w", err)
	}
	return t, nil
}

func (t *Table) dial() error {
	var err error
	if t.read, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("the kernel has no netfilter netlink: it was built without CONFIG_NETFILTER_NETLINK: %w", err)
		}
		return err
	}
	if err := t.read.SetReadBuffer(buffer); err != nil {
		return err
	}
	t.write, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.writeRaw = c
		return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	}))
	return err
}

// Close frees the sockets. The table stays.
func (t *Table) Close() {
	if t.write != nil {
		_ = t.write.CloseLasting()
	}
	if t.read != nil {
		_ = t.read.Close()
	}
	t.write, t.writeRaw, t.read = nil, nil, nil
}

// Write makes the kernel hold want, in one transaction, given what Read found.
// Chains that are right already are left alone.
func (t *Table) Write(have State, want Ruleset) error {
	table := t.write.AddTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	wanted := map[string]bool{}
	var refill []Chain
	for _, c := range want.Chains {
		wanted[c.Name] = true
		old, ok := have.chains[c.Name]
		if ok && old.base == c.base() && sameRules(old.rules, c.Rules) {
			continue
		}
		refill = append(refill, c)
		chain := &nftables.Chain{Table: table, Name: c.Name}
		if ok {
			t.write.FlushChain(chain)
			if old.base != c.base() {
				t.write.DelChain(chain)
			}
		}
	}
	// All chains exist before the first rule that leads to one.
	for _, c := range refill {
		t.write.AddChain(kernelChain(table, c))
	}
	for _, c := range refill {
		for _, r := range c.Rules {
			if err := t.addRule(table, c.Name, r); err != nil {
				return errors.Join(fmt.Errorf("chain %s: %s: %w", c.Name, r, err), t.redial())
			}
		}
	}
	// Stale chains go last: rules that led to them are gone by now.
	var stale []string
	for name := range have.chains {
		if !wanted[name] {
			stale = append(stale, name)
		}
	}
	slices.Sort(stale)
	for _, name := range stale {
		t.write.FlushChain(&nftables.Chain{Table: table, Name: name})
	}
	for _, name := range stale {
		t.write.DelChain(&nftables.Chain{Table: table, Name: name})
	}
	return t.commit("writing table inet " + TableName)
}

func kernelChain(table *nftables.Table, c Chain) *nftables.Chain {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook != "" {
		policy := nftables.ChainPolicyAccept
		priority := nftables.ChainPriority(c.Priority)
		chain.Type, chain.Hooknum, chain.Priority, chain.Policy = nftables.ChainType(c.Type), nftables.ChainHookRef(nftables.ChainHook(hookNumbers[c.Hook])), &priority, &policy
	}
	return chain
}

func (t *Table) addRule(table *nftables.Table, chain string, r Rule) error {
	e := encode(r)
	for _, s := range e.sets {
		s.set.Table = table
		if err := t.write.AddSet(s.set, s.elements); err != nil {
			return err
		}
		s.lookup.SetName, s.lookup.SetID = s.set.Name, s.set.ID
	}
	t.write.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: chain, Table: table}, Exprs: e.exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, r.Fingerprint())})
	return nil
}

// Delete removes our table. A missing table is no error.
func (t *Table) Delete() error {
	table := t.write.AddTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}) // so that deleting cannot fail
	t.write.DelTable(table)
	return t.commit("deleting table inet " + TableName)
}

// commit sends the queued operations as one transaction. After an error the
// outcome is unknown (an overflowing receive buffer loses acknowledgements of
// a committed transaction), so the connection is made anew and the caller must
// read again.
func (t *Table) commit(what string) error {
	if err := t.writeRaw.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("%s: %w", what, errors.Join(err, t.redial()))
	}
	err := t.write.Flush()
	if err == nil {
		return nil
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) > 1 {
		err = fmt.Errorf("%w (and %d more)", all.Unwrap()[0], len(all.Unwrap())-1)
	}
	return fmt.Errorf("%s: %w%s", what, errors.Join(err, t.redial()), hint(err))
}

func (t *Table) redial() error {
	t.Close()
	return t.dial()
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (it needs root, or CAP_NET_ADMIN)"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		return " (a kernel feature may be missing: it needs CONFIG_NF_TABLES_INET, NFT_CT, NFT_NAT, NFT_MASQ, NFT_FIB_INET, NF_CONNTRACK_MARK)"
	}
	return ""
}

// Read returns the state of our table.
func (t *Table) Read() (State, error) {
	for i := 0; ; i++ {
		s, err := t.readOnce()
		if !errors.Is(err, errInterrupted) || i == 30 {
			return s, err
		}
		time.Sleep(time.Millisecond)
	}
}

// errInterrupted is a dump during which the rules changed (NLM_F_DUMP_INTR).
var errInterrupted = errors.New("the rules changed while they were read")

func (t *Table) readOnce() (State, error) {
	tables, err := t.dump(unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_NAME)
	if err != nil {
		return State{}, err
	}
	if s, err := decodeState(tables, nil, nil); err != nil || !s.Exists {
		return s, err
	}
	chains, err := t.dump(unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE)
	if err != nil {
		return State{}, err
	}
	rules, err := t.dump(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE)
	if err != nil {
		return State{}, err
	}
	return decodeState(tables, chains, rules)
}

// dump asks for all objects of one kind in our table (the kernel filters rules
// by table, not tables and chains).
func (t *Table) dump(message netlink.HeaderType, tableAttribute uint16) ([]netlink.Message, error) {
	attrs := []byte(nil)
	if message == unix.NFT_MSG_GETRULE {
		ae := netlink.NewAttributeEncoder()
		ae.String(tableAttribute, TableName)
		var err error
		if attrs, err = ae.Encode(); err != nil {
			return nil, err
		}
	}
	if err := t.read.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("reading table inet %s: %w", TableName, err)
	}
	messages, err := t.read.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		what := fmt.Errorf("reading table inet %s: %w%s", TableName, err, hint(err))
		if errors.Is(err, unix.EINVAL) {
			what = fmt.Errorf("reading table inet %s: the kernel has no nftables: it was built without CONFIG_NF_TABLES: %w", TableName, err)
		}
		return nil, errors.Join(what, t.redial())
	}
	for _, m := range messages {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errInterrupted
		}
	}
	return messages, nil
}

// Watch calls changed after every nftables transaction of another process, and
// once at the start. changed must not block. Watch returns nil when ctx ends.
func Watch(ctx context.Context, changed func()) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("opening an nftables monitor: %w", err)
	}
	defer c.Close()
	if err := c.SetReadBuffer(2 * buffer); err != nil {
		return fmt.Errorf("nftables monitor: setting its buffer: %w", err)
	}
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("nftables monitor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	changed()
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed()
			continue
		case err != nil:
			return fmt.Errorf("nftables monitor: %w", err)
		}
		if slices.ContainsFunc(messages, foreign) {
			changed()
		}
	}
}

// foreign reports whether m ends a transaction that was not ours.
func foreign(m netlink.Message) bool {
	pid, ok := endOfTransaction(m)
	return ok && pid != uint32(os.Getpid())
}
